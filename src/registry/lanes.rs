//! Which lane of a row a request goes to, within the budget of pairs of caller and route.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::{Entry, Trust};
use super::{Registry, Who};
use crate::record::lane::{Lane, thread_number};
use crate::record::route::{RouteHash, RouteRef};
use crate::record::row::Row;

impl Registry {
    /// The lane of a caller: of its own row, or of `__other__`.
    pub(super) fn lane_of(
        &self,
        entry: &Entry,
        own: Option<&Arc<Row>>,
        route: (RouteRef<'_>, RouteHash),
        who: &Who<'_>,
    ) -> Arc<Lane> {
        let Some(row) = own else {
            return self.lane(self.other_row(), route, who);
        };
        match entry.first_lane().get() {
            Some(first) if first.is_for(route.1, who.source, who.provenance) => Arc::clone(first),
            first => {
                let lane = self.lane(row, route, who);
                if first.is_none() && lane.unowned().is_none() {
                    let _ = entry.first_lane().set(Arc::clone(&lane));
                }
                lane
            }
        }
    }

    /// The lane of a row for a route and a source, made if need be.
    fn lane(&self, row: &Arc<Row>, route: (RouteRef<'_>, RouteHash), who: &Who<'_>) -> Arc<Lane> {
        let (source, provenance) = (who.source, who.provenance);
        let find = |hash| row.lane(hash, source, provenance, thread_number());
        let add = |route| row.add_lane(route, source, provenance, &self.ticker);
        find(route.1).unwrap_or_else(|| {
            let is_special = route.0 == RouteRef::OTHER || route.0 == RouteRef::UNMATCHED;
            if is_special || row.has_route(route.1) {
                return add(route).0;
            }
            if self.take_pair() {
                let (lane, is_new) = add(route);
                if !is_new {
                    // Another thread was faster, and has paid.
                    self.pairs.fetch_sub(1, Ordering::AcqRel);
                }
                return lane;
            }
            find(self.route_other).unwrap_or_else(|| add((RouteRef::OTHER, self.route_other)).0)
        })
    }

    /// Takes one of the places for pairs of caller and route, if one is free.
    fn take_pair(&self) -> bool {
        let room = |pairs: usize| (pairs < self.limits.pairs).then_some(pairs + 1);
        let taken = self
            .pairs
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, room);
        taken.is_ok()
    }

    /// The lane of the row of an open request, for another route.
    pub(crate) fn reroute(&self, lane: &Arc<Lane>, route: RouteRef<'_>) -> Arc<Lane> {
        let who = Who {
            trust: Trust::Ours,
            name: "",
            provenance: lane.provenance,
            source: lane.source,
        };
        self.lane(&lane.row, (route, route.hashed(&self.hasher)), &who)
    }
}
