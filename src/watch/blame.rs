//! Who is behind a rise? Two windows are compared, and every caller's part of the change is its blame.
//!
//! A caller's share is its explanatory power: its change, divided by the change of the whole (Bhagwan et al.,
//! *Adtributor: Revenue Debugging in Advertising Systems*, NSDI 2014). So the shares of all callers add up to 1, those
//! of callers who sent less than before are negative, and a share may be above 1 where others fell. Within a caller
//! the same subtraction finds the route (at least 60 % of its change) and the class (at least half).

use std::sync::Arc;
use std::time::Duration;

use super::Watch;
use super::changes::{OwnChange, ours, pin_of};
use super::feed::Feed;
use super::past::{Done, Past};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::events::{Pattern, Pin};
use crate::lock::lock;
use crate::outcome::Class;
use crate::pipeline::Core;
use crate::record::window::{FINE, Step};
use crate::registry::entry::{Entry, Trust};

/// A route is named at this share of its caller's change,
const ROUTE: f64 = 0.6;
/// and a class at this one.
const CLASS: f64 = 0.5;
/// A change of a caller this long before the recent window, in seconds, may explain it.
const PIN: f64 = 300.0;
/// Seconds of a step of the long series.
const STEP: u64 = 10;
/// How bursty a caller is taken to be before anything is known of it: the variance of its counts over their mean.
const FANO: f64 = 3.0;

/// Two windows that are compared: the last while, and the time before it.
///
/// ```
/// use std::time::Duration;
/// use callerid::Window;
///
/// let window = Window::last(Duration::from_secs(60)).against(Duration::from_secs(600));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    after: Duration,
    before: Duration,
}

impl Window {
    /// The last while, at least a second, against the ten minutes before it. Series reach back an hour.
    #[must_use]
    pub fn last(after: Duration) -> Self {
        Self {
            after,
            before: Duration::from_secs(600),
        }
    }

    /// Another time before it, at least ten seconds.
    #[must_use]
    pub fn against(mut self, before: Duration) -> Self {
        self.before = before;
        self
    }
}

impl From<Duration> for Window {
    fn from(after: Duration) -> Self {
        Self::last(after)
    }
}

/// The answer to "who and what explains this change?". Times are Unix seconds.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Blame {
    /// The time before, from and to.
    pub before: (f64, f64),
    /// The recent window, from and to.
    pub after: (f64, f64),
    /// Requests per second.
    pub requests: Rise,
    /// Requests per second that did not end well.
    pub errors: Rise,
    /// Requests in flight: seconds of request time per second.
    pub in_flight: Rise,
    /// Our own last change, so that the answer exonerates as well: a pin of ours, a start, a policy.
    pub ours: Option<OwnChange>,
}

/// The change of one measure, and who it comes from.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Rise {
    /// How much there was.
    pub before: f64,
    /// How much there is.
    pub after: f64,
    /// Everybody whose part changed, the greatest rise first. Their shares add up to 1.
    pub culprits: Vec<Culprit>,
}

/// One caller's part of a change.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Culprit {
    /// The caller, as metrics show it.
    pub caller: String,
    /// How the name is known.
    pub provenance: Provenance,
    /// The team that answers for it.
    pub owner: Option<String>,
    /// Where that team is reached.
    pub contact: Option<String>,
    /// How much it had.
    pub before: f64,
    /// How much it has.
    pub after: f64,
    /// Its change divided by the change of the whole; `None` where the whole did not rise.
    pub share: Option<f64>,
    /// How sure it is that the caller rose at all, from 0 to 1: that its own burstiness explains the rise is less
    /// likely than `1 - sure` (Chernoff's bound for counts as bursty as its past).
    pub sure: f64,
    /// The route that explains at least 60 % of its change. What was on which route is known for twenty minutes: of
    /// longer windows the part within them is compared, and none is named where nothing of the time before is.
    pub route: Option<Arc<str>>,
    /// The class that explains at least half of its change.
    pub class: Option<Class>,
    /// Its last change within five minutes before the window or in it.
    pub pin: Option<Pin>,
    /// What the parameters in its paths look like, while it is in a runaway.
    pub pattern: Option<Pattern>,
}

/// What a caller did in a span, per second.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: f64,
    by_class: [f64; Class::COUNT],
    busy: f64,
}

/// One of the three measures.
#[derive(Clone, Copy, Debug)]
enum Measure {
    Requests,
    Errors,
    InFlight,
}

impl Sums {
    fn add(&mut self, step: &Step) {
        self.requests += f64::from(step.started);
        for (sum, &count) in self.by_class.iter_mut().zip(&step.by_class) {
            *sum += f64::from(count);
        }
        self.busy += f64::from(step.busy) / 1e3;
    }

    fn per(self, seconds: f64) -> Self {
        Self {
            requests: self.requests / seconds,
            by_class: self.by_class.map(|count| count / seconds),
            busy: self.busy / seconds,
        }
    }

    fn of(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::Errors => self.by_class.iter().skip(1).sum(),
            Measure::InFlight => self.busy,
        }
    }
}

impl Done {
    fn of(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::Errors => self.errors,
            Measure::InFlight => self.busy,
        }
    }
}

/// One caller in both windows.
struct Suspect {
    entry: Arc<Entry>,
    label: Box<str>,
    before: Sums,
    after: Sums,
    /// The variance of its counts over their mean, in the time before.
    fano: f64,
}

/// The spans, in whole seconds.
#[derive(Clone, Copy, Debug)]
struct Spans {
    before: (u64, u64),
    after: (u64, u64),
}

impl Spans {
    /// What of the windows is covered by series that end at `now`, and began at `born`.
    fn new(window: Window, now: Timestamp, born: u64) -> Self {
        let end = now.as_secs();
        let after = window.after.as_secs().clamp(1, end.max(1));
        let fine = after <= FINE as u64 - 5;
        let floor = |second: u64| second - second % STEP;
        let from = end.saturating_sub(after);
        let from = if fine { from } else { floor(from) };
        let to = floor(from);
        let before = window.before.as_secs().max(STEP);
        let first = born.next_multiple_of(STEP);
        Self {
            before: (floor(to.saturating_sub(before)).max(first).min(to), to),
            after: (from, end),
        }
    }

    fn is_fine(self) -> bool {
        self.after.1 - self.after.0 <= FINE as u64 - 5
    }
}

impl Suspect {
    fn new(entry: &Arc<Entry>, spans: Spans) -> Option<Self> {
        let row = entry.row()?;
        let (mut before, mut after) = (Sums::default(), Sums::default());
        let within = |at: u64, (from, to): (u64, u64)| at >= from && at < to;
        let mut counts = Vec::new();
        let series = row.series();
        for step in series.coarse().filter(|step| within(step.at, spans.before)) {
            before.add(step);
            counts.push(f64::from(step.started));
        }
        let add = |step: &Step| after.add(step);
        if spans.is_fine() {
            series
                .fine()
                .filter(|step| within(step.at, spans.after))
                .for_each(add);
        } else {
            series
                .coarse()
                .filter(|step| within(step.at, spans.after))
                .for_each(add);
        }
        let seconds = |(from, to): (u64, u64)| (to - from).max(1) as f64;
        Some(Self {
            entry: Arc::clone(entry),
            label: row.label.clone(),
            before: before.per(seconds(spans.before)),
            after: after.per(seconds(spans.after)),
            fano: fano(&counts),
        })
    }

    fn change(&self, measure: Measure) -> f64 {
        self.after.of(measure) - self.before.of(measure)
    }

    /// Chernoff's bound on a rise like this by burstiness alone, as confidence.
    fn sure(&self, measure: Measure, spans: Spans) -> f64 {
        let seconds = |(from, to): (u64, u64)| (to - from).max(1) as f64;
        let (after, before) = (seconds(spans.after), seconds(spans.before));
        let excess = self.change(measure) * after;
        if excess <= 0.0 {
            return 0.0;
        }
        let expected = self.before.of(measure) * after;
        let variance = self.fano * (expected * (1.0 + after / before) + excess / 3.0 + 1.0);
        1.0 - (-excess * excess / (2.0 * variance)).exp()
    }

    /// The class of most of the change.
    fn class(&self, measure: Measure) -> Option<Class> {
        let change = |class: &Class| {
            let at = class.index();
            (self.after.by_class[at] - self.before.by_class[at]).max(0.0)
        };
        let skip = usize::from(matches!(measure, Measure::Errors));
        let classes = || Class::ALL.into_iter().skip(skip);
        let all: f64 = classes().map(|class| change(&class)).sum();
        classes().find(|class| all > 0.0 && change(class) >= CLASS * all)
    }

    /// The route of most of the change, of which routes remember less than callers do.
    fn route(&self, measure: Measure, feed: &Feed, spans: Spans) -> Option<Arc<str>> {
        let span = |(from, to): (u64, u64)| (from as f64, to as f64);
        let first = Past::reaches_back_to(spans.after.1);
        let known = |(from, to): (u64, u64)| (from.max(first).min(to), to);
        let begin = spans.after.0 - spans.after.0 % STEP;
        let (before, after) = (known(spans.before), known((begin, spans.after.1)));
        if before.0 == before.1 && spans.before.0 < spans.before.1 {
            return None;
        }
        let seconds = |(from, to): (u64, u64)| (to - from).max(1) as f64;
        let done = feed.done(&self.entry, span(before), span(after));
        let change = |was: &Done, now: &Done| {
            let change = now.of(measure) / seconds(after) - was.of(measure) / seconds(before);
            change.max(0.0)
        };
        let all: f64 = done
            .iter()
            .map(|(_, before, now)| change(before, now))
            .sum();
        let most = done
            .iter()
            .find(|(_, before, now)| all > 0.0 && change(before, now) >= ROUTE * all);
        most.and_then(|(route, ..)| route.clone())
    }
}

/// The variance of counts over their mean, from successive differences, so that a slow change does not inflate it.
fn fano(counts: &[f64]) -> f64 {
    let (mut squares, mut sum, mut weight) = (0.0, 0.0, 0.0);
    for pair in counts.windows(2) {
        if let [a, b] = pair {
            squares += (b - a).powi(2);
            sum += a + b;
            weight += 1.0;
        }
    }
    let seen = if sum > 0.0 { squares / sum } else { 1.0 };
    // Six steps' worth of doubt.
    ((weight * seen + 6.0 * FANO) / (weight + 6.0)).clamp(1.0, 25.0)
}

impl Watch {
    /// Who explains the change between two windows.
    pub(crate) fn blame(&self, core: &Core, window: Window, now: Timestamp) -> Blame {
        let entries: Vec<_> = core
            .registry
            .entries()
            .into_iter()
            .filter(|entry| entry.trust != Trust::Ours || entry.name() != crate::caller::EXEMPT)
            .collect();
        let born = entries.iter().filter_map(|entry| {
            let row = entry.row()?;
            let series = row.series();
            series.coarse().next().map(|step| step.at)
        });
        let spans = Spans::new(window, now, born.min().unwrap_or(now.as_secs()));
        let suspects: Vec<_> = entries
            .iter()
            .filter_map(|entry| Suspect::new(entry, spans))
            .collect();
        let events = self.log.events();
        let inner = lock(&self.inner);
        let rise = |measure| {
            let mut rise = Rise {
                before: suspects
                    .iter()
                    .map(|suspect| suspect.before.of(measure))
                    .sum(),
                after: suspects
                    .iter()
                    .map(|suspect| suspect.after.of(measure))
                    .sum(),
                culprits: Vec::new(),
            };
            let change = rise.after - rise.before;
            let mut changed: Vec<_> = suspects
                .iter()
                .filter(|suspect| suspect.change(measure) != 0.0)
                .collect();
            changed.sort_by(|a, b| b.change(measure).total_cmp(&a.change(measure)));
            rise.culprits = changed
                .into_iter()
                .map(|suspect| {
                    let account = core.registry.account(&suspect.entry);
                    let part = suspect.change(measure);
                    Culprit {
                        caller: suspect.label.to_string(),
                        provenance: suspect.entry.shown_as(),
                        owner: account.as_ref().and_then(|account| account.owner.clone()),
                        contact: account.as_ref().and_then(|account| account.contact.clone()),
                        before: suspect.before.of(measure),
                        after: suspect.after.of(measure),
                        share: (change > 0.0).then(|| part / change),
                        sure: suspect.sure(measure, spans),
                        route: suspect.route(measure, &inner.feed, spans),
                        class: suspect.class(measure),
                        pin: pin_of(&events, &suspect.label, spans.after.0 as f64 - PIN),
                        pattern: suspect.entry.row().and_then(|row| core.paths.pattern(row)),
                    }
                })
                .collect();
            rise
        };
        let span = |(from, to): (u64, u64)| (from as f64, to as f64);
        Blame {
            before: span(spans.before),
            after: span(spans.after),
            requests: rise(Measure::Requests),
            errors: rise(Measure::Errors),
            in_flight: rise(Measure::InFlight),
            ours: ours(&events, f64::INFINITY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_to_what_is_known() {
        let now = Timestamp::from_secs(10_007);
        let spans = Spans::new(Window::last(Duration::from_secs(60)), now, 9_903);
        assert_eq!(spans.after, (9_947, 10_007));
        assert_eq!(spans.before, (9_910, 9_940));
        let long = Window::last(Duration::from_secs(300)).against(Duration::from_secs(600));
        let spans = Spans::new(long, now, 0);
        assert_eq!(
            (spans.before, spans.after),
            ((9_100, 9_700), (9_700, 10_007))
        );
        // Shorter than anything known, and before the beginning of time.
        let spans = Spans::new(Window::last(Duration::ZERO), Timestamp::from_secs(3), 3);
        assert_eq!(spans.after, (2, 3));
        assert!(spans.before.0 <= spans.before.1);
        for now in 0..3 {
            let spans = Spans::new(Window::last(Duration::MAX), Timestamp::from_secs(now), now);
            assert_eq!((spans.before, spans.after), ((0, 0), (0, now)));
        }
    }

    #[test]
    fn burstiness_comes_from_successive_differences() {
        let steady = fano(&[100.0; 50]);
        let ramp = fano(&(0..50).map(|n| 100.0 + f64::from(n)).collect::<Vec<_>>());
        let bursty = fano(&[0.0, 200.0].repeat(25));
        assert!(
            steady < 1.5 && ramp < 1.5 && bursty > 20.0,
            "{steady} {ramp} {bursty}"
        );
        assert_eq!(fano(&[]), FANO);
    }
}
