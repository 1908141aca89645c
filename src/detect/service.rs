//! The service as a whole: what everybody gets, hence what anybody's *others* get.

use super::errors::{MEMORY, RECENT};
use super::fade::Fade;
use super::math::{decay, ratio, smooth};
use super::memory::Numbers;
use super::observe::{RouteDelta, RouteId};
use crate::outcome::{Class, Fault};

/// Routes beyond this many share the last place.
const MOST_ROUTES: usize = 1024;
/// Time constant of durations compared with their past, in seconds.
pub(super) const PACE: f32 = 8.0;
/// A request that takes this many times as long as usual on its route is slow,
const SLOW: f32 = 10.0;
/// if it takes so many seconds more.
const SLOW_SECONDS: f32 = 1.0;
/// A service that fails this share of the others' requests blames nobody for failures.
const FAILING: f32 = 0.1;

#[derive(Clone, Debug, Default)]
struct Tally {
    recent: [f32; Class::COUNT],
    pace: Pace,
    time: f32,
    weight: f32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    routes: Vec<Tally>,
    recent: [f32; Class::COUNT],
    usual: [f32; Class::COUNT],
    /// The recent answers to callers who are not in a runaway.
    sound: [f32; Class::COUNT],
    pace: Pace,
    busy: f32,
    /// Of [`Self::recent`] all, and the faults of the service, for everybody who asks in a tick.
    answers: [f32; 2],
    /// Slow requests of the past half hour; see [`Self::is_slow`].
    slow: f32,
    /// Slow requests of the last minute.
    slow_lately: f32,
}

/// Seconds of request time, and what the same requests usually take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    took: f32,
    usual: f32,
}

impl Pace {
    pub(super) fn fade(&mut self, fade: &Fade) {
        let keep = fade.pace;
        self.took *= keep;
        self.usual *= keep;
    }

    pub(super) fn count(&mut self, took: f32, usual: f32) {
        self.took += took;
        self.usual += usual;
    }
}

/// Others this many times as slow as usual are a slow service,
pub(super) const SLOW_SERVICE: f32 = 2.5;
/// and this many times, one that hangs.
pub(super) const HANGS: f32 = 8.0;
impl Service {
    /// The numbers of the routes that are known.
    pub(super) fn routes(&self) -> impl Iterator<Item = RouteId> + '_ {
        (0..)
            .zip(&self.routes)
            .filter(|(_, tally)| tally.weight > 0.0)
            .map(|(id, _)| id)
    }

    /// What outlives a restart.
    pub(super) fn keep(&self, all: &mut Numbers, routes: impl Iterator<Item = RouteId>) {
        all.put_all(&self.usual);
        all.put(self.slow);
        for route in routes {
            let tally = self.routes.get(route as usize);
            all.put_all(&tally.map_or([0.0; 2], |tally| [tally.time, tally.weight]));
        }
    }

    /// Takes it over, given the numbers that the routes have now.
    pub(super) fn recall(&mut self, all: &mut Numbers, routes: &[RouteId]) -> Option<()> {
        self.usual = all.get_all()?.map(|n: f32| n.max(0.0));
        self.slow = all.get()?.max(0.0);
        for &route in routes {
            let [time, weight] = all.get_all()?.map(|n: f32| n.max(0.0));
            let place = (route as usize).min(MOST_ROUTES - 1);
            if self.routes.len() <= place {
                self.routes.resize(place + 1, Tally::default());
            }
            let tally = self.routes.get_mut(place)?;
            (tally.time, tally.weight) = (time, weight);
        }
        Some(())
    }

    pub(super) fn fade(&mut self, dt: f32) {
        let fade = Fade::from(dt);
        let (recent, usual) = (fade.recent, fade.memory);
        for tally in &mut self.routes {
            tally.recent = tally.recent.map(|n| n * recent);
            tally.pace.fade(&fade);
            tally.time *= usual;
            tally.weight *= usual;
        }
        self.recent = self.recent.map(|n| n * recent);
        self.usual = self.usual.map(|n| n * usual);
        self.sound = self.sound.map(|n| n * recent);
        self.pace.fade(&fade);
        self.slow *= usual;
        self.slow_lately *= decay(dt, 60.0);
    }

    /// Learns anew how long requests take.
    pub(super) fn forget_pace(&mut self) {
        for tally in &mut self.routes {
            (tally.time, tally.weight) = (0.0, 0.0);
            tally.pace = Pace::default();
        }
        self.pace = Pace::default();
    }

    /// Counts one route of one caller and returns how long its requests took and usually take in sum. One
    /// request that takes for ever says little about the pace. A caller in a runaway does not teach what is usual.
    pub(super) fn count(&mut self, delta: &RouteDelta, learn: bool) -> (f32, f32) {
        let place = (delta.route as usize).min(MOST_ROUTES - 1);
        if self.routes.len() <= place {
            self.routes.resize(place + 1, Tally::default());
        }
        if self.is_slow(delta) {
            self.slow_lately += 1.0;
            self.slow += if learn { 1.0 } else { 0.0 };
        }
        let steady = self.slowdown(&Pace::default()) < 2.0;
        let Some(tally) = self.routes.get_mut(place) else {
            return (0.0, 0.0);
        };
        let n = delta.completed();
        let took = delta.took();
        for (i, &n) in delta.counts().iter().enumerate() {
            if n == 0 {
                continue; // most classes of most routes
            }
            let n = n as f32;
            tally.recent[i] += n / RECENT;
            self.recent[i] += n / RECENT;
            if learn {
                self.usual[i] += n / MEMORY;
                self.sound[i] += n / RECENT;
            }
        }
        let usual = if tally.weight > 0.0 {
            n * tally.time / tally.weight
        } else {
            took
        };
        if learn && (steady || tally.weight * MEMORY < 10.0) {
            let most = if tally.weight * MEMORY > 10.0 {
                5.0 * usual
            } else {
                took
            };
            tally.time += took.min(most) / MEMORY;
            tally.weight += n / MEMORY;
        }
        let took = took.min(20.0 * usual);
        tally.pace.count(took, usual);
        self.pace.count(took, usual);
        (took, usual)
    }

    /// Whether one of a few requests took much longer than usual on the route.
    pub(super) fn is_slow(&self, delta: &RouteDelta) -> bool {
        if delta.took() < SLOW_SECONDS {
            return false; // most
        }
        let Some(tally) = self.tally(delta.route).filter(|t| t.weight * MEMORY > 10.0) else {
            return false;
        };
        let each = ratio(tally.time, tally.weight);
        let beyond = delta.took() - 3.0 * each * delta.completed();
        beyond >= (SLOW * each).max(SLOW_SECONDS)
    }

    /// The share of slow requests among the others', given the caller's own past.
    pub(super) fn others_slow(&self, own_slow: f32, own: f32) -> f32 {
        let all = self.usual.iter().sum::<f32>() * MEMORY;
        ratio(
            (self.slow - own_slow).max(0.0) + 0.5,
            (all - own).max(100.0),
        )
    }

    /// Whether no request of others has been slow in the last minutes, given the caller's own slow ones.
    pub(super) fn nobody_else_slow(&self, own: f32) -> bool {
        self.slow_lately - own < 0.2
    }

    fn tally(&self, route: RouteId) -> Option<&Tally> {
        self.routes.get((route as usize).min(MOST_ROUTES - 1))
    }

    /// The share of a class among the answers that others get on a route, given the caller's own recent
    /// requests and faults there.
    pub(super) fn others_on(
        &self,
        route: RouteId,
        class: Class,
        own: (f32, f32),
        own_class: f32,
    ) -> f32 {
        let Some(tally) = self.tally(route) else {
            return 0.0;
        };
        let all: f32 = tally.recent.iter().sum();
        share(
            all - own.0,
            tally.recent[class.index()] - own.1.min(own_class),
        )
    }

    /// The share of a class among the answers that others get anywhere, callers in a runaway left out.
    pub(super) fn others(&self, class: Class, own_all: f32, own_class: f32) -> f32 {
        share(
            self.sound.iter().sum::<f32>() - own_all,
            self.sound[class.index()] - own_class,
        )
    }

    /// By how much that is more than usual.
    pub(super) fn rise_of_others(&self, class: Class, own_all: f32, own_class: f32) -> f32 {
        let usual = ratio(self.usual[class.index()], self.usual.iter().sum());
        self.others(class, own_all, own_class) - usual
    }

    /// The share of the service's own faults among the answers that others get.
    pub(super) fn others_faults(&self, own_all: f32, own_faults: f32) -> f32 {
        let [all, faults] = self.answers;
        share(all - own_all, faults - own_faults)
    }

    /// By how much that share is above its past; zero where it may be chance.
    pub(super) fn excess_faults(&self, own_all: f32, own_faults: f32) -> f32 {
        let usual = ratio(faults(&self.usual), self.usual.iter().sum());
        let now = self.others_faults(own_all, own_faults);
        let requests = (self.recent_all() - own_all).max(0.0) * RECENT;
        let expected = usual * requests;
        if (now - usual) * requests >= 3.0 + 3.0 * expected.sqrt() {
            now - usual
        } else {
            0.0
        }
    }

    /// Whether the service fails the others.
    pub(super) fn fails_others(&self, own_all: f32, own_faults: f32) -> bool {
        self.others_faults(own_all, own_faults) >= FAILING
    }

    /// Completed requests per second, now.
    pub(super) fn recent_all(&self) -> f32 {
        self.recent.iter().sum()
    }

    /// Takes what all callers held in flight, in seconds of request time, once all that has ended is counted.
    pub(super) fn take_stock(&mut self, busy: f32, dt: f32) {
        self.answers = [self.recent_all(), faults(&self.recent)];
        smooth(&mut self.busy, busy, dt, PACE);
    }

    /// What others hold in flight now, given what the caller holds.
    pub(super) fn others_hold(&self, own: f32) -> f32 {
        (self.busy - own).max(0.0)
    }

    /// How many times as long as usual the others' requests take.
    pub(super) fn slowdown(&self, own: &Pace) -> f32 {
        let took = self.pace.took - own.took;
        let usual = self.pace.usual - own.usual;
        if usual > 0.02 {
            ratio(took, usual)
        } else {
            1.0
        }
    }

    /// The same on one route, given what the caller's own requests there took; 1 where hardly anybody
    /// else is, or the caller is nearly all.
    pub(super) fn slowdown_on(&self, route: RouteId, own_requests: f32, own_took: f32) -> f32 {
        let Some(tally) = self.tally(route) else {
            return 1.0;
        };
        let mean = ratio(tally.time, tally.weight);
        let own_usual = own_requests * PACE * mean;
        let usual = tally.pace.usual - own_usual;
        if usual >= (2.0 * mean).max(0.3 * own_usual) && usual > 0.0 {
            ratio((tally.pace.took - own_took).max(0.0), usual)
        } else {
            1.0
        }
    }
}

fn faults(by_class: &[f32; Class::COUNT]) -> f32 {
    Class::ALL
        .into_iter()
        .filter(|c| c.fault() == Fault::Service)
        .map(|c| by_class[c.index()])
        .sum()
}

/// A share that is drawn to zero where it stands on few errors: one error of one other caller is no
/// control group, three are.
fn share(all: f32, part: f32) -> f32 {
    let part = part.max(0.0);
    let few = 20.0 / (1.0 + part * RECENT).powi(2);
    ratio(part, all.max(0.0) + few / RECENT).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(class: Class, n: u32, seconds: f32) -> RouteDelta {
        let mut delta = RouteDelta {
            route: 7,
            service_time: seconds * n as f32,
            ..RouteDelta::default()
        };
        delta.by_class[class.index()] = n;
        delta
    }

    #[test]
    fn others_are_everybody_else() {
        let mut service = Service::default();
        service.count(&delta(Class::Validation, 40, 0.1), true);
        service.count(&delta(Class::Ok, 40, 0.1), true);
        let mine = 40.0 / RECENT;
        assert_eq!(
            service.others_on(7, Class::Validation, (mine, mine), mine),
            0.0
        );
        let for_another = service.others_on(7, Class::Validation, (mine, 0.0), 0.0);
        assert!(for_another > 0.9, "{for_another}");
        assert_eq!(service.others_on(u32::MAX, Class::Ok, (0.0, 0.0), 0.0), 0.0);
    }

    #[test]
    fn one_error_of_one_other_is_no_control_group() {
        assert!(share(0.5, 0.25) < 0.2);
        assert!(share(5.0, 5.0) > 0.9);
        assert_eq!(share(-1.0, -1.0), 0.0);
    }

    #[test]
    fn a_slow_spell_shows_and_teaches_nothing() {
        let mut service = Service::default();
        for _ in 0..2000 {
            service.fade(0.25);
            service.count(&delta(Class::Ok, 5, 0.1), true);
        }
        assert!((service.slowdown(&Pace::default()) - 1.0).abs() < 0.1);
        for _ in 0..800 {
            service.fade(0.25);
            service.count(&delta(Class::Ok, 5, 0.8), true);
        }
        let slow = service.slowdown(&Pace::default());
        assert!(slow > 5.0, "{slow}");
        assert!(service.slowdown_on(7, 0.0, 0.0) > 5.0);
    }
}
