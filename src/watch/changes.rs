//! What was changed before a rise: a caller's deploy, or something of ours.

use std::sync::Arc;

use crate::events::{Body, Event, Kind, OURSELVES, Pin};

/// Something of ours that was changed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OwnChange {
    /// When, in Unix seconds.
    pub t: f64,
    /// What, in words.
    pub what: String,
}

/// The last change of a caller since a time.
pub(super) fn pin_of(events: &[Arc<Event>], caller: &str, since: f64) -> Option<Pin> {
    let pins = events.iter().filter(|event| {
        event.kind == Kind::Pin && event.happened() >= since && event.caller() == Some(caller)
    });
    let last = pins.max_by(|a, b| a.happened().total_cmp(&b.happened()))?;
    Some(last.pin()?.clone().at(last.happened()))
}

/// How long after the onset of a change, which is estimated, something of ours may still have caused it.
pub(crate) const LATE: f64 = 5.0;

/// Our own last change until a time: by when it was made, which is not the order in which it was said.
pub(crate) fn ours(events: &[Arc<Event>], until: f64) -> Option<OwnChange> {
    let changes = events.iter().filter(|event| event.happened() <= until);
    let changes = changes.filter_map(|event| Some((event.happened(), changed(event)?)));
    let (t, what) = changes.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    Some(OwnChange { t, what })
}

/// What we changed, if this event tells of such a thing.
fn changed(event: &Event) -> Option<String> {
    match &event.body {
        Body::Pin(pin) if event.kind == Kind::Ours || pin.caller.is_none() => {
            let words = [
                Some(pin.pin.as_str()),
                pin.version.as_deref(),
                pin.text.as_deref(),
            ];
            let words: Vec<_> = words.into_iter().flatten().collect();
            Some(words.join(" "))
        }
        // What the clamp does by itself answers a runaway.
        Body::Policy { author, .. } if &**author == OURSELVES => None,
        Body::Policy { caller, change, .. } => Some(match caller {
            Some(caller) => format!("{caller}: {change}"),
            None => change.to_string(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::events::{Change, EventLog};

    #[test]
    fn our_last_change_is_the_last_by_time_that_may_have_caused_it() {
        let log = EventLog::new("api", "a1", Vec::new(), Timestamp::ZERO);
        let ours = |until| ours(&log.events(), until).map(|change| (change.t, change.what));
        let policy = |caller: Option<&str>, change: &str, author: &str| Body::Policy {
            caller: caller.map(Arc::from),
            change: change.into(),
            author: author.into(),
        };
        let say = |t, kind, body| log.say(log.fresh_id(), t, kind, body);
        assert_eq!(ours(1e9), None);
        say(
            100.0,
            Kind::Ours,
            Body::Pin(Pin::new(Change::Deploy).version("2.1").text("started")),
        );
        // Told late.
        say(
            105.0,
            Kind::Pin,
            Body::Pin(Pin::new(Change::Flag).text("sale").at(40.0)),
        );
        say(
            110.0,
            Kind::Pin,
            Body::Pin(Pin::new(Change::Deploy).caller("a").version("v2")),
        );
        say(120.0, Kind::Policy, policy(Some("a"), "clamped", OURSELVES));
        assert_eq!(ours(1e9), Some((100.0, "deploy 2.1 started".to_owned())));
        assert_eq!(ours(99.0), Some((40.0, "flag sale".to_owned())));
        say(
            130.0,
            Kind::Policy,
            policy(None, "mode = \"enforce\"", "anna"),
        );
        assert_eq!(ours(1e9), Some((130.0, "mode = \"enforce\"".to_owned())));
        say(
            140.0,
            Kind::Policy,
            policy(Some("b"), "5/s for 60 s", "anna"),
        );
        assert_eq!(ours(1e9), Some((140.0, "b: 5/s for 60 s".to_owned())));
    }
}
