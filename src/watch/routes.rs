//! Small numbers for routes, as the detector knows them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::detect::RouteId;
use crate::record::lane::Lane;
use crate::record::route::{RouteHash, RouteRef};

/// Routes beyond this many are the route `__other__`.
const MOST_ROUTES: usize = 1_023;
/// The number of the route `__other__`, which explains nothing.
pub(super) const NO_ROUTE: RouteId = 0;

/// Small numbers for routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    numbers: HashMap<u64, RouteId>,
    names: Vec<Arc<str>>,
}

impl Routes {
    pub(super) fn of(&mut self, lane: &Lane) -> RouteId {
        if lane.route.borrowed() == RouteRef::OTHER {
            return NO_ROUTE;
        }
        self.number(lane.route_hash(), || lane.route.to_string().into())
    }

    pub(super) fn number(&mut self, hash: RouteHash, name: impl FnOnce() -> Arc<str>) -> RouteId {
        let names = &mut self.names;
        *self.numbers.entry(hash.0).or_insert_with(|| {
            if names.len() >= MOST_ROUTES {
                return NO_ROUTE;
            }
            names.push(name());
            names.len() as RouteId
        })
    }

    /// The method and template of a route; `None` where there was no room for it.
    pub(super) fn name(&self, route: RouteId) -> Option<&Arc<str>> {
        self.names.get((route as usize).checked_sub(1)?)
    }
}
