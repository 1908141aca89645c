//! What operators do: the brake, pins, incidents, the switch. Each is an event with its author.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::Problem;
use crate::admit::{Mode, Quota};
use crate::caller::valid_name_in;
use crate::callers::Callers;
use crate::events::Pin;
use crate::incidents::Post;
use crate::kept::Brake;
use crate::remember::{ChangeError, change_named};

/// Seconds: what is set at night should not be found again after a week.
const LONGEST: u64 = 7 * 86_400;

/// Bytes of a pin: all of them are kept, and shared.
const LONGEST_VERSION: usize = 100;
const LONGEST_TEXT: usize = crate::events::LONGEST;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    caller: String,
    /// For a clamp.
    quota: Option<String>,
    seconds: u64,
    /// Whether it is to survive a restart; where that fails, it is not done.
    #[serde(default = "yes")]
    keep: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    caller: String,
    #[serde(default = "yes")]
    keep: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    caller: String,
    factor: f64,
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledge {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPin {
    caller: Option<String>,
    pin: String,
    version: Option<String>,
    text: Option<String>,
    on: Option<bool>,
    t: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    mode: String,
}

fn yes() -> bool {
    true
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match &error {
            ChangeError::Post(post) if post.is_unknown() => Self::not_found(error.to_string()),
            ChangeError::Post(_) => Self::unprocessable(error.to_string()),
            ChangeError::Keep(cause) if cause.kind() == std::io::ErrorKind::NotConnected => {
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "{error}; nothing was changed here (a brake with \"keep\": false is set on this replica at once)"
                    ),
                )
            }
            ChangeError::Keep(_) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!(
                    "{error}; nothing was changed (a brake with \"keep\": false is set until the next restart)"
                ),
            ),
        }
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    // A list would be taken for the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::bad(
            "the body is not what is asked for: use a JSON object",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the body is not what is asked for: {error}");
        Problem::bad(detail)
    })
}

/// Does it, and says what was done and where. Writes the state file: not for a thread that serves requests.
pub(super) fn act(action: &str, callers: &Callers, body: &Bytes) -> Result<Value, Problem> {
    let mut answer = json!({});
    // What is not to be kept is not promised to anybody else.
    let mut shared = action != "mode";
    match action {
        "clamp" => {
            let hold: Hold = parse(body)?;
            shared = hold.keep;
            let quota = hold.quota.clone().unwrap_or_default();
            let quota: Quota = quota
                .parse()
                .map_err(|error| Problem::unprocessable(format!("quota: {error}")))?;
            if let Some(problem) = quota.problem() {
                return Err(Problem::unprocessable(format!(
                    "quota: \"{quota}\" {problem}"
                )));
            }
            let lasting = check(callers, &hold)?;
            keep(callers, &hold, Some(quota), lasting)?;
            let rate = Brake::new("", Some(quota), callers.now(), "").quota;
            let set = callers.clamp(&hold.caller, &rate.unwrap_or_default(), lasting);
            set.map_err(|error| Problem::unprocessable(error.to_string()))?;
            answer = json!({ "in_force": in_force(callers, &hold.caller), "mode": callers.mode() });
        }
        "block" => {
            let hold: Hold = parse(body)?;
            shared = hold.keep;
            if hold.quota.is_some() {
                return Err(Problem::unprocessable(
                    "quota: a block lets nothing through; use clamp",
                ));
            }
            let lasting = check(callers, &hold)?;
            keep(callers, &hold, None, lasting)?;
            callers.block(&hold.caller, lasting);
            answer = json!({ "mode": callers.mode() });
        }
        "release" => {
            let release: Release = parse(body)?;
            let brakes = callers.brakes();
            let held = brakes.iter().any(|brake| brake.caller == release.caller);
            shared = release.keep && held;
            let clamped = callers.upkeep().watch.clamped();
            if !held && clamped.iter().all(|of| of.caller != release.caller) {
                return Err(Problem::not_found(
                    "this caller is neither clamped nor blocked",
                ));
            }
            if shared {
                callers
                    .keep_brake(&release.caller, None)
                    .map_err(ChangeError::from)?;
            }
            callers.lift_clamp(&release.caller);
        }
        "expect" => {
            let expect: Expect = parse(body)?;
            known(callers, &expect.caller)?;
            if !(expect.factor >= 1.0 && expect.factor <= 1_000.0) {
                return Err(Problem::unprocessable(
                    "factor: use a number from 1 to 1000",
                ));
            }
            callers.expect(&expect.caller, expect.factor, lasting(expect.seconds)?);
        }
        "ack" => {
            let Acknowledge { id } = parse(body)?;
            if !callers.ack(&id) {
                return Err(Problem::not_found("no runaway of this id is open"));
            }
        }
        "pin" => callers.pin(pin(callers, parse(body)?)?),
        "mode" => {
            let Switch { mode } = parse(body)?;
            let mode: Mode = mode
                .parse()
                .map_err(|error| Problem::unprocessable(format!("mode: {error}")))?;
            callers.set_mode(mode);
        }
        "incident" => {
            let post: Post = parse(body)?;
            answer = json!({ "incident": callers.post_incident(post)? });
        }
        _ => return Err(Problem::not_found("there is no such action")),
    }
    if let Some(answer) = answer.as_object_mut() {
        // These hold all the same: somebody needs them now, and a tick writes them as soon as it can.
        if ["expect", "ack", "pin"].contains(&action)
            && let Err(error) = callers.upkeep().remember_now()
        {
            let problem = ChangeError::from(error).to_string();
            answer.insert("not_kept".to_owned(), problem.into());
        }
        let scope = if shared { callers.scope() } else { "replica" };
        let instance = &*callers.upkeep().watch.log.instance;
        answer.insert("scope".to_owned(), scope.into());
        answer.insert("instance".to_owned(), instance.into());
        answer.insert("author".to_owned(), callers.author().into());
    }
    Ok(answer)
}

fn lasting(seconds: u64) -> Result<Duration, Problem> {
    if !(1..=LONGEST).contains(&seconds) {
        let detail = format!("seconds: use a number from 1 to {LONGEST}");
        return Err(Problem::unprocessable(detail));
    }
    Ok(Duration::from_secs(seconds))
}

fn known(callers: &Callers, name: &str) -> Result<(), Problem> {
    let entry = callers.upkeep().core.registry.named(name);
    match entry {
        Some(_) if !name.starts_with("__") => Ok(()),
        Some(_) => Err(Problem::unprocessable(
            "caller: these are many; give their provenance a policy",
        )),
        // Another replica may have seen the caller; behind a balancer nobody chooses which one answers.
        None if callers.scope() == "fleet" && valid_name_in(name).is_some() => Ok(()),
        None => Err(Problem::not_found("there is no such caller")),
    }
}

/// What holds a caller now: a quota of its own that is smaller than its clamp stays in force.
fn in_force(callers: &Callers, name: &str) -> Value {
    let core = &callers.upkeep().core;
    let entry = core.registry.named(name);
    let found = entry.and_then(|entry| core.admission.quota_of(&entry.subject()));
    let clamped = |quota: Quota| {
        let mut held = core.admission.held().into_iter();
        held.any(|clamp| clamp.name == name && clamp.quota == Some(quota))
    };
    found.map_or(Value::Null, |(quota, scope)| {
        let by = if clamped(quota) { "clamp" } else { "policy" };
        json!({"quota": quota.to_string(), "scope": scope.as_str(), "by": by})
    })
}

fn check(callers: &Callers, hold: &Hold) -> Result<Duration, Problem> {
    known(callers, &hold.caller)?;
    lasting(hold.seconds)
}

fn keep(
    callers: &Callers,
    hold: &Hold,
    quota: Option<Quota>,
    lasting: Duration,
) -> Result<(), Problem> {
    if hold.keep {
        let until = callers.now() + lasting;
        let brake = Brake::new(&hold.caller, quota, until, callers.author());
        let kept = callers.keep_brake(&hold.caller, Some(brake));
        kept.map_err(ChangeError::from)?;
    }
    Ok(())
}

fn pin(callers: &Callers, new: NewPin) -> Result<Pin, Problem> {
    if !["deploy", "flag", "config", "cache", "other"].contains(&new.pin.as_str()) {
        return Err(Problem::unprocessable(
            "pin: use deploy, flag, config, cache or other",
        ));
    }
    if new.version.is_none() && new.text.is_none() {
        return Err(Problem::unprocessable("version, text: say at least one"));
    }
    for (field, text, longest) in [
        ("version", &new.version, LONGEST_VERSION),
        ("text", &new.text, LONGEST_TEXT),
    ] {
        let length = text.as_ref().map_or(0, String::len);
        if length > longest {
            let detail = format!("{field}: {length} bytes are too many; use {longest} at most");
            return Err(Problem::unprocessable(detail));
        }
        // One line of a time line, of a report, of a terminal.
        if text
            .as_ref()
            .is_some_and(|of| of.contains(char::is_control))
        {
            let detail = format!("{field}: holds a control character");
            return Err(Problem::unprocessable(detail));
        }
    }
    let now = callers.now().as_secs_f64();
    if new.t.is_some_and(|t| !(t > 0.0 && t <= now + 60.0)) {
        return Err(Problem::unprocessable(
            "t: use Unix seconds that are not in the future",
        ));
    }
    let mut pin = Pin::new(change_named(&new.pin));
    if let Some(text) = &new.text {
        pin = pin.text(text);
    }
    if let Some(caller) = &new.caller {
        known(callers, caller)?;
        pin = pin.caller(caller);
    }
    if let Some(version) = &new.version {
        pin = pin.version(version);
    }
    pin.on = new.on;
    pin.at = new.t;
    Ok(pin)
}
