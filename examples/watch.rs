//! Reads `callerid.toml` again whenever it changes: `cargo run --features config --example watch -- callerid.toml`.
//!
//! It compares what stands in the file, not its time or its inode. So it also sees the swap of symbolic links by
//! which Kubernetes replaces a mounted ConfigMap, and an editor that writes in two steps costs one refused reload,
//! which changes nothing: a broken file leaves the old policies in force.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use callerid::{Callers, identify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("callerid.toml"), PathBuf::from);
    // Before it is read for the first time: what changes in between is read again, not missed.
    let seen = std::fs::read(&path).ok();
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .config(&path)?
        .build()?;
    println!("watching {} in mode {}", path.display(), callers.mode());
    // A service does this on a thread of its own: std::thread::spawn(move || watch(&callers, &path, seen)).
    watch(&callers, &path, seen);
    Ok(())
}

fn watch(callers: &Callers, path: &Path, mut seen: Option<Vec<u8>>) {
    loop {
        sleep(Duration::from_secs(1));
        let now = std::fs::read(path).ok();
        // A file that is gone for a moment is no change.
        if now.is_none() || now == seen {
            continue;
        }
        seen = now;
        match callers.reload([path]) {
            Ok(()) => println!("read again; mode {}", callers.mode()),
            Err(error) => error
                .problems()
                .for_each(|problem| eprintln!("not used: {problem}")),
        }
    }
}
