//! What there is to say: one bounded log, and whoever listens to it.
//!
//! Every event is also one line of JSON ([`Event::to_json`]). Its fields:
//!
//! | kind | fields, beside `v id t kind service instance` |
//! |---|---|
//! | `runaway_started`, `runaway_updated`, `runaway_ended`, `service_degraded`, `service_recovered`, `crowd`, `crowd_ended` | `caller provenance owner contact signal route class factor baseline observed share_of_rise harm pattern deploy since`, and `expected acknowledged_by` |
//! | `pin`, `ours` | `caller pin version text on at author` |
//! | `incident` | `incident author` |
//! | `policy` | `caller change author` |
//!
//! `baseline` and `observed` are requests per second for the signal `rate`, the share of errors for `errors`, requests
//! in flight for `in_flight`, new names per second for `names`. Times are Unix seconds: `t` is when it was said,
//! `since` when a departure began, `at` when what is pinned was changed, which is often told later. Every change that somebody
//! makes names its `author`; a runaway that somebody takes in hand, `acknowledged_by`. What the evidence does not single out is null. Readers ignore fields and kinds that
//! they do not know.

mod log;
mod subscription;
mod words;

use std::sync::Arc;

pub(crate) use self::log::{EventLog, OnEvent};
pub use self::subscription::Subscription;
pub use self::words::{Change, Deploy, Harm, Kind, Pattern, Signal};
use crate::caller::Provenance;
use crate::json::Line;
use crate::outcome::Class;

/// Something that was said.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// `service/instance/number`: what is said of one runaway shares it.
    pub id: Arc<str>,
    /// When it was said, in Unix seconds.
    pub t: f64,
    /// What happened.
    pub kind: Kind,
    /// The name of the service.
    pub service: Arc<str>,
    /// The name of this instance of it.
    pub instance: Arc<str>,
    /// The rest.
    pub body: Body,
}

/// The author of what is done by itself.
pub(crate) const OURSELVES: &str = "callerid";
/// The author of what the program does that this is built into.
pub(crate) const PROGRAM: &str = "program";
/// What is said of a brake that somebody has ended before its time.
pub(crate) const RELEASED: &str = "released";

/// What an event says, by kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Body {
    /// A runaway, or a state of the service that nobody is to blame for.
    Finding(Box<Finding>),
    /// A change on the time line, a caller's or ours.
    Pin(Pin),
    /// What people were told.
    Incident {
        /// The incident with all of its updates, as a JSON object.
        incident: Arc<str>,
        /// What was said this time: name, state and words.
        said: Arc<str>,
        /// By whom.
        author: Arc<str>,
    },
    /// A change of what a caller may do.
    Policy {
        /// Who may do more or less now; `None` where it concerns all.
        caller: Option<Arc<str>>,
        /// What was changed, in words.
        change: Arc<str>,
        /// By whom.
        author: Arc<str>,
    },
}

/// Who departs from their past, in what, and what explains it. See [the module](self) for the units.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// The caller's name, as metrics show it; `None` where nobody is to blame.
    pub caller: Option<Arc<str>>,
    /// How the name is known.
    pub provenance: Option<Provenance>,
    /// The team that answers for the caller.
    pub owner: Option<Arc<str>>,
    /// Where that team is reached.
    pub contact: Option<Arc<str>>,
    /// In what the caller departs.
    pub signal: Option<Signal>,
    /// The method and template that explain at least 60 % of it.
    pub route: Option<Arc<str>>,
    /// The class that explains at least half of it.
    pub class: Option<Class>,
    /// `observed / baseline`; `None` where the baseline is zero.
    pub factor: Option<f64>,
    /// What was normal.
    pub baseline: f64,
    /// What is.
    pub observed: f64,
    /// The caller's part of the rise of the whole service, from 0 to 1.
    pub share_of_rise: Option<f64>,
    /// What the service suffers.
    pub harm: Harm,
    /// What the parameters in the paths look like.
    pub pattern: Option<Pattern>,
    /// The deploy of the caller that came just before.
    pub deploy: Option<Deploy>,
    /// When the change began, in Unix seconds.
    pub since: f64,
    /// Whether this load was announced ([`Callers::expect`](crate::Callers::expect)): it is said, and wakes nobody.
    pub expected: bool,
    /// Who has taken it in hand ([`Callers::ack`](crate::Callers::ack)): it is said, and wakes nobody else.
    pub acknowledged_by: Option<Arc<str>>,
}

/// A change on the time line.
///
/// ```
/// use callerid::events::{Change, Pin};
///
/// let pin = Pin::new(Change::Flag).caller("checkout").text("new-basket on for all");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Pin {
    /// Whose change; `None` for ours.
    pub caller: Option<Arc<str>>,
    /// What was changed.
    pub pin: Change,
    /// To which version.
    pub version: Option<Arc<str>>,
    /// In words.
    pub text: Option<Arc<str>>,
    /// For what can be switched: on or off.
    pub on: Option<bool>,
    /// When it happened, in Unix seconds, where that is not when it was said.
    pub at: Option<f64>,
    /// Who has marked it; `None` where requests told of it. What [`Callers::pin`](crate::Callers::pin) is given here is
    /// replaced by the author that the handle acts for.
    pub author: Option<Arc<str>>,
}

/// A text beyond this many bytes is cut: pins come from people and programs outside.
pub(crate) const LONGEST: usize = 256;

fn short(text: &str) -> Arc<str> {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().into()
}

impl Pin {
    /// A change of ours, now.
    #[must_use]
    pub fn new(pin: Change) -> Self {
        Self {
            pin,
            ..Self::default()
        }
    }

    /// Whose change it is.
    #[must_use]
    pub fn caller(mut self, name: &str) -> Self {
        self.caller = Some(short(name));
        self
    }

    /// The version; at most 256 bytes are kept.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(short(version));
        self
    }

    /// What it was, in words; at most 256 bytes are kept.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = Some(short(text));
        self
    }

    /// Whether it was switched on, or off.
    #[must_use]
    pub fn on(mut self, on: bool) -> Self {
        self.on = Some(on);
        self
    }

    /// When it happened, in Unix seconds; a time that is not finite is none.
    #[must_use]
    pub fn at(mut self, t: f64) -> Self {
        self.at = t.is_finite().then_some(t);
        self
    }
}

impl Finding {
    /// Whether a person should be woken: somebody suffers or is about to, it was not announced, and nobody has taken
    /// it in hand.
    #[must_use]
    pub fn pages(&self) -> bool {
        self.harm != Harm::None && !self.expected && self.acknowledged_by.is_none()
    }

    pub(crate) fn write(&self, line: &mut Line) {
        line.text("caller", self.caller.as_deref());
        line.text("provenance", self.provenance.map(Provenance::as_str));
        line.text("owner", self.owner.as_deref());
        line.text("contact", self.contact.as_deref());
        line.text("signal", self.signal.map(Signal::as_str));
        line.text("route", self.route.as_deref());
        line.text("class", self.class.map(Class::as_str));
        line.number("factor", self.factor);
        line.number("baseline", Some(self.baseline));
        line.number("observed", Some(self.observed));
        line.number("share_of_rise", self.share_of_rise);
        line.text("harm", Some(self.harm.as_str()));
        line.text("pattern", self.pattern.map(Pattern::as_str));
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
        line.raw("expected", if self.expected { "true" } else { "false" });
        line.text("acknowledged_by", self.acknowledged_by.as_deref());
    }
}

impl Event {
    /// What was found, if it is that.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        match &self.body {
            Body::Finding(finding) => Some(finding),
            _ => None,
        }
    }

    /// The change that was pinned, if it is that: a caller's, or ours.
    #[must_use]
    pub fn pin(&self) -> Option<&Pin> {
        match &self.body {
            Body::Pin(pin) => Some(pin),
            _ => None,
        }
    }

    /// The caller that it is about.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        match &self.body {
            Body::Finding(finding) => finding.caller.as_deref(),
            Body::Pin(pin) => pin.caller.as_deref(),
            Body::Policy { caller, .. } => caller.as_deref(),
            Body::Incident { .. } => None,
        }
    }

    /// When what it tells of happened, in Unix seconds: for a pin, often before it was said.
    pub(crate) fn happened(&self) -> f64 {
        self.pin().and_then(|pin| pin.at).unwrap_or(self.t)
    }

    /// Tells its times on another clock.
    #[cfg(feature = "replay")]
    pub(crate) fn move_to(&mut self, clock: impl Fn(f64) -> f64) {
        self.t = clock(self.t);
        match &mut self.body {
            Body::Finding(finding) => {
                finding.since = clock(finding.since);
                if let Some(deploy) = &mut finding.deploy {
                    deploy.t = clock(deploy.t);
                }
            }
            Body::Pin(pin) => pin.at = pin.at.map(clock),
            Body::Incident { .. } | Body::Policy { .. } => {}
        }
    }

    /// The event as one line of JSON, without the line's end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut line = Line::new();
        line.raw("v", "1");
        line.text("id", Some(&self.id));
        line.number("t", Some(self.t));
        line.text("kind", Some(self.kind.as_str()));
        line.text("service", Some(&self.service));
        line.text("instance", Some(&self.instance));
        match &self.body {
            Body::Finding(finding) => finding.write(&mut line),
            Body::Pin(pin) => {
                line.text("caller", pin.caller.as_deref());
                line.text("pin", Some(pin.pin.as_str()));
                line.text("version", pin.version.as_deref());
                line.text("text", pin.text.as_deref());
                let on = pin
                    .on
                    .map_or("null", |on| if on { "true" } else { "false" });
                line.raw("on", on);
                line.number("at", Some(self.happened()));
                line.text("author", pin.author.as_deref());
            }
            Body::Incident {
                incident, author, ..
            } => {
                line.raw("incident", incident);
                line.text("author", Some(author));
            }
            Body::Policy {
                caller,
                change,
                author,
            } => {
                line.text("caller", caller.as_deref());
                line.text("change", Some(change));
                line.text("author", Some(author));
            }
        }
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, body: Body) -> Event {
        Event {
            id: "prices/7f3a/12".into(),
            t: 1_761_112_930.25,
            kind,
            service: "prices".into(),
            instance: "7f3a".into(),
            body,
        }
    }

    #[test]
    fn a_runaway_is_one_line_of_json_with_every_field() {
        let finding = Finding {
            caller: Some("a\"b".into()),
            provenance: Some(Provenance::Verified),
            owner: Some("Payments".into()),
            contact: None,
            signal: Some(Signal::Rate),
            route: Some("GET /v1/x".into()),
            class: Some(Class::Validation),
            factor: Some(f64::NAN),
            baseline: 12.4,
            observed: 88.0,
            share_of_rise: Some(0.94),
            harm: Harm::AtRisk,
            pattern: Some(Pattern::Repeat),
            deploy: Some(Deploy {
                version: "v42".into(),
                t: 1.0,
            }),
            since: 1_761_112_927.0,
            expected: false,
            acknowledged_by: None,
        };
        assert!(finding.pages());
        assert_eq!(
            event(Kind::RunawayStarted, Body::Finding(Box::new(finding))).to_json(),
            r#"{"v": 1, "id": "prices/7f3a/12", "t": 1761112930.25, "kind": "runaway_started", "service": "prices", "instance": "7f3a", "caller": "a\"b", "provenance": "verified", "owner": "Payments", "contact": null, "signal": "rate", "route": "GET /v1/x", "class": "validation", "factor": null, "baseline": 12.4, "observed": 88, "share_of_rise": 0.94, "harm": "at_risk", "pattern": "repeat", "deploy": {"version": "v42", "t": 1}, "since": 1761112927, "expected": false, "acknowledged_by": null}"#
        );
    }

    #[test]
    fn pins_policies_and_incidents_have_their_fields() {
        let mut pin = Pin::new(Change::Flag)
            .caller("a")
            .text(&"é".repeat(200))
            .on(true);
        pin.author = Some("anna".into());
        let said = event(Kind::Pin, Body::Pin(pin.clone())).to_json();
        assert!(said.ends_with(r#""on": true, "at": 1761112930.25, "author": "anna"}"#));
        let json = event(Kind::Pin, Body::Pin(pin.at(5.5))).to_json();
        assert!(json.contains(r#""t": 1761112930.25, "#));
        assert!(json.ends_with(&format!(
            r#""caller": "a", "pin": "flag", "version": null, "text": "{}", "on": true, "at": 5.5, "author": "anna"}}"#,
            "é".repeat(128)
        )));
        let policy = Body::Policy {
            caller: None,
            change: "mode = \"off\"".into(),
            author: "anna".into(),
        };
        let json = event(Kind::Policy, policy).to_json();
        assert!(json.ends_with(r#""caller": null, "change": "mode = \"off\"", "author": "anna"}"#));
        let told = Body::Incident {
            incident: "{}".into(),
            said: "slow (identified)".into(),
            author: "anna".into(),
        };
        let json = event(Kind::Incident, told).to_json();
        assert!(json.ends_with(
            r#""kind": "incident", "service": "prices", "instance": "7f3a", "incident": {}, "author": "anna"}"#
        ));
    }
}
