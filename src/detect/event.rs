//! What the detector says.

use std::sync::Arc;

use super::observe::RouteId;
use crate::caller::Provenance;
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
