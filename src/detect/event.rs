//! What the detector says, and the one place that writes it as JSON.

use std::sync::Arc;

use super::observe::RouteId;
use crate::caller::Provenance;
use crate::json::Line;
use crate::outcome::Class;

pub use crate::events::{Deploy, Harm, Kind, Signal};

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
