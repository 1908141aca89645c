//! Who is behind a sudden rise? Change detection per caller, with the other callers as the control group.
//!
//! The request path only counts. A few times a second a [`Tick`] brings what has been counted since the last
//! one, and the [`Detector`] says [`Event`]s: who departs from their own past, in what, since when, which
//! route and class explain it, which deploy came just before, and whether the others suffer.
//!
//! | signal | what rises | file |
//! |---|---|---|
//! | `rate` | requests per second against the largest harmless rate | `rate/` |
//! | `errors` | the share of one class against the past and against what others get | `errors.rs` |
//! | `in_flight` | seconds of request time that are held, beyond what the number of requests explains | `hold.rs` |
//! | `names` | requests under names that are new | `judge.rs` |
//!
//! Each is a cumulative sum of log-likelihood ratios (Page, *Continuous inspection schemes*, 1954). Among all
//! tests with the same rate of false alarms it has the shortest worst-case delay (Lorden 1971; Moustakides
//! 1986), which comes to a dozen or two requests of the runaway, whatever the rate. What takes most of the
//! care is not the sum but what it is compared with, since callers are not Poisson and the world is not still:
//!
//! * a caller's burstiness divides its evidence, and bursts that ended by themselves are remembered;
//! * what everybody does (a crowd, a wave, catching up after a restart) raises everybody's reference;
//! * errors and slowness that the others get too, on the same route or anywhere, are the service's;
//! * what a failing service makes callers repeat is not counted as their demand;
//! * who takes over what another caller has lost is not a runaway but renamed;
//! * too little to matter for the service is no alarm, whatever the evidence.
//!
//! Blame is subtraction: the part of the excess that falls on a caller, route or class is its explanatory
//! power (Bhagwan et al., *Adtributor*, NSDI 2014).
//!
//! State is at most 512 bytes per tracked caller. A tick costs a few hundred nanoseconds per active caller and
//! route, once a second every tracked caller is looked at. Time is that of the ticks; nothing here reads a
//! clock, so a replayed log says what production would have said.

mod blame;
mod common;
mod deploys;
mod detector;
mod episode;
mod errors;
mod event;
mod fade;
mod follow;
mod heirs;
mod hold;
mod judge;
mod math;
pub(crate) mod memory;
mod observe;
mod rate;
mod service;
mod shares;
mod standing;
mod state;

pub use detector::Detector;
pub use event::{Deploy, Event, Harm, Kind, Signal};
pub use observe::{CallerId, Load, Observed, RouteDelta, RouteId, Row, Tick};
pub use standing::Standing;

/// Seconds over which the past is counted.
const WINDOW: f32 = 10.0;
/// Seconds of traffic before which nothing is known,
const FIRST: f64 = 60.0;
/// and before which only what is harmful is said.
const WARM: f64 = 600.0;

/// What is normal for the service, and what all callers have in common now.
#[derive(Clone, Copy, Debug)]
struct World {
    /// How many times as much as usual everybody sends; at least 1.
    common: f32,
    /// How many times as long as usual the others' requests take; at least 1.
    slowdown: f32,
    /// The factor by which references are raised after a gap.
    grace: f32,
    /// Usual requests per second.
    total: f32,
    /// Usual requests in flight.
    concurrency: f32,
    /// Usual errors per second that speak against callers.
    errors: f32,
    /// Requests that the others hold in flight now.
    others_hold: f32,
    /// Whether nearly all traffic is the caller's: nobody is there to compare its requests' durations with.
    alone: bool,
    /// Windows of traffic seen.
    age: u16,
    /// Seconds since the last tick.
    tick: f32,
}

impl Default for World {
    fn default() -> Self {
        Self {
            common: 1.0,
            slowdown: 1.0,
            grace: 1.0,
            total: 0.0,
            concurrency: 0.0,
            errors: 0.0,
            others_hold: 0.0,
            alone: false,
            age: 0,
            tick: 0.25,
        }
    }
}
