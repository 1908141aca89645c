//! A plain picture of the table, for code and for people; it needs no metrics recorder.

use std::net::IpAddr;
use std::ops::Index;

pub use crate::admit::snapshot::{AdaptiveSnapshot, ByReason, CeilingSnapshot, PolicySnapshot};
use crate::admit::{Admission, Mode};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::outcome::{Class, Fault};
use crate::record::bounded::Bounded;
use crate::record::histogram::Histogram;
use crate::record::row::Row;
use crate::record::sample::{Detail, FailedRequest};
use crate::record::totals::Totals;
use crate::record::window::Step;
use crate::registry::Registry;
use crate::registry::entry::Entry;

/// Everything that is known at one moment. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// When it was taken.
    pub at: f64,
    /// Where the switch is.
    pub mode: Mode,
    /// The ceiling, if there is one.
    pub ceiling: Option<CeilingSnapshot>,
    /// Callers by weight, heaviest first; the rows that are ours (`__other__`, `__unknown__`, …) among them where
    /// they had a request.
    ///
    /// The requests of a caller without a row ([`CallerSnapshot::exported`] is false) are in `__other__` too: the
    /// sum of [`CallerSnapshot::counts`] less [`CallerSnapshot::in_other`] over exported callers, with
    /// [`Snapshot::forgotten`], is the sum over all requests.
    pub callers: Vec<CallerSnapshot>,
    /// What `__unknown__` is made of.
    pub unknown: UnknownSnapshot,
    /// Callers in the table.
    pub tracked: usize,
    /// Requests that were counted under `__other__` for want of room.
    pub overflow: u64,
    /// Requests that claimed the name of a caller on the roster in vain.
    pub impersonations: u64,
    /// Counts of callers whose row was given to another.
    pub forgotten: Counts,
}

/// One caller.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CallerSnapshot {
    /// The caller's name.
    pub name: String,
    /// The value of the metric label `caller`; `None` for a caller that is counted under `__other__`.
    pub label: Option<String>,
    /// How we know.
    pub provenance: Provenance,
    /// Whether the caller has a row of its own: then routes, details, latencies, failures and series are known.
    pub exported: bool,
    /// Whether the operator named it.
    pub on_roster: bool,
    /// The team that answers for it.
    pub owner: Option<String>,
    /// Where that team is reached.
    pub contact: Option<String>,
    /// Requests, fading to a half in five minutes.
    pub weight: f64,
    /// Requests since the caller was first seen.
    pub counts: Counts,
    /// What of [`CallerSnapshot::counts`] is counted under `__other__` too: all of it for a caller without a row,
    /// and for one that got a row late, what it sent before.
    pub in_other: Counts,
    /// What applies to it, once it had a request under a policy.
    pub policy: Option<PolicySnapshot>,
    /// Requests per second.
    pub rates: Rates,
    /// Declared length of the request bodies of ended requests.
    pub request_bytes: u64,
    /// Bytes of the response bodies of ended requests.
    pub response_bytes: u64,
    /// The busiest routes, at most 20.
    pub routes: Vec<RouteSnapshot>,
    /// The most frequent error details.
    pub details: Vec<DetailSnapshot>,
    /// Error details that are none of these: each kind too rare for one of the 32 places.
    pub other_details: u64,
    /// Latency to the end of the body, by class.
    pub latency: Vec<LatencySnapshot>,
    /// Latency to the head of the response.
    pub first_byte: Option<Quantiles>,
    /// The last requests that failed, newest first.
    pub failures: Vec<FailureSnapshot>,
    /// A point per second, for two minutes.
    pub seconds: Vec<Point>,
    /// A point per ten seconds, for an hour.
    pub ten_seconds: Vec<Point>,
}

/// Requests of a caller. `started = by_class + refused + in_flight`, in every snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counts {
    /// Requests that began.
    pub started: u64,
    /// Requests that began and have not ended.
    pub in_flight: u64,
    /// Requests that ended, by how.
    pub by_class: ByClass,
    /// Requests that were refused, by why.
    pub refused: ByReason,
    /// Requests that were let in and would have been refused, were no limit in shadow; they are among those that
    /// ended, or are in flight.
    pub would_refuse: ByReason,
}

/// A count for every [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByClass([u64; Class::COUNT]);

impl ByClass {
    /// Classes with a count, in the order of [`Class::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Class, u64)> + '_ {
        Class::ALL
            .into_iter()
            .map(|class| (class, self[class]))
            .filter(|(_, count)| *count > 0)
    }

    /// The sum over all classes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The sum over the classes that speak against `fault`.
    #[must_use]
    pub fn with_fault(&self, fault: Fault) -> u64 {
        self.iter()
            .filter(|(class, _)| class.fault() == fault)
            .map(|(_, count)| count)
            .sum()
    }
}

impl Index<Class> for ByClass {
    type Output = u64;

    fn index(&self, class: Class) -> &u64 {
        &self.0[class.index()]
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ByClass {
    /// As a map of the classes that have a count.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Requests per second over three windows; for a younger caller over its life.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Rates {
    /// Over the last ten seconds.
    pub ten_seconds: f64,
    /// Over the last minute.
    pub minute: f64,
    /// Over the last ten minutes.
    pub ten_minutes: f64,
}

/// Requests of a caller on one route.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteSnapshot {
    /// Method and template, `unmatched` or `__other__`.
    pub route: String,
    /// Requests that ended, by how.
    pub by_class: ByClass,
}

/// How often handlers said the same about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DetailSnapshot {
    /// How the request ended.
    pub class: Class,
    /// The code.
    pub code: String,
    /// The field of the request.
    pub field: Option<String>,
    /// How often. A lower bound where a caller has more than 32 kinds of them.
    pub count: u64,
}

/// Latency of the requests that ended in one way.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LatencySnapshot {
    /// How they ended.
    pub class: Class,
    /// Their latency.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub quantiles: Quantiles,
}

/// Quantiles in seconds, since the caller was first seen; interpolated within buckets a factor of 1.3 to 2.5 wide.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Quantiles {
    /// How many requests.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// What nine of ten stay below.
    pub p90: f64,
    /// What 99 of 100 stay below.
    pub p99: f64,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FailureSnapshot {
    /// When it ended.
    pub at: f64,
    /// Method and template.
    pub route: String,
    /// The HTTP status, if the response had begun.
    pub status: Option<u16>,
    /// How it ended.
    pub class: Class,
    /// The code that the handler gave.
    pub code: Option<String>,
    /// The trace id of the request's `traceparent`.
    pub trace_id: Option<String>,
}

/// What happened in one step of a time series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Point {
    /// When the step began.
    pub at: u64,
    /// Requests that began.
    pub started: u32,
    /// Requests that were refused.
    pub refused: u32,
    /// Requests in flight at its end; in a step of ten seconds the most of them.
    pub in_flight: u32,
    /// Requests that ended, by how.
    pub by_class: ByClass,
}

/// What requests without an identity look like. Each list holds at most 32 values, most frequent first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UnknownSnapshot {
    /// Peer addresses.
    pub peers: Vec<(IpAddr, u64)>,
    /// User agents.
    pub agents: Vec<(String, u64)>,
    /// Names that a weaker source would have given.
    pub claimed: Vec<(String, u64)>,
}

/// Routes of a caller in a snapshot.
const ROUTES: usize = 20;

impl Snapshot {
    pub(crate) fn take(registry: &Registry, admission: &Admission, now: Timestamp) -> Self {
        let mut callers: Vec<_> = registry
            .entries()
            .iter()
            .map(|entry| CallerSnapshot::take(entry, registry, admission))
            .filter(|caller| {
                caller.counts.started > 0 || (caller.on_roster && !caller.name.starts_with("__"))
            })
            .collect();
        callers.sort_by(|a, b| {
            b.weight
                .total_cmp(&a.weight)
                .then_with(|| a.name.cmp(&b.name))
        });
        Self {
            at: now.as_secs_f64(),
            mode: admission.mode(),
            ceiling: CeilingSnapshot::take(admission),
            callers,
            unknown: UnknownSnapshot::take(registry),
            tracked: registry.tracked(),
            overflow: registry.overflow(),
            impersonations: registry.impersonations(),
            forgotten: Counts::from(&registry.forgotten()),
        }
    }

    /// The caller of this name; of a proven and a claimed one, the proven.
    #[must_use]
    pub fn caller(&self, name: &str) -> Option<&CallerSnapshot> {
        let of_name = || self.callers.iter().filter(|caller| caller.name == name);
        of_name()
            .find(|caller| caller.provenance == Provenance::Verified)
            .or_else(|| of_name().next())
    }
}

impl UnknownSnapshot {
    pub(crate) fn take(registry: &Registry) -> Self {
        let faces = registry.faces.read();
        let texts = |counts: &Bounded<Box<str>>| {
            let most = counts.most().into_iter();
            most.map(|(text, count)| (text.to_string(), count))
                .collect()
        };
        let peers = faces.peers.most().into_iter();
        Self {
            peers: peers.map(|(peer, count)| (*peer, count)).collect(),
            agents: texts(&faces.agents),
            claimed: texts(&faces.claimed),
        }
    }
}

impl CallerSnapshot {
    pub(crate) fn take(entry: &Entry, registry: &Registry, admission: &Admission) -> Self {
        let (totals, in_other) = entry.totals_and_in_other();
        let (rates, weight) = {
            let pace = entry.pace();
            (pace.rates(), pace.weight(totals.started))
        };
        let account = registry.account(entry);
        let terms = entry
            .seat()
            .and_then(|seat| admission.terms_of(seat, &entry.subject()));
        let mut caller = Self {
            name: entry.name().to_owned(),
            label: None,
            provenance: entry.shown_as(),
            exported: false,
            on_roster: account.is_some(),
            owner: account.as_ref().and_then(|account| account.owner.clone()),
            contact: account.and_then(|account| account.contact.clone()),
            weight,
            counts: Counts::from(&totals),
            in_other: Counts::from(&in_other),
            policy: terms.map(|terms| PolicySnapshot::from(&*terms)),
            rates: Rates {
                ten_seconds: rates[0],
                minute: rates[1],
                ten_minutes: rates[2],
            },
            request_bytes: totals.request_bytes,
            response_bytes: totals.response_bytes,
            routes: Vec::new(),
            details: Vec::new(),
            other_details: 0,
            latency: Vec::new(),
            first_byte: None,
            failures: Vec::new(),
            seconds: Vec::new(),
            ten_seconds: Vec::new(),
        };
        if let Some(row) = entry.row() {
            caller.add_row(row);
        }
        caller
    }

    fn add_row(&mut self, row: &Row) {
        self.label = Some(row.label.to_string());
        self.exported = true;
        let routes = row.routes().into_iter().take(ROUTES);
        self.routes = routes
            .map(|(route, counts)| RouteSnapshot {
                route: route.to_string(),
                by_class: ByClass(counts),
            })
            .collect();
        let details = row.details();
        self.details = details
            .most()
            .into_iter()
            .map(DetailSnapshot::from)
            .collect();
        self.other_details = details.rest();
        let latency = Class::ALL.into_iter().filter_map(|class| {
            Quantiles::of(&row.latency(class)).map(|quantiles| LatencySnapshot { class, quantiles })
        });
        self.latency = latency.collect();
        self.first_byte = Quantiles::of(&row.first_byte());
        self.failures = row
            .samples()
            .into_iter()
            .map(FailureSnapshot::from)
            .collect();
        let series = row.series();
        self.seconds = series.fine().map(Point::from).collect();
        self.ten_seconds = series.coarse().map(Point::from).collect();
    }
}

impl Quantiles {
    fn of(histogram: &Histogram) -> Option<Self> {
        Some(Self {
            count: histogram.count(),
            p50: histogram.quantile(0.5)?,
            p90: histogram.quantile(0.9)?,
            p99: histogram.quantile(0.99)?,
        })
    }
}

impl From<&Totals> for Counts {
    fn from(totals: &Totals) -> Self {
        Self {
            started: totals.started,
            in_flight: totals.in_flight(),
            by_class: ByClass(totals.by_class),
            refused: ByReason::from(totals.refused),
            would_refuse: ByReason::from(totals.would_refuse),
        }
    }
}

impl From<(&Detail, u64)> for DetailSnapshot {
    fn from((detail, count): (&Detail, u64)) -> Self {
        Self {
            class: detail.class,
            code: detail.code.to_string(),
            field: detail.field.as_deref().map(str::to_owned),
            count,
        }
    }
}

impl From<FailedRequest> for FailureSnapshot {
    fn from(failed: FailedRequest) -> Self {
        Self {
            at: failed.at.as_secs_f64(),
            route: failed.route.to_string(),
            status: failed.status,
            class: failed.class,
            code: failed.code.map(String::from),
            trace_id: failed.trace_id.read().map(str::to_owned),
        }
    }
}

impl From<&Step> for Point {
    fn from(step: &Step) -> Self {
        Self {
            at: step.at,
            started: step.started,
            refused: step.refused,
            in_flight: step.in_flight,
            by_class: ByClass(step.by_class.map(u64::from)),
        }
    }
}
