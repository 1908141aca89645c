//! Reads `callerid.toml` again whenever it changes: `cargo run --features config --example watch -- callerid.toml`.
//! Of several files, such as one of the organisation and one of the service, later ones win field by field.
//!
//! It compares what stands in the files, not their times or inodes. So it also sees the swap of symbolic links by
//! which Kubernetes replaces a mounted ConfigMap, and an editor that writes in two steps costs one refused reload,
//! which changes nothing: a broken file leaves the old policies in force.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use callerid::{Callers, identify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        paths.push("callerid.toml".into());
    }
    // Before they are read for the first time: what changes in between is read again, not missed.
    let seen = read(&paths);
    let mut builder = Callers::builder().identify(identify::header("x-client-id").verified());
    for path in &paths {
        builder = builder.config(path)?;
    }
    let callers = builder.build()?;
    println!("watching {paths:?} in mode {}", callers.mode());
    // A service does this on a thread of its own: std::thread::spawn(move || watch(&callers, &paths, seen)).
    watch(&callers, &paths, seen);
    Ok(())
}

/// What stands in the files, where all are there.
fn read(paths: &[PathBuf]) -> Option<Vec<Vec<u8>>> {
    paths.iter().map(|path| std::fs::read(path).ok()).collect()
}

fn watch(callers: &Callers, paths: &[PathBuf], mut seen: Option<Vec<Vec<u8>>>) {
    loop {
        sleep(Duration::from_secs(1));
        let now = read(paths);
        // A file that is gone for a moment is no change.
        if now.is_none() || now == seen {
            continue;
        }
        seen = now;
        match callers.reload(paths) {
            Ok(()) => println!("read again; mode {}", callers.mode()),
            Err(error) => error
                .problems()
                .for_each(|problem| eprintln!("not used: {problem}")),
        }
    }
}
