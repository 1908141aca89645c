//! What a tick tells the detector: increments since the last tick, never requests. The request path only
//! counts; everything that costs thought happens here, a few times a second.

use super::math::ratio;
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::outcome::Class;

/// The place of a caller in the caller table. A place is used again when its caller has been displaced;
/// the generation then differs, and the detector forgets what it knew about the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerId {
    /// The index of the row.
    pub slot: u32,
    /// How often the row has changed hands.
    pub generation: u32,
}

/// A small number for a route (method and template), dense and bounded by whoever assigns it.
pub type RouteId = u32;

/// Whom a row stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Row {
    /// One caller.
    #[default]
    Caller,
    /// Everybody who has no row of their own.
    Other,
    /// Requests that nobody is named for, or that come through a proxy that nobody has declared.
    Unknown,
}

/// What one caller did on one route since the last tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteDelta {
    /// The route.
    pub route: RouteId,
    /// Completed requests by class, in the order of [`Class::ALL`].
    pub by_class: [u32; Class::COUNT],
    /// The durations of the completed requests, summed, in seconds.
    pub service_time: f32,
}

impl RouteDelta {
    pub(super) fn completed(&self) -> f32 {
        self.by_class.iter().map(|&n| u64::from(n)).sum::<u64>() as f32
    }

    /// Whether all requests ended well.
    pub(super) fn is_good(&self) -> bool {
        let [_, bad @ ..] = &self.by_class;
        bad.iter().fold(0, |bits, n| bits | n) == 0
    }

    /// The counts by class, as far as there can be any: those of most ticks end with the first.
    pub(super) fn counts(&self) -> &[u32] {
        let all = &self.by_class;
        if self.is_good() { &all[..1] } else { all }
    }

    /// [`Self::service_time`], whatever was put there.
    pub(super) fn took(&self) -> f32 {
        sane(self.service_time)
    }
}

/// What one caller did since the last tick.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Which row.
    pub id: CallerId,
    /// The name, as events show it.
    pub name: &'a str,
    /// How the name is known.
    pub provenance: Provenance,
    /// Whom the row stands for.
    pub row: Row,
    /// Requests that entered, refused ones included: demand, not what was let through. A log knows
    /// of a request only when it ends; there it is the number of completed requests.
    pub started: u32,
    /// Names that were seen for the first time; only for [`Row::Other`], where they have no row.
    pub new_names: u32,
    /// Requests in flight at the tick. Zero where the source cannot know (a log).
    pub in_flight: u32,
    /// Seconds of request time that passed in flight since the last tick, summed over requests. A log adds
    /// a request's whole duration when it ends: the same sum, later.
    pub busy: f32,
    /// Completed requests by route; only routes with any.
    pub routes: &'a [RouteDelta],
}

/// A log counts a request when it ends; one that took so many seconds says nothing about the demand of now.
const STALE: f32 = 4.0;

impl Observed<'_> {
    /// Requests that entered now, as far as that is known.
    pub(super) fn fresh(&self) -> f32 {
        let started = self.started as f32;
        let completed: f32 = self.routes.iter().map(RouteDelta::completed).sum();
        if self.in_flight > 0 || completed != started {
            return started;
        }
        let stale = |d: &&RouteDelta| d.took() >= STALE * d.completed();
        let stale: f32 = self
            .routes
            .iter()
            .filter(stale)
            .map(RouteDelta::completed)
            .sum();
        started - stale
    }

    /// For how many seconds the next requests may have waited for these; zero where they did not take long.
    pub(super) fn waited(&self) -> f32 {
        let each = |d: &RouteDelta| ratio(d.took(), d.completed());
        let longest = self.routes.iter().map(each).fold(0.0, f32::max);
        if longest >= STALE { longest } else { 0.0 }
    }

    /// [`Self::busy`], whatever was put there.
    pub(super) fn held(&self) -> f32 {
        sane(self.busy)
    }
}

/// Seconds of request time as they can be: a year of a thousand requests at most.
fn sane(seconds: f32) -> f32 {
    if seconds.is_finite() {
        seconds.clamp(0.0, 3e10)
    } else {
        0.0
    }
}

/// The state of the service at a tick, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Requests in flight in all.
    pub in_flight: u32,
    /// How many may be.
    pub ceiling: Option<u32>,
}

impl Load {
    pub(super) fn is_near_ceiling(&self) -> bool {
        self.ceiling
            .is_some_and(|most| f64::from(self.in_flight) >= 0.8 * f64::from(most))
    }
}

/// Everything that happened since the last tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// The time of the tick.
    pub now: Timestamp,
    /// The service as a whole.
    pub load: Load,
    /// Callers that did anything or have requests in flight; nobody else need be listed.
    pub callers: &'a [Observed<'a>],
}
