//! Access logs, on log time, through the very pipeline of production: the same callers, bounds, policies, classes and
//! detection. It answers who did it, and what limits would have refused.
//!
//! A log tells of a request when it has ended. So the time line is that of completions; a slow request counts its whole
//! time at its end; and limits of what is in flight at once, which a log does not tell, refuse nothing here. Quotas that
//! a fleet shares are counted as those of one instance, and no Redis is asked.
//!
//! Lines of JSON: `{"t": 12.3, "caller": "a", "method": "GET", "route": "/v1/x", "status": 200, "latency_ms": 4.2}`
//! with `t` in seconds from any origin; `t` and `status` must be there. A caller that is missing or `unknown` is
//! `__unknown__`; what no header could be is percent-encoded in its name. Where the first `t` is negative, events have the log's own times, and a report has later days.
//!
//! The combined and the common format of Apache and nginx: the caller is the authenticated user, or else the address,
//! which is shown as it is: this is a tool for who may read the log anyway. The route is the path without its query, with
//! `{}` for numbers and long hexadecimal words. There is no latency. What keys the paths hold is not looked at.
//!
//! Lines that are up to 5 s out of order are put in order; later ones count at the time that has been reached. A status
//! of 499 is a client that went away. A file that begins as gzip does is unpacked, whatever its name.

mod date;
mod drive;
mod input;
mod line;
mod outcome;
mod text;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use self::drive::Drive;
use self::input::Input;
use self::line::Entry;
pub use self::outcome::{BadLine, Episode, Outcome};

/// Bad lines that are shown.
const SHOWN: usize = 10;

/// How lines are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Each line by its first character: `{` begins JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// The combined or common format of Apache and nginx.
    Combined,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "jsonl" => Ok(Self::Jsonl),
            "combined" => Ok(Self::Combined),
            _ => Err(format!(
                "{word:?} is no format; use auto, jsonl or combined"
            )),
        }
    }
}

/// What to replay, and where to write what is said.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut replay = callerid::replay::Replay::default();
/// replay.config = Some("callerid.toml".into());
/// println!("{}", replay.run("access.log.gz")?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Replay {
    /// How lines are read.
    pub format: Format,
    /// A `callerid.toml`: its limits refuse nothing, and what they would refuse is counted.
    pub config: Option<PathBuf>,
    /// Deploys of callers, one object a line: `{"t": 9.0, "caller": "a", "version": "v42"}`.
    pub deploys: Option<PathBuf>,
    /// Where to write events, one JSON object a line ([`crate::events`]).
    pub events: Option<PathBuf>,
    /// Where to write the report, as Markdown.
    pub report: Option<PathBuf>,
}

/// Why a log was not replayed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// A file could not be read or written.
    File(PathBuf, io::Error),
    /// The configuration cannot be used: every problem.
    Config(Vec<String>),
    /// No line could be read; the first ones, and why.
    NothingRead(Vec<BadLine>),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Config(problems) => f.write_str(&problems.join("\n")),
            Self::NothingRead(bad) => {
                f.write_str("no line could be read")?;
                bad.iter()
                    .try_for_each(|bad| write!(f, "\nline {}: {}", bad.number, bad.problem))
            }
        }
    }
}

impl std::error::Error for ReplayError {}

/// A deploy that somebody announces.
#[derive(Deserialize)]
struct Deploy {
    t: f64,
    caller: String,
    version: String,
}

impl Replay {
    /// Reads the log, or standard input for `-`, to its end.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written, a configuration with problems, or a log of which no line can be read.
    /// A log that breaks off after its first request is none: [`Outcome::broken_off`].
    pub fn run(&self, log: impl AsRef<Path>) -> Result<Outcome, ReplayError> {
        let log = log.as_ref();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| ReplayError::File(path.clone(), error)
        };
        let deploys = self.deploys()?;
        let events = match &self.events {
            Some(path) => {
                let file = File::create(path).map_err(failed(path))?;
                Some((path.clone(), BufWriter::new(file)))
            }
            None => None,
        };
        let mut drive = Drive::new(
            self.config.as_deref(),
            deploys,
            events,
            self.report.is_some(),
        );
        let log_failed = failed(log);
        let mut input = Input::open(log).map_err(&log_failed)?;
        let mut read = outcome::Read::default();
        loop {
            let line = match input.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) if read.requests == 0 => return Err(log_failed(error)),
                Err(error) => {
                    read.broken_off = Some(error.to_string());
                    break;
                }
            };
            read.lines += 1;
            let entry = match line {
                Ok([]) => continue,
                Ok(line) => Entry::parse(line, self.format),
                Err(problem) => Err(problem.to_owned()),
            };
            match entry {
                Ok(entry) => {
                    read.requests += 1;
                    drive.entry(entry)?;
                }
                Err(problem) => read.bad(problem),
            }
        }
        if read.requests == 0 && read.bad_lines > 0 {
            return Err(ReplayError::NothingRead(read.first_bad));
        }
        let outcome = drive.finish(read)?;
        if let Some(path) = &self.report {
            std::fs::write(path, outcome.markdown()).map_err(failed(path))?;
        }
        Ok(outcome)
    }

    /// The deploys, by their time.
    fn deploys(&self) -> Result<Vec<Deploy>, ReplayError> {
        let Some(path) = &self.deploys else {
            return Ok(Vec::new());
        };
        let failed = |error| ReplayError::File(path.clone(), error);
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let lines = text.lines().enumerate();
        let deploys = lines.filter(|(_, line)| !line.trim().is_empty());
        let deploys = deploys.map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                let problem = format!("line {}: {error}", index + 1);
                failed(io::Error::new(io::ErrorKind::InvalidData, problem))
            })
        });
        let mut deploys: Vec<Deploy> = deploys.collect::<Result<_, _>>()?;
        deploys.sort_by(|a, b| a.t.total_cmp(&b.t));
        Ok(deploys)
    }
}
