//! What the detector says, and the one place that writes it as JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use super::observe::RouteId;
use crate::caller::Provenance;
use crate::outcome::Class;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A caller departs from its own past far enough.
    RunawayStarted,
    /// More is known about a runaway than when it was first said.
    RunawayUpdated,
    /// A runaway is over.
    RunawayEnded,
    /// The service fails for several callers: nobody to blame.
    ServiceDegraded,
    /// The service works again.
    ServiceRecovered,
    /// Everybody rises.
    Crowd,
    /// The rise of everybody is over.
    CrowdEnded,
}

impl Kind {
    /// The value of the field `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RunawayStarted => "runaway_started",
            Self::RunawayUpdated => "runaway_updated",
            Self::RunawayEnded => "runaway_ended",
            Self::ServiceDegraded => "service_degraded",
            Self::ServiceRecovered => "service_recovered",
            Self::Crowd => "crowd",
            Self::CrowdEnded => "crowd_ended",
        }
    }
}

/// In what a caller departs from its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Requests per second.
    Rate,
    /// The share of one error class.
    Errors,
    /// Requests in flight: few requests, each very slow.
    InFlight,
    /// A flood of invented names.
    Names,
}

impl Signal {
    /// The value of the field `signal`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::InFlight => "in_flight",
            Self::Names => "names",
        }
    }

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What the service suffers. Only the last two are worth waking somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Nothing that can be seen.
    #[default]
    None,
    /// The service is near its ceiling, or the other callers begin to suffer.
    AtRisk,
    /// The other callers suffer.
    Harmed,
}

impl Harm {
    /// The value of the field `harm`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AtRisk => "at_risk",
            Self::Harmed => "harmed",
        }
    }
}

/// A version change of a caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Deploy {
    /// What was deployed.
    pub version: Arc<str>,
    /// When, in Unix seconds.
    pub t: f64,
}

/// One finding. Times are Unix seconds, or seconds of the log's own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Shared by everything that is said about one episode.
    pub id: u64,
    /// When it was said.
    pub t: f64,
    /// What happened.
    pub kind: Kind,
    /// Who; `None` where nobody is to blame.
    pub caller: Option<Arc<str>>,
    /// How the name is known.
    pub provenance: Option<Provenance>,
    /// In what; `None` where nobody is to blame.
    pub signal: Option<Signal>,
    /// The route that explains most of the change, if one does.
    pub route: Option<RouteId>,
    /// The class that explains most of the change, if one does.
    pub class: Option<Class>,
    /// `observed / baseline`; `None` where the baseline is zero.
    pub factor: Option<f64>,
    /// What was normal, in the unit of the signal.
    pub baseline: f64,
    /// What is.
    pub observed: f64,
    /// The caller's part of the rise of the whole service, 0 to 1.
    pub share_of_rise: Option<f64>,
    /// What the service suffers.
    pub harm: Harm,
    /// The deploy of this caller that came just before.
    pub deploy: Option<Deploy>,
    /// When the change began.
    pub since: f64,
}

/// From a caller's name to its owner and contact.
pub type People<'a> = dyn Fn(&str) -> (Option<&'a str>, Option<&'a str>) + 'a;

/// What the detector does not know about the program that it runs in.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The name of the service.
    pub service: &'a str,
    /// The name of this instance of it.
    pub instance: &'a str,
    /// A route's method and template.
    pub route: &'a dyn Fn(RouteId) -> Option<&'a str>,
    /// A caller's owner and contact.
    pub people: &'a People<'a>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("service", &self.service)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Event {
    /// The event as one line of JSON, without the line's end.
    #[must_use]
    pub fn to_json(&self, around: &Surroundings<'_>) -> String {
        let mut line = Line::new();
        line.raw("v", "1");
        let id = format!("{}/{}/{}", around.service, around.instance, self.id);
        line.text("id", Some(&id));
        line.number("t", Some(self.t));
        line.text("kind", Some(self.kind.as_str()));
        line.text("service", Some(around.service));
        line.text("instance", Some(around.instance));
        line.text("caller", self.caller.as_deref());
        line.text("provenance", self.provenance.map(Provenance::as_str));
        let (owner, contact) = self.caller.as_deref().map_or((None, None), around.people);
        line.text("owner", owner);
        line.text("contact", contact);
        line.text("signal", self.signal.map(Signal::as_str));
        line.text("route", self.route.and_then(around.route));
        line.text("class", self.class.map(Class::as_str));
        line.number("factor", self.factor);
        line.number("baseline", Some(self.baseline));
        line.number("observed", Some(self.observed));
        line.number("share_of_rise", self.share_of_rise);
        line.text("harm", Some(self.harm.as_str()));
        line.raw("pattern", "null");
        match &self.deploy {
            Some(deploy) => {
                let mut inner = Line::new();
                inner.text("version", Some(&deploy.version));
                inner.number("t", Some(deploy.t));
                line.raw("deploy", &inner.end());
            }
            None => line.raw("deploy", "null"),
        }
        line.number("since", Some(self.since));
        line.end()
    }
}

/// A JSON object that is being written.
struct Line(String);

impl Line {
    fn new() -> Self {
        Self(String::from("{"))
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push_str(", ");
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\": ");
    }

    fn raw(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.push_str(value);
    }

    fn number(&mut self, key: &str, value: Option<f64>) {
        self.key(key);
        match value.filter(|v| v.is_finite()) {
            // Four significant digits after the point are more than any of these is known to.
            Some(value) => {
                let rounded = (value * 1e4).round() / 1e4;
                let _ = write!(self.0, "{rounded}");
            }
            None => self.0.push_str("null"),
        }
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        let Some(value) = value else {
            self.0.push_str("null");
            return;
        };
        self.0.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(c);
                }
                c if u32::from(c) < 0x20 => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                }
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_json_with_every_field() {
        let event = Event {
            id: 12,
            t: 1_761_112_930.25,
            kind: Kind::RunawayStarted,
            caller: Some("a\"b".into()),
            provenance: Some(Provenance::Verified),
            signal: Some(Signal::Rate),
            route: Some(3),
            class: Some(Class::Validation),
            factor: Some(f64::NAN),
            baseline: 12.4,
            observed: 88.0,
            share_of_rise: Some(0.94),
            harm: Harm::AtRisk,
            deploy: Some(Deploy {
                version: "v42".into(),
                t: 1.0,
            }),
            since: 1_761_112_927.0,
        };
        let around = Surroundings {
            service: "prices",
            instance: "7f3a",
            route: &|id| (id == 3).then_some("GET /v1/x"),
            people: &|_| (Some("Payments"), None),
        };
        assert_eq!(
            event.to_json(&around),
            r#"{"v": 1, "id": "prices/7f3a/12", "t": 1761112930.25, "kind": "runaway_started", "service": "prices", "instance": "7f3a", "caller": "a\"b", "provenance": "verified", "owner": "Payments", "contact": null, "signal": "rate", "route": "GET /v1/x", "class": "validation", "factor": null, "baseline": 12.4, "observed": 88, "share_of_rise": 0.94, "harm": "at_risk", "pattern": null, "deploy": {"version": "v42", "t": 1}, "since": 1761112927}"#
        );
    }
}
