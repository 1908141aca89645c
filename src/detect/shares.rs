//! A caller's heaviest routes: what each usually gets, and what it gets now. Who explains a change is then a
//! matter of subtraction: the part of the excess that falls on a route (the explanatory power of Adtributor,
//! Bhagwan et al., NSDI 2014, for a measure that adds up).

use super::errors::{MEMORY, RECENT};
use super::fade::Fade;
use super::math::ratio;
use super::memory::Numbers;
use super::observe::{RouteDelta, RouteId};
use crate::outcome::{Class, Fault};

/// Routes that are kept apart per caller. The lightest makes room for a new one.
const SLOTS: usize = 6;
/// A route that explains less than this much of the change is not named.
const EXPLAINS: f32 = 0.6;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The route and one; zero where the slot is free.
    route: u32,
    usual: f32,
    recent: f32,
    faults: [f32; 2],
    busy: f32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shares([Slot; SLOTS]);

impl Shares {
    /// What outlives a restart: how much of each route is usual.
    pub(super) fn keep(&self, all: &mut Numbers, place: &dyn Fn(RouteId) -> Option<u32>) {
        for slot in &self.0 {
            let place = slot.route.checked_sub(1).and_then(place);
            all.put_u32(place.map_or(0, |place| place + 1));
            all.put(slot.usual);
        }
    }

    pub(super) fn recall(all: &mut Numbers, routes: &[RouteId]) -> Option<Self> {
        let mut shares = Self::default();
        for slot in &mut shares.0 {
            let place = all.get_u32()?.checked_sub(1);
            let usual = all.get()?.max(0.0);
            if let Some(place) = place {
                slot.route = routes.get(place as usize)?.saturating_add(1);
                slot.usual = usual;
            }
        }
        Some(shares)
    }

    pub(super) fn fade(&mut self, fade: impl Into<Fade>, learn: bool) {
        let fade = fade.into();
        let (recent, busy) = (fade.recent, fade.pace);
        let usual = if learn { fade.memory } else { 1.0 };
        for slot in self.0.iter_mut().filter(|slot| slot.route > 0) {
            slot.usual *= usual;
            slot.recent *= recent;
            slot.busy *= busy;
            slot.faults = slot.faults.map(|n| n * recent);
        }
    }

    /// Counts one route, whose requests took `took` seconds as [`super::service::Service::count`] says it.
    pub(super) fn count(&mut self, delta: &RouteDelta, took: f32, learn: bool) {
        let n = delta.completed();
        let key = delta.route.saturating_add(1);
        let weight = |s: &Slot| s.recent + s.usual;
        let known = self.0.iter().position(|s| s.route == key);
        let place = known.or_else(|| {
            (0..SLOTS).min_by(|&a, &b| weight(&self.0[a]).total_cmp(&weight(&self.0[b])))
        });
        let Some(slot) = place.and_then(|i| self.0.get_mut(i)) else {
            return;
        };
        if known.is_none() {
            *slot = Slot {
                route: key,
                ..Slot::default()
            };
        }
        slot.recent += n / RECENT;
        if learn {
            slot.usual += n / MEMORY;
        }
        for (class, &n) in Class::ALL.into_iter().zip(delta.counts()) {
            match class.fault() {
                Fault::None => {}
                Fault::Caller => slot.faults[0] += n as f32 / RECENT,
                Fault::Service => slot.faults[1] += n as f32 / RECENT,
            }
        }
        slot.busy += took;
    }

    /// The caller's own recent requests and faulty ones on a route, per second.
    pub(super) fn own(&self, route: RouteId, fault: Fault) -> (f32, f32) {
        let key = route.saturating_add(1);
        self.0
            .iter()
            .find(|s| s.route == key)
            .map_or((0.0, 0.0), |s| {
                (s.recent, s.faults[usize::from(fault == Fault::Service)])
            })
    }

    /// The caller's own recent requests per second on a route, and the seconds that they took of late.
    pub(super) fn pace(&self, route: RouteId) -> (f32, f32) {
        let key = route.saturating_add(1);
        self.0
            .iter()
            .find(|s| s.route == key)
            .map_or((0.0, 0.0), |s| (s.recent, s.busy))
    }

    /// The route that explains most of a rise in requests.
    pub(super) fn of_rate(&self, learned: f32, common: f32) -> Option<RouteId> {
        self.most(|s| s.recent - common * ratio(s.usual, learned))
    }

    /// The route that explains most of the errors.
    pub(super) fn of_errors(&self, fault: Fault) -> Option<RouteId> {
        self.most(|s| s.faults[usize::from(fault == Fault::Service)])
    }

    /// The route that explains most of what is held in flight.
    pub(super) fn of_busy(&self) -> Option<RouteId> {
        self.most(|s| s.busy)
    }

    fn most(&self, excess: impl Fn(&Slot) -> f32) -> Option<RouteId> {
        let taken = || self.0.iter().filter(|s| s.route > 0);
        let all: f32 = taken().map(|s| excess(s).max(0.0)).sum();
        let top = taken().max_by(|a, b| excess(a).total_cmp(&excess(b)))?;
        (all > 0.0 && excess(top) >= EXPLAINS * all).then(|| top.route - 1)
    }

    /// The change has become the rule.
    pub(super) fn accept(&mut self, learned: f32) {
        for slot in &mut self.0 {
            slot.usual = slot.recent * learned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::math::decay;
    use super::*;

    fn count(shares: &mut Shares, route: RouteId, n: u32, learn: bool) {
        let mut delta = RouteDelta {
            route,
            ..RouteDelta::default()
        };
        delta.by_class[0] = n;
        shares.count(&delta, 0.0, learn);
    }

    #[test]
    fn the_route_that_rose_is_named_though_another_is_larger() {
        let mut shares = Shares::default();
        let mut learned = 0.0;
        for _ in 0..8000 {
            shares.fade(0.25, true);
            learned = learned * decay(0.25, MEMORY) + 1.0 - decay(0.25, MEMORY);
            count(&mut shares, 1, 10, true);
            count(&mut shares, 2, 1, true);
        }
        for _ in 0..40 {
            shares.fade(0.25, false);
            count(&mut shares, 1, 10, false);
            count(&mut shares, 2, 9, false);
        }
        assert_eq!(shares.of_rate(learned, 1.0), Some(2));
    }

    #[test]
    fn a_rise_on_all_routes_is_nobodys() {
        let mut shares = Shares::default();
        for route in 0..4 {
            count(&mut shares, route, 10, false);
        }
        assert_eq!(shares.of_rate(1.0, 1.0), None);
        assert_eq!(Shares::default().of_rate(0.0, 1.0), None);
    }

    #[test]
    fn the_lightest_route_makes_room() {
        let mut shares = Shares::default();
        for route in 0..100 {
            count(&mut shares, route, 1 + 100 * u32::from(route == 3), false);
        }
        assert_eq!(shares.of_rate(1.0, 1.0), Some(3));
    }
}
