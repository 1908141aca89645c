//! Replays an access log on log time and says who ran away, and what limits would have refused.
//!
//! ```text
//! cargo run --release --example replay -- [--format auto|jsonl|combined] [--config F] [--deploys F.jsonl]
//!     [--events F.jsonl] [--report F.md] LOG|-
//! ```

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use callerid::replay::Replay;

const USAGE: &str = "\
usage: replay [--format auto|jsonl|combined] [--config F] [--deploys F.jsonl] [--events F.jsonl] [--report F.md] LOG|-

  --format   how lines are read; auto tells by their first character
  --config   a callerid.toml: what its limits would have refused
  --deploys  one a line: {\"t\": 9.0, \"caller\": \"a\", \"version\": \"v42\"}
  --events   where to write what is said, one JSON object a line
  --report   where to write the report, as Markdown
  LOG        a file, packed with gzip or not; - is standard input";

fn read_args() -> Result<(Replay, OsString), String> {
    let mut replay = Replay::default();
    let mut log = None;
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        // Only a flag has to be text: a path need not be.
        let text = arg.to_string_lossy();
        if text.starts_with("--") && arg.to_str().is_none() {
            return Err(format!(
                "{arg:?} is not UTF-8; give the path as an argument of its own"
            ));
        }
        let (flag, joined) = match text.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.into())),
            _ => (&*text, None),
        };
        let mut value = || {
            let value: Option<OsString> = joined.clone().or_else(|| args.next());
            value.ok_or_else(|| format!("{flag} needs a value"))
        };
        match flag {
            "--format" => replay.format = value()?.to_string_lossy().parse()?,
            "--config" => replay.config = Some(value()?.into()),
            "--deploys" => replay.deploys = Some(value()?.into()),
            "--events" => replay.events = Some(value()?.into()),
            "--report" => replay.report = Some(value()?.into()),
            flag if flag.starts_with('-') && flag != "-" => {
                return Err(format!("unknown argument {flag:?}"));
            }
            _ if log.is_some() => return Err(format!("one log at a time; what is {arg:?}?")),
            _ => log = Some(arg),
        }
    }
    let log = log.ok_or("which log? give a file, or - for standard input")?;
    Ok((replay, log))
}

fn main() -> ExitCode {
    if std::env::args_os().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (replay, log) = match read_args() {
        Ok(read) => read,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match replay.run(&log) {
        Ok(outcome) => match write!(std::io::stdout(), "{outcome}") {
            // Whoever reads has seen enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                eprintln!("standard output: {error}");
                ExitCode::FAILURE
            }
            _ if outcome.broken_off().is_some() => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
