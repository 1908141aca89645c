//! Keeps what detection has learned in a file, so that a restart does not begin with ten blind minutes.
//!
//! ```text
//! cargo run --example remember -- /var/lib/prices/callerid.state
//! ```

#[path = "demo/learned.rs"]
mod learned;

use std::path::PathBuf;

use callerid::{Callers, identify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let file = file.ok_or("usage: remember FILE")?;
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .build()?;
    // Before the first request; then serve with `callers.layer()`, and keep it now and then, and at the end.
    println!("{}", learned::restore(&callers, &file));
    learned::keep(&callers, &file)?;
    println!(
        "kept in {}; again every {:?}",
        file.display(),
        learned::EVERY
    );
    Ok(())
}
