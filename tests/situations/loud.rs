//! Somebody does, and is to be named in time.

use callerid::Class;

use super::{LENGTH, ONSET, Situation, extra, plain, spoil};
use crate::worlds::{Effect, World, between};

pub(crate) fn loud() -> Vec<Situation> {
    let s = |name: &'static str, build, culprits| Situation {
        culprits,
        common: name.contains("crowd"),
        ..Situation::new(name, build)
    };
    vec![
        s(
            "sevenfold on one route",
            |seed| {
                let mut w = plain(seed);
                // Near its capacity it would hang before the onset in some seeds.
                w.capacity = 200.0;
                extra(&mut w, 1, 3, Class::Ok, between(ONSET, ONSET + 400.0, 40.0));
                w
            },
            &[("client-1", ONSET, 5.0)],
        ),
        s(
            "small caller becomes loud",
            |seed| {
                let mut w = plain(seed);
                extra(
                    &mut w,
                    40,
                    3,
                    Class::Validation,
                    between(ONSET, ONSET + 400.0, 20.0),
                );
                w.deploys.push((ONSET - 8.0, 40, "v9"));
                w
            },
            &[("client-40", ONSET, 8.0)],
        ),
        s(
            "slow ramp",
            |seed| {
                let mut w = plain(seed);
                extra(
                    &mut w,
                    5,
                    3,
                    Class::Ok,
                    Box::new(|t| 40.0 * ((t - ONSET) / 600.0).clamp(0.0, 1.0)),
                );
                w
            },
            &[("client-5", ONSET, 300.0)],
        ),
        s(
            "staged rollout of a lot more",
            |seed| {
                let mut w = plain(seed);
                extra(
                    &mut w,
                    5,
                    3,
                    Class::Ok,
                    Box::new(|t| {
                        [0.0, 3.0, 10.0, 40.0][((t - ONSET) / 60.0 + 1.0).clamp(0.0, 3.0) as usize]
                    }),
                );
                w
            },
            &[("client-5", ONSET, 130.0)],
        ),
        s(
            "two at once",
            |seed| {
                let mut w = plain(seed);
                extra(&mut w, 7, 3, Class::Ok, between(ONSET, ONSET + 400.0, 30.0));
                extra(
                    &mut w,
                    9,
                    4,
                    Class::NotFound,
                    between(ONSET + 5.0, ONSET + 400.0, 30.0),
                );
                w
            },
            &[("client-7", ONSET, 6.0), ("client-9", ONSET + 5.0, 6.0)],
        ),
        s(
            "two in a crowd",
            |seed| {
                let mut w = plain(seed);
                for c in &mut w.clients {
                    c.shape = Box::new(|t| if t >= ONSET { 2.0 } else { 1.0 });
                }
                extra(&mut w, 7, 3, Class::Ok, between(ONSET + 60.0, LENGTH, 40.0));
                extra(
                    &mut w,
                    9,
                    4,
                    Class::Ok,
                    between(ONSET + 120.0, LENGTH, 40.0),
                );
                w
            },
            &[
                ("client-7", ONSET + 60.0, 12.0),
                ("client-9", ONSET + 120.0, 12.0),
            ],
        ),
        s(
            "expensive route",
            |seed| {
                let mut w = plain(seed);
                w.capacity = 60.0;
                extra(
                    &mut w,
                    12,
                    50,
                    Class::Ok,
                    Box::new(|t| {
                        if (ONSET..ONSET + 400.0).contains(&t) {
                            1.6
                        } else {
                            0.1
                        }
                    }),
                );
                w.effects.push(Effect::Slow {
                    client: None,
                    route: Some(50),
                    by: 30.0,
                    from: 0.0,
                    to: LENGTH,
                });
                w
            },
            &[("client-12", ONSET, 270.0)],
        ),
        s(
            "tiny service",
            |seed| {
                let mut w = World::new(seed, 4, 0.6, LENGTH);
                extra(&mut w, 1, 3, Class::Ok, between(ONSET, ONSET + 400.0, 3.0));
                w
            },
            &[("client-1", ONSET, 30.0)],
        ),
        s(
            "small service",
            |seed| {
                let mut w = World::new(seed, 8, 4.0, LENGTH);
                extra(&mut w, 2, 3, Class::Ok, between(ONSET, ONSET + 400.0, 6.0));
                w
            },
            &[("client-2", ONSET, 15.0)],
        ),
        s(
            "new caller floods",
            |seed| {
                let mut w = plain(seed);
                w.clients[2].shape = Box::new(|_| 0.0);
                extra(&mut w, 2, 3, Class::Ok, between(ONSET, ONSET + 400.0, 60.0));
                w
            },
            &[("client-2", ONSET, 10.0)],
        ),
        s(
            "invented names",
            |seed| {
                let mut w = plain(seed);
                w.effects.push(Effect::Names {
                    rate: between(ONSET, ONSET + 300.0, 30.0),
                    each: 1.0,
                });
                w
            },
            &[("__other__", ONSET, 8.0)],
        ),
        s(
            "key rotation forgotten",
            |seed| {
                let mut w = plain(seed);
                w.effects.push(spoil(Some(3), None, Class::Auth, 0.95, 0));
                w
            },
            &[("client-3", ONSET, 40.0)],
        ),
        s(
            "one caller's requests hang",
            |seed| {
                let mut w = plain(seed);
                w.clients[8].routes = vec![(3, 1.0)];
                w.capacity = 1e3;
                w.effects.push(Effect::Slow {
                    client: Some(8),
                    route: None,
                    by: 1000.0,
                    from: ONSET,
                    to: ONSET + 300.0,
                });
                w
            },
            &[("client-8", ONSET, 120.0)],
        ),
        s(
            "overload until everything is slow",
            |seed| {
                let mut w = plain(seed);
                w.capacity = 30.0;
                extra(
                    &mut w,
                    6,
                    9,
                    Class::Ok,
                    between(ONSET, ONSET + 300.0, 120.0),
                );
                w
            },
            &[("client-6", ONSET, 15.0)],
        ),
        s(
            "off and on again",
            |seed| {
                let mut w = plain(seed);
                extra(
                    &mut w,
                    6,
                    9,
                    Class::Validation,
                    between(ONSET, ONSET + 120.0, 50.0),
                );
                extra(
                    &mut w,
                    6,
                    9,
                    Class::Validation,
                    between(ONSET + 400.0, ONSET + 500.0, 50.0),
                );
                w
            },
            &[("client-6", ONSET, 10.0), ("client-6", ONSET + 400.0, 10.0)],
        ),
        s(
            "a second outage three quarters of a minute later",
            |seed| {
                let mut w = plain(seed);
                w.capacity = 200.0;
                for from in [ONSET, ONSET + 145.0] {
                    extra(&mut w, 6, 9, Class::Ok, between(from, from + 100.0, 40.0));
                }
                w
            },
            &[("client-6", ONSET, 10.0), ("client-6", ONSET + 145.0, 10.0)],
        ),
        s(
            "rollout in eight steps",
            |seed| {
                let mut w = plain(seed);
                w.capacity = 200.0;
                w.deploys.push((ONSET, 6, "v9"));
                extra(
                    &mut w,
                    6,
                    3,
                    Class::Ok,
                    Box::new(|t| 4.0 * ((t - ONSET) / 30.0).floor().clamp(0.0, 8.0)),
                );
                w
            },
            &[("client-6", ONSET, 100.0)],
        ),
        s(
            "leak over half an hour",
            |seed| {
                let mut w = World::new(seed, 60, 40.0, ONSET + 1200.0);
                extra(
                    &mut w,
                    6,
                    3,
                    Class::Ok,
                    Box::new(|t| 30.0 * ((t - ONSET) / 1800.0).clamp(0.0, 1.0)),
                );
                w
            },
            &[("client-6", ONSET, 600.0)],
        ),
        s(
            "a cron job that does not end",
            |seed| {
                let mut w = plain(seed);
                extra(
                    &mut w,
                    20,
                    2,
                    Class::Ok,
                    Box::new(|t| {
                        if t % 300.0 < 15.0 || t >= ONSET {
                            60.0
                        } else {
                            0.0
                        }
                    }),
                );
                w
            },
            &[("client-20", ONSET, 75.0)],
        ),
        s(
            "runaway right after a restart",
            |seed| {
                let mut w = plain(seed);
                w.capacity = 200.0;
                w.effects.push(Effect::Silence {
                    from: 1400.0,
                    to: ONSET,
                });
                extra(
                    &mut w,
                    6,
                    9,
                    Class::Ok,
                    between(ONSET + 5.0, ONSET + 300.0, 100.0),
                );
                w
            },
            &[("client-6", ONSET + 5.0, 10.0)],
        ),
    ]
}
