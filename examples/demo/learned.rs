//! What detection has learned, in a file over a restart.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use callerid::Callers;

/// How often it is written.
pub(crate) const EVERY: Duration = Duration::from_secs(60);

/// Takes over what an earlier run has learned. Says what came of it: a file that is missing, damaged or too old leaves
/// everything as it is.
pub(crate) fn restore(callers: &Callers, file: &Path) -> String {
    // A device has no end.
    let is_other = fs::metadata(file).is_ok_and(|about| !about.is_file());
    if is_other {
        return format!(
            "{} is not a regular file: detection learns anew",
            file.display()
        );
    }
    let state = match fs::read(file) {
        Ok(state) => state,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return format!("{} is not there yet: detection learns anew", file.display());
        }
        Err(error) => return format!("{} cannot be read: {error}", file.display()),
    };
    match callers.restore(&state) {
        Ok(()) => format!("what was learned is back, from {}", file.display()),
        Err(error) => format!("{}: {error}; detection learns anew", file.display()),
    }
}

/// Writes what was learned, as a whole: beside, to the disk, and in the place of what was there.
pub(crate) fn keep(callers: &Callers, file: &Path) -> Result<(), String> {
    let wrong = |error: io::Error| {
        let file = file.display();
        format!("what was learned cannot be kept in {file}: {error}")
    };
    write(callers, file).map_err(wrong)
}

fn write(callers: &Callers, file: &Path) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let mut new = File::create(&beside)?;
    new.write_all(&callers.export_state())?;
    new.sync_all()?;
    fs::rename(&beside, file)
}
