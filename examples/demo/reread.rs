//! The policies, read again when their file changes: see `examples/watch.rs`, which does nothing else.

use std::path::PathBuf;
use std::time::Duration;

use callerid::Callers;

const EVERY: Duration = Duration::from_secs(1);

/// A file, and what stood in it when it was last read.
pub(crate) struct Watched {
    path: PathBuf,
    seen: Option<Vec<u8>>,
}

impl Watched {
    /// To be called before the file is read for the first time: what changes in between is not missed.
    pub(crate) fn new(path: PathBuf) -> Self {
        let seen = std::fs::read(&path).ok();
        Self { path, seen }
    }

    /// Reads it again whenever something else stands in it. A broken file is said, and changes nothing.
    pub(crate) async fn follow(mut self, callers: Callers) {
        loop {
            tokio::time::sleep(EVERY).await;
            let now = std::fs::read(&self.path).ok();
            if now.is_none() || now == self.seen {
                continue;
            }
            self.seen = now;
            let (callers, path) = (callers.clone(), self.path.clone());
            // It may wait for a Redis. What is wrong is in the log.
            let _ = tokio::task::spawn_blocking(move || callers.reload([path])).await;
        }
    }
}
