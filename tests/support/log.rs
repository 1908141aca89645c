//! What is said through `tracing`.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

thread_local!(static HEARD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) });

/// What `f` says on its thread: a line for each event, with level, target, message and fields.
///
/// The subscriber is that of the process: with one of a thread, what another thread says first is never asked for
/// again.
pub fn logged(f: impl FnOnce()) -> Vec<String> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_writer(|| Heard)
            .init();
    });
    tracing::callsite::rebuild_interest_cache();
    HEARD.set(Some(Vec::new()));
    f();
    let text = String::from_utf8(HEARD.take().unwrap()).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

struct Heard;

impl io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        HEARD.with_borrow_mut(|heard| {
            if let Some(heard) = heard {
                heard.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
