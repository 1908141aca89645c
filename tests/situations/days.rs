//! More days in the life of a service: slow changes, several at once, names that swap, rhythms, mixtures.

use std::f64::consts::TAU;

use callerid::Class;

use super::{LENGTH, ONSET, Situation, extra, plain, spoil};
use crate::worlds::{Client, Effect, World, between};

pub(crate) fn days() -> Vec<Situation> {
    let s = |name, build| Situation::new(name, build);
    loud(s).into_iter().chain(quiet(s)).collect()
}

type New = fn(&'static str, fn(u64) -> World) -> Situation;

fn loud(s: New) -> Vec<Situation> {
    vec![
        s("a small caller climbs for ten minutes", |seed| {
            let mut w = plain(seed);
            let ramp = |t: f64| 25.0 * ((t - ONSET) / 600.0).clamp(0.0, 1.0);
            extra(&mut w, 25, 3, Class::Ok, Box::new(ramp));
            w
        })
        .named(&[("client-25", ONSET, 480.0)]),
        s("a new caller climbs for five minutes", |seed| {
            let mut w = plain(seed);
            w.clients[40].shape = Box::new(|_| 0.0);
            let ramp = |t: f64| 60.0 * ((t - ONSET) / 300.0).clamp(0.0, 1.0);
            extra(&mut w, 40, 3, Class::Ok, Box::new(ramp));
            w
        })
        .named(&[("client-40", ONSET, 150.0)]),
        s("five replicas are rolled out, one a minute", |seed| {
            let mut w = plain(seed);
            w.deploys.push((ONSET - 3.0, 6, "v3"));
            let steps = |t: f64| 8.0 * ((t - ONSET) / 60.0 + 1.0).floor().clamp(0.0, 5.0);
            extra(&mut w, 6, 3, Class::Ok, Box::new(steps));
            w
        })
        .named(&[("client-6", ONSET, 130.0)]),
        s("sevenfold everywhere", |seed| {
            let mut w = plain(seed);
            w.capacity = 200.0;
            w.clients[1].shape = Box::new(|t| if t >= ONSET { 7.0 } else { 1.0 });
            w
        })
        // It takes a visit, up to half a minute, until it brings seven times as much.
        .named(&[("client-1", ONSET, 20.0)]),
        s("renamed, and a runaway at once", |seed| {
            let mut w = plain(seed);
            w.capacity = 200.0;
            w.clients[4].shape = Box::new(|t| f64::from(t < ONSET));
            let new = Client {
                name: "renamed".into(),
                shape: Box::new(|t| if t >= ONSET { 25.0 } else { 0.0 }),
                routes: w.clients[4].routes.clone(),
                ..w.clients[4]
            };
            w.clients.push(new);
            w
        })
        .named(&[("renamed", ONSET, 25.0)]),
        s("two names take turns", |seed| {
            let mut w = plain(seed);
            for (i, client) in [6, 21].into_iter().enumerate() {
                let turn = move |t: f64| {
                    let mine = ((t - ONSET) / 40.0).floor() as i64 % 2 == i as i64;
                    if (ONSET..ONSET + 320.0).contains(&t) && mine {
                        50.0
                    } else {
                        0.0
                    }
                };
                extra(&mut w, client, 3, Class::Ok, Box::new(turn));
            }
            w
        })
        .named(&[("client-6", ONSET, 10.0), ("client-21", ONSET + 40.0, 10.0)]),
        s("one runaway ends as another begins", |seed| {
            let mut w = plain(seed);
            extra(&mut w, 7, 3, Class::Ok, between(ONSET, ONSET + 200.0, 40.0));
            let second = between(ONSET + 200.0, ONSET + 400.0, 40.0);
            extra(&mut w, 9, 3, Class::Ok, second);
            w
        })
        .named(&[("client-7", ONSET, 10.0), ("client-9", ONSET + 200.0, 10.0)]),
        s("a runaway while the largest caller is away", |seed| {
            let mut w = plain(seed);
            w.clients[0].shape = Box::new(|t| if t >= ONSET { 0.1 } else { 1.0 });
            extra(&mut w, 6, 3, Class::Ok, between(ONSET, ONSET + 300.0, 60.0));
            w
        })
        .named(&[("client-6", ONSET, 10.0)]),
        s("a runaway in the crowd's first second", |seed| {
            let mut w = plain(seed);
            for c in &mut w.clients {
                c.shape = Box::new(|t| if t >= ONSET { 1.8 } else { 1.0 });
            }
            extra(&mut w, 7, 3, Class::Ok, between(ONSET, ONSET + 300.0, 80.0));
            w
        })
        .named(&[("client-7", ONSET, 20.0)])
        .said(),
        s("a runaway at night", |seed| {
            let mut w = plain(seed);
            for c in &mut w.clients {
                c.shape = Box::new(|t| 1.0 + 0.8 * (t / 2000.0 * TAU).sin());
            }
            extra(&mut w, 6, 3, Class::Ok, between(ONSET, ONSET + 300.0, 30.0));
            w
        })
        .named(&[("client-6", ONSET, 10.0)])
        .said(),
        s(
            "a small runaway in a service that is slow for good",
            |seed| {
                let mut w = plain(seed);
                w.capacity = 1e4;
                w.effects.push(Effect::Slow {
                    client: None,
                    route: None,
                    by: 5.0,
                    from: 700.0,
                    to: LENGTH,
                });
                extra(
                    &mut w,
                    26,
                    3,
                    Class::Ok,
                    between(ONSET, ONSET + 300.0, 12.0),
                );
                w
            },
        )
        .named(&[("client-26", ONSET, 20.0)])
        .said(),
        s("ten long reports a minute instead of one", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e3;
            let reports = |t: f64| {
                if (ONSET..ONSET + 400.0).contains(&t) {
                    0.8
                } else {
                    0.02
                }
            };
            extra(&mut w, 30, 50, Class::Ok, Box::new(reports));
            w.effects.push(Effect::Slow {
                client: None,
                route: Some(50),
                by: 250.0,
                from: 0.0,
                to: LENGTH,
            });
            w
        })
        .named(&[("client-30", ONSET, 150.0)])
        .live(120.0),
        s("it repeats what it is told is wrong", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(spoil(Some(2), None, Class::Validation, 0.97, 25));
            w
        })
        .named(&[("client-2", ONSET, 20.0)]),
        s("one caller's requests break a handler", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(spoil(Some(2), None, Class::ServerError, 0.9, 0));
            w
        })
        .named(&[("client-2", ONSET, 40.0)]),
        s("one caller asks for what is gone", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(spoil(Some(3), None, Class::NotFound, 0.9, 0));
            w
        })
        .named(&[("client-3", ONSET, 60.0)]),
        s("one caller loses its rights, another runs away", |seed| {
            let mut w = plain(seed);
            w.effects.push(spoil(Some(3), None, Class::Auth, 0.95, 0));
            extra(&mut w, 9, 3, Class::Ok, between(ONSET, ONSET + 300.0, 40.0));
            w
        })
        .named(&[("client-3", ONSET, 40.0), ("client-9", ONSET, 8.0)]),
    ]
}

fn quiet(s: New) -> Vec<Situation> {
    vec![
        s("each caller has its own day", |seed| {
            let mut w = plain(seed);
            for (i, c) in w.clients.iter_mut().enumerate() {
                let phase = i as f64 * 2.4;
                c.shape = Box::new(move |t| 1.0 + 0.7 * (t / 2400.0 * TAU + phase).sin());
            }
            w
        }),
        s("visits of forty requests", |seed| {
            let mut w = plain(seed);
            for c in &mut w.clients {
                c.visit = 40.0;
                c.pause = 0.2;
            }
            w
        }),
        s("the service is restarted five times", |seed| {
            let mut w = plain(seed);
            for k in 0..5 {
                let from = ONSET + 90.0 * f64::from(k);
                w.effects.push(Effect::Silence {
                    from,
                    to: from + 8.0,
                });
            }
            for c in &mut w.clients {
                c.shape = Box::new(|t| {
                    let after = (t - ONSET).rem_euclid(90.0);
                    let rush = (ONSET..ONSET + 450.0).contains(&t) && (8.0..16.0).contains(&after);
                    if rush { 2.0 } else { 1.0 }
                });
            }
            w
        })
        .said(),
        s("a small caller's new version doubles it", |seed| {
            let mut w = plain(seed);
            w.clients[20].shape = Box::new(|t| if t >= ONSET { 2.0 } else { 1.0 });
            w.deploys.push((ONSET - 4.0, 20, "v2"));
            w
        }),
        s("blue becomes green and blue again", |seed| {
            let mut w = plain(seed);
            let green = |t: f64| f64::from((ONSET..ONSET + 300.0).contains(&t));
            let new = Client {
                name: "green".into(),
                shape: Box::new(green),
                routes: w.clients[1].routes.clone(),
                ..w.clients[1]
            };
            w.clients[1].shape = Box::new(move |t| 1.0 - green(t));
            w.clients.push(new);
            w
        }),
        s("half of the callers leave", |seed| {
            let mut w = plain(seed);
            for c in w.clients.iter_mut().step_by(2) {
                c.shape = Box::new(|t| f64::from(t < ONSET));
            }
            w
        }),
        s("small callers take turns at bursts", |seed| {
            let mut w = plain(seed);
            for i in 0..20 {
                let phase = 30.0 * i as f64;
                let burst = move |t: f64| {
                    if (t + phase) % 600.0 < 2.0 { 10.0 } else { 0.0 }
                };
                extra(&mut w, 30 + i, 3, Class::Ok, Box::new(burst));
            }
            w
        }),
        s("two callers, a request every five seconds", |seed| {
            World::new(seed, 2, 0.2, LENGTH)
        }),
        s("six callers, three requests in two seconds", |seed| {
            World::new(seed, 6, 1.5, LENGTH)
        }),
        s("a token of everybody expires", |seed| {
            let mut w = plain(seed);
            w.effects.push(Effect::Spoil {
                client: None,
                route: None,
                class: Class::Auth,
                share: 0.9,
                from: ONSET,
                to: ONSET + 20.0,
                retries: 1,
            });
            w
        })
        .said(),
        s("three modest batch jobs start together", |seed| {
            let mut w = plain(seed);
            for i in 40..43 {
                extra(&mut w, i, 3, Class::Ok, between(ONSET, ONSET + 300.0, 2.0));
            }
            w
        }),
        s("a job is never quite as high as before", |seed| {
            let mut w = plain(seed);
            let job = |t: f64| {
                let height = 30.0 + 8.0 * ((t / 300.0).floor() * 2.4).sin();
                if t % 300.0 < 15.0 { height } else { 0.0 }
            };
            extra(&mut w, 20, 2, Class::Ok, Box::new(job));
            w
        }),
        s("thirty new callers in ten minutes", |seed| {
            let mut w = World::new(seed, 90, 40.0, LENGTH);
            for (i, c) in w.clients.iter_mut().enumerate().skip(60) {
                let from = ONSET + 20.0 * (i - 60) as f64;
                c.shape = Box::new(move |t| f64::from(t >= from));
            }
            w
        }),
        s(
            "everybody falls silent but for a tenth, and is back",
            |seed| {
                let mut w = plain(seed);
                for c in &mut w.clients {
                    c.shape = Box::new(|t| {
                        if (ONSET - 300.0..ONSET).contains(&t) {
                            0.1
                        } else {
                            1.0
                        }
                    });
                }
                w
            },
        )
        .said(),
    ]
}
