//! What may happen to a service, and who is to be named for it.

mod loud;
mod quiet;

use callerid::Class;

use crate::worlds::{self, Effect, World};

pub(crate) use loud::loud;
pub(crate) use quiet::quiet;

pub(crate) const LENGTH: f64 = 2400.0;
pub(crate) const ONSET: f64 = 1500.0;

pub(crate) struct Situation {
    pub(crate) name: &'static str,
    pub(crate) build: fn(u64) -> World,
    /// Who is to be named, and within how many seconds.
    pub(crate) culprits: &'static [(&'static str, f64, f64)],
    /// Whether something may be said about the service as a whole.
    pub(crate) common: bool,
}

fn plain(seed: u64) -> World {
    World::new(seed, 60, 40.0, LENGTH)
}

fn extra(w: &mut World, client: usize, route: u32, class: Class, rate: worlds::Shape) {
    w.effects.push(Effect::Extra {
        client,
        route,
        class,
        rate,
    });
}

fn spoil(
    client: Option<usize>,
    route: Option<u32>,
    class: Class,
    share: f64,
    retries: u32,
) -> Effect {
    Effect::Spoil {
        client,
        route,
        class,
        share,
        from: ONSET,
        to: ONSET + 300.0,
        retries,
    }
}
