//! How a change comes: in steps, slowly, for good, back again, by the clock.

use callerid::Class;

use super::{LENGTH, ONSET, Situation, extra, plain};
use crate::worlds::{Effect, World, between};

pub(crate) fn course() -> Vec<Situation> {
    let quiet = |name, build| Situation::new(name, build);
    vec![
        quiet("canary at 5 % and then at 50 %", |seed| {
            let mut w = plain(seed);
            for (at, version) in [(0.0, "v2-canary"), (300.0, "v2")] {
                w.deploys.push((ONSET + at - 6.0, 4, version));
            }
            extra(
                &mut w,
                4,
                3,
                Class::Validation,
                Box::new(|t| match t - ONSET {
                    ..0.0 => 0.0,
                    0.0..300.0 => 3.0,
                    _ => 30.0,
                }),
            );
            w
        })
        .named(&[("client-4", ONSET, 306.0)]),
        quiet("doubles every minute and a half", |seed| {
            let mut w = plain(seed);
            extra(
                &mut w,
                15,
                3,
                Class::Ok,
                Box::new(|t| {
                    if t >= ONSET {
                        0.5 * 2.0_f64.powf((t - ONSET) / 90.0).min(128.0)
                    } else {
                        0.0
                    }
                }),
            );
            w
        })
        .named(&[("client-15", ONSET, 500.0)]),
        quiet("three at once, each in its own way", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e3;
            w.clients[8].routes = vec![(3, 1.0)];
            extra(&mut w, 5, 3, Class::Ok, between(ONSET, ONSET + 300.0, 40.0));
            w.effects
                .push(super::spoil(Some(3), None, Class::Auth, 0.95, 0));
            w.effects.push(Effect::Slow {
                client: Some(8),
                route: None,
                by: 1000.0,
                from: ONSET,
                to: ONSET + 300.0,
            });
            w
        })
        .named(&[
            ("client-5", ONSET, 6.0),
            ("client-3", ONSET, 40.0),
            ("client-8", ONSET, 120.0),
        ]),
        quiet("five at once", |seed| {
            let mut w = plain(seed);
            for i in [4, 9, 14, 19, 24] {
                extra(&mut w, i, 3, Class::Ok, between(ONSET, ONSET + 300.0, 40.0));
            }
            w
        })
        .named(&[
            ("client-4", ONSET, 10.0),
            ("client-9", ONSET, 10.0),
            ("client-14", ONSET, 10.0),
            ("client-19", ONSET, 10.0),
            ("client-24", ONSET, 10.0),
        ]),
        quiet("runaway on a rising wave", |seed| {
            let mut w = plain(seed);
            for c in &mut w.clients {
                c.shape =
                    Box::new(|t| 1.0 + 0.6 * (t / 2400.0 * std::f64::consts::TAU - 3.0).sin());
            }
            extra(&mut w, 6, 3, Class::Ok, between(ONSET, ONSET + 300.0, 40.0));
            w
        })
        .named(&[("client-6", ONSET, 8.0)])
        .said(),
        quiet("one of three callers", |seed| {
            let mut w = World::new(seed, 3, 6.0, LENGTH);
            extra(&mut w, 1, 3, Class::Ok, between(ONSET, ONSET + 300.0, 14.0));
            w
        })
        .named(&[("client-1", ONSET, 15.0)]),
        quiet("the only caller", |seed| {
            let mut w = World::new(seed, 1, 5.0, LENGTH);
            extra(&mut w, 0, 3, Class::Ok, between(ONSET, ONSET + 300.0, 35.0));
            w
        })
        .named(&[("client-0", ONSET, 15.0)]),
        quiet("leaks until everything of it is slow", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e3;
            w.effects.push(Effect::Leak {
                client: 6,
                by: Box::new(|t| 1.0 + 300.0 * ((t - ONSET) / 600.0).clamp(0.0, 1.0)),
            });
            w
        })
        .named(&[("client-6", ONSET, 600.0)]),
        quiet("runaway while the service fails", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(super::spoil(None, None, Class::Unavailable, 0.5, 2));
            extra(
                &mut w,
                6,
                3,
                Class::Ok,
                between(ONSET + 90.0, ONSET + 300.0, 100.0),
            );
            w
        })
        .named(&[("client-6", ONSET + 90.0, 15.0)])
        .said(),
        quiet("only caller, ordinary", |seed| {
            World::new(seed, 1, 5.0, LENGTH)
        }),
        quiet("three callers, ordinary", |seed| {
            World::new(seed, 3, 6.0, LENGTH)
        }),
        quiet(
            "a tiny caller rises a hundredfold to nothing much",
            |seed| {
                let mut w = plain(seed);
                w.clients[50].rate = 0.02;
                extra(&mut w, 50, 3, Class::Ok, between(ONSET, ONSET + 300.0, 2.0));
                w
            },
        ),
        quiet(
            "a large caller is gone for half an hour and comes back",
            |seed| {
                let mut w = World::new(seed, 20, 30.0, LENGTH + 900.0);
                w.clients[0].shape = Box::new(|t| f64::from(!(ONSET..ONSET + 1600.0).contains(&t)));
                w
            },
        ),
        quiet("a large caller falls to a tenth and comes back", |seed| {
            let mut w = World::new(seed, 20, 30.0, LENGTH + 900.0);
            w.clients[0].shape = Box::new(|t| {
                if (ONSET..ONSET + 1600.0).contains(&t) {
                    0.1
                } else {
                    1.0
                }
            });
            w
        }),
        quiet("night for all but one, and morning", |seed| {
            let mut w = World::new(seed, 40, 30.0, LENGTH + 900.0);
            for c in w.clients.iter_mut().skip(1) {
                c.shape = Box::new(|t| {
                    if (ONSET..ONSET + 1200.0).contains(&t) {
                        0.15
                    } else {
                        1.0
                    }
                });
            }
            w
        })
        .said(),
        quiet("every full ten minutes ten callers at once", |seed| {
            let mut w = plain(seed);
            for i in 0..10 {
                w.clients[i].shape = Box::new(|t| if t % 300.0 < 10.0 { 5.0 } else { 1.0 });
            }
            w
        })
        .said(),
        quiet("a caller grows by half for good", |seed| {
            let mut w = plain(seed);
            w.clients[0].shape = Box::new(|t| if t >= ONSET { 1.5 } else { 1.0 });
            w
        }),
        quiet("a large caller triples for good", |seed| {
            let mut w = World::new(seed, 20, 30.0, ONSET + 4800.0);
            w.clients[0].shape = Box::new(|t| if t >= ONSET { 3.0 } else { 1.0 });
            w.capacity = 1e3;
            w
        })
        .may_name("client-0"),
        quiet("one victim retries hardest", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(super::spoil(None, None, Class::Unavailable, 0.85, 1));
            w.effects
                .push(super::spoil(Some(7), None, Class::Unavailable, 0.95, 40));
            w
        })
        .said(),
        quiet("sessions that bring sessions", |seed| {
            let mut w = plain(seed);
            for c in &mut w.clients {
                c.visit = 15.0;
                c.pause = 0.8;
            }
            w
        }),
    ]
}
