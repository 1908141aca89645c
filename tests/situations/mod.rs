//! What may happen to a service, and who is to be named for it.

mod again;
mod course;
mod days;
mod identity;
mod loud;
mod quiet;
mod service;

use callerid::Class;

use crate::worlds::{self, Effect, World};

pub(crate) const LENGTH: f64 = 2400.0;
pub(crate) const ONSET: f64 = 1500.0;

pub(crate) struct Situation {
    pub(crate) name: &'static str,
    pub(crate) build: fn(u64) -> World,
    /// Who is to be named, and within how many seconds.
    pub(crate) culprits: &'static [(&'static str, f64, f64)],
    /// Whether something may be said about the service as a whole.
    pub(crate) common: bool,
    /// Within how many seconds where requests in flight are known.
    pub(crate) live: Option<f64>,
    /// Who may be named, once, and not as harmful.
    pub(crate) may: Option<&'static str>,
}

impl Situation {
    fn new(name: &'static str, build: fn(u64) -> World) -> Self {
        Self {
            name,
            build,
            culprits: &[],
            common: false,
            live: None,
            may: None,
        }
    }

    fn named(self, culprits: &'static [(&'static str, f64, f64)]) -> Self {
        Self { culprits, ..self }
    }

    fn said(self) -> Self {
        Self {
            common: true,
            ..self
        }
    }

    fn live(self, within: f64) -> Self {
        Self {
            live: Some(within),
            ..self
        }
    }

    fn may_name(self, caller: &'static str) -> Self {
        Self {
            may: Some(caller),
            ..self
        }
    }
}

pub(crate) fn all() -> Vec<Situation> {
    let parts = [
        quiet::quiet(),
        loud::loud(),
        identity::identity(),
        course::course(),
        service::service(),
        days::days(),
        again::again(),
    ];
    parts.into_iter().flatten().collect()
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
    spoil_between((ONSET, ONSET + 300.0), client, route, class, share, retries)
}

fn spoil_between(
    (from, to): (f64, f64),
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
        from,
        to,
        retries,
    }
}
