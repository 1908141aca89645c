//! What survives a restart: incidents, pins, brakes, announced load and what is in hand, in a small file.
//!
//! The file is replaced as a whole: written beside, brought to the disk, renamed. The one before stays as
//! `<file>.previous`, and is read where the file itself makes no sense.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
#[cfg(feature = "redis")]
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[cfg(feature = "redis")]
use crate::admit::fleet::board::Board;
use crate::clock::Timestamp;
use crate::events::PROGRAM;
use crate::incidents::Incidents;
use crate::lock::lock;

/// Pins that are kept, the latest.
pub(crate) const PINS: usize = 200;
/// How often a change is made anew because another replica was first.
const TRIES: u32 = 8;
/// The largest file that is read.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What is kept. Times are Unix seconds. `more` is what another version keeps there: it stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    pub(crate) v: u32,
    pub(crate) service: String,
    pub(crate) incidents: Incidents,
    pub(crate) pins: Vec<KeptPin>,
    pub(crate) brakes: Vec<Brake>,
    /// Brakes of a fleet that somebody has just ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) released: Vec<Released>,
    pub(crate) expected: Vec<Expected>,
    pub(crate) hands: Vec<InHand>,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// Unix seconds as they are kept: to the microsecond, which survives the way there and back.
pub(crate) fn seconds(at: Timestamp) -> f64 {
    (at.as_nanos() / 1_000) as f64 / 1e6
}

/// The time of [`seconds`].
pub(crate) fn instant(seconds: f64) -> Timestamp {
    let micros = (seconds.max(0.0) * 1e6).round() as u64;
    Timestamp::from_nanos(micros.saturating_mul(1_000))
}

/// The author of what was kept before there was one.
fn program() -> String {
    PROGRAM.to_owned()
}

/// A pin on the time line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptPin {
    /// When it happened.
    pub(crate) t: f64,
    /// When it was said, where that is not the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) said: Option<f64>,
    pub(crate) caller: Option<String>,
    pub(crate) pin: String,
    pub(crate) version: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) on: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<String>,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// A clamp or a block that a person has set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Brake {
    pub(crate) caller: String,
    /// The quota; none lets nothing through.
    pub(crate) quota: Option<String>,
    pub(crate) until: f64,
    #[serde(default = "program")]
    pub(crate) author: String,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// Who has ended a clamp or a block before its time: the other replicas, which do the same, name them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Released {
    pub(crate) caller: String,
    pub(crate) author: String,
    pub(crate) t: f64,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// Load that was announced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expected {
    pub(crate) caller: String,
    pub(crate) factor: f64,
    pub(crate) until: f64,
    #[serde(default = "program")]
    pub(crate) author: String,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// A runaway that somebody has in hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InHand {
    pub(crate) caller: String,
    pub(crate) author: String,
    pub(crate) t: f64,
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// Where it is kept, and what was written last. Without a file it is kept in memory alone.
#[derive(Default)]
pub(crate) struct Keeper {
    path: Option<PathBuf>,
    kept: Mutex<Kept>,
    /// Held over a change, so that nobody who reads waits for a disk.
    changing: Mutex<()>,
    /// Where replicas share it, and the version that is known.
    #[cfg(feature = "redis")]
    pub(crate) board: Option<Arc<Board>>,
    #[cfg(feature = "redis")]
    pub(crate) token: Mutex<String>,
    /// Brakes and pins when this replica was as all are.
    #[cfg(feature = "redis")]
    pub(crate) base: Mutex<Kept>,
    /// Whether it was said that the file cannot be written.
    said: AtomicBool,
    /// Whether it was said that somebody else writes the file.
    foreign: AtomicBool,
    /// Whether a thread is about to write.
    writing: AtomicBool,
}

impl Keeper {
    /// What was kept before, or nothing. A file that makes no sense is put aside, and said. Where no file could be
    /// written, that is an error now, and not when somebody needs it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, String> {
        let shown = path.display();
        let kept = read(&path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        match File::create(beside(&path, ".draft")) {
            Ok(_) => drop(fs::remove_file(beside(&path, ".draft"))),
            // A disk that is full is no mistake of whoever named the file.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::error!(%error, path = %shown, "callerid: the state file cannot be written");
            }
            Err(error) => return Err(format!("{shown} cannot be written: {error}")),
        }
        Ok(Self {
            path: Some(path),
            kept: Mutex::new(kept),
            ..Self::default()
        })
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    pub(crate) fn has_file(&self) -> bool {
        self.path.is_some()
    }

    /// Whether what is kept looks so; while it is being changed it does, since nobody waits here.
    pub(crate) fn looks(&self, so: impl FnOnce(&Kept) -> bool) -> bool {
        match self.kept.try_lock() {
            Ok(kept) => so(&kept),
            Err(_) => true,
        }
    }

    /// Whether nobody else is about to write; then it is we, until [`Keeper::end`].
    pub(crate) fn begin(&self) -> bool {
        !self.writing.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end(&self) {
        self.writing.store(false, Ordering::Release);
    }

    /// Says that the file cannot be written, until it could be.
    pub(crate) fn say_once(&self, error: &io::Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "callerid: the state file cannot be written (said once)");
        }
    }

    /// Changes what is kept, all of it or nothing: where the file cannot be written, it stays as it was. One change
    /// at a time.
    pub(crate) fn change<T, E: From<io::Error>>(
        &self,
        mut change: impl FnMut(&mut Kept) -> Result<T, E>,
    ) -> Result<T, E> {
        let _one_at_a_time = lock(&self.changing);
        for _ in 0..TRIES {
            if let Some(changed) = self.change_once(&mut change)? {
                return Ok(changed);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotConnected, "others change it all the time").into())
    }

    /// Changes it, unless another replica was first.
    fn change_once<T, E: From<io::Error>>(
        &self,
        change: &mut impl FnMut(&mut Kept) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let before = lock(&self.kept).clone();
        let mut next = before.clone();
        next.v = 1;
        let changed = change(&mut next)?;
        if next == before {
            return Ok(Some(changed));
        }
        #[cfg(feature = "redis")]
        if self.board().is_some() {
            if !self.publish(&next)? {
                return Ok(None);
            }
            *lock(&self.kept) = next;
            self.save();
            return Ok(Some(changed));
        }
        if let Some(path) = &self.path {
            if let Ok(Some(found)) = parse(path)
                && found != before
                && !self.foreign.swap(true, Ordering::Relaxed)
            {
                let path = path.display();
                tracing::error!(
                    %path,
                    "callerid: another program writes the state file, and each undoes what the other did: give each its own (said once)"
                );
            }
            write(path, &next)?;
            self.said.store(false, Ordering::Relaxed);
        }
        *lock(&self.kept) = next;
        Ok(Some(changed))
    }

    /// Nobody changes it meanwhile; none where somebody does.
    #[cfg(feature = "redis")]
    pub(crate) fn try_alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.changing.try_lock().ok()
    }

    /// Writes a copy to the file, if there is one.
    #[cfg(feature = "redis")]
    pub(crate) fn save(&self) {
        if let Some(path) = &self.path {
            let kept = lock(&self.kept).clone();
            match write(path, &kept) {
                Ok(()) => self.said.store(false, Ordering::Relaxed),
                Err(error) => self.say_once(&error),
            }
        }
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path
        .file_name()
        .map_or_else(OsString::new, ToOwned::to_owned);
    name.push(suffix);
    path.with_file_name(name)
}

fn parse(path: &Path) -> io::Result<Option<Kept>> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        // A device has no end, and a pipe may have no beginning.
        Ok(about) if !about.is_file() => {
            let what = "it is not a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(_) => {}
    }
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(invalid("it is too large".to_owned()));
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| invalid(error.to_string()))
}

/// What is kept in a file, or in the one before it.
pub(crate) fn read(path: &Path) -> io::Result<Kept> {
    let problem = match parse(path) {
        Ok(Some(kept)) => return Ok(kept),
        Ok(None) => None,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Some(error),
        Err(error) => return Err(error),
    };
    let previous = parse(&beside(path, ".previous")).ok().flatten();
    if let Some(problem) = problem {
        tracing::error!(
            path = %path.display(), %problem, previous = previous.is_some(),
            "callerid: what was kept makes no sense; what was kept before it is used, if anything"
        );
    }
    Ok(previous.unwrap_or_default())
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(kept)?;
    let draft = beside(path, ".draft");
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    // What makes no sense is not worth keeping.
    if let Ok(Some(_)) = parse(path) {
        let previous = beside(path, ".previous");
        let _ = fs::remove_file(&previous);
        let _ = fs::hard_link(path, &previous).or_else(|_| fs::copy(path, &previous).map(|_| ()));
    }
    fs::rename(&draft, path)?;
    // The rename itself is on the disk once the folder is.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incidents::Post;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("callerid-kept-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn open_incident(keeper: &Keeper, name: &str) -> Result<(), io::Error> {
        keeper.change(|kept| {
            let post = Post {
                name: Some(name.to_owned()),
                ..Post::default()
            };
            kept.incidents.post(post, name, "a", 1.0).unwrap();
            Ok(())
        })
    }

    fn names(kept: &Kept) -> Vec<&str> {
        let names = kept.incidents.iter().map(|incident| incident.name.as_str());
        names.collect()
    }

    #[test]
    fn what_is_kept_is_there_again() {
        let path = folder("again").join("state.json");
        let keeper = Keeper::open(path.clone()).unwrap();
        open_incident(&keeper, "one").unwrap();
        open_incident(&keeper, "two").unwrap();
        let again = Keeper::open(path.clone()).unwrap();
        assert_eq!(*again.kept(), *keeper.kept());
        assert!(!beside(&path, ".draft").exists());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_torn_file_gives_way_to_the_one_before() {
        let path = folder("torn").join("state.json");
        let keeper = Keeper::open(path.clone()).unwrap();
        open_incident(&keeper, "one").unwrap();
        open_incident(&keeper, "two").unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let read = read(&path).unwrap();
            assert_eq!(names(&read), ["one"], "{length} bytes of {}", whole.len());
        }
        // A draft that was never finished is nothing.
        fs::write(&path, &whole).unwrap();
        fs::write(beside(&path, ".draft"), b"{").unwrap();
        assert_eq!(names(&read(&path).unwrap()), ["one", "two"]);
        // The next change does not put the torn file in the place of the whole one.
        fs::write(&path, b"{").unwrap();
        let keeper = Keeper::open(path.clone()).unwrap();
        open_incident(&keeper, "three").unwrap();
        fs::write(&path, b"{").unwrap();
        assert_eq!(names(&read(&path).unwrap()), ["one"]);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_another_version_keeps_stays() {
        let path = folder("more").join("state.json");
        let theirs = r#"{"v": 2, "moods": ["calm"],
            "incidents": [{"id": "1", "name": "slow", "created_at": 1, "state": "identified", "impact": "none", "eta": null,
                "fallback": null, "bridge": "tel", "updates": [{"t": 1, "state": "identified", "body": "", "author": "a", "to": "b"}]}],
            "pins": [{"t": 1, "caller": null, "pin": "flag", "version": null, "text": "x", "on": null, "link": "l"}],
            "brakes": [{"caller": "a", "quota": null, "until": 9, "why": "w"}],
            "expected": [{"caller": "a", "factor": 2, "until": 9, "who": "m"}],
            "hands": [{"caller": "a", "author": "b", "t": 1, "until": 9}]}"#;
        fs::write(&path, theirs).unwrap();
        let keeper = Keeper::open(path.clone()).unwrap();
        open_incident(&keeper, "two").unwrap();
        let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept["incidents"].as_array().unwrap().len(), 2);
        for (place, what) in [
            ("/moods/0", "calm"),
            ("/incidents/0/bridge", "tel"),
            ("/incidents/0/updates/0/to", "b"),
            ("/pins/0/link", "l"),
            ("/brakes/0/why", "w"),
            ("/expected/0/who", "m"),
        ] {
            assert_eq!(kept.pointer(place).unwrap(), what, "{place}");
        }
        assert_eq!(kept.pointer("/hands/0/until").unwrap(), 9);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn an_instant_is_kept_as_it_is() {
        for micros in (0..3_000_000).step_by(999) {
            let at = Timestamp::from_nanos(1_763_881_200_000_000_000 + micros * 1_000);
            let json = serde_json::to_string(&seconds(at)).unwrap();
            assert_eq!(instant(serde_json::from_str(&json).unwrap()), at);
        }
        assert_eq!(instant(-1.0), Timestamp::ZERO);
    }

    #[test]
    fn where_it_cannot_be_written_it_stays_as_it_was() {
        let folder = folder("full");
        let path = folder.join("state.json");
        let keeper = Keeper::open(path.clone()).unwrap();
        open_incident(&keeper, "one").unwrap();
        // A folder in the draft's place, as root may write anywhere.
        fs::create_dir(beside(&path, ".draft")).unwrap();
        open_incident(&keeper, "two").unwrap_err();
        assert_eq!(names(&keeper.kept()), ["one"]);
        assert_eq!(names(&read(&path).unwrap()), ["one"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
