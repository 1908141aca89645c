//! Situations that an operator would think of, with the one right answer to each.
//!
//! One seed by default, fed by turns as production and as a log does; `SEEDS=3..9` runs others, both ways, and
//! `SITUATION=crowd` only those whose name contains the word. The longest delays allowed are those of small,
//! very bursty callers: the evidence of a burst is divided by how bursty the caller has been.

mod worlds;

use callerid::Class;
use worlds::{Effect, World, between, verdict};

const LENGTH: f64 = 2400.0;
const ONSET: f64 = 1500.0;

struct Situation {
    name: &'static str,
    build: fn(u64) -> World,
    /// Who is to be named, and within how many seconds.
    culprits: &'static [(&'static str, f64, f64)],
    /// Whether something may be said about the service as a whole.
    common: bool,
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

fn quiet() -> Vec<Situation> {
    let s = |name: &'static str, build| Situation {
        name,
        build,
        culprits: &[],
        common: [
            "fails",
            "rejects",
            "times out",
            "crowd",
            "catches up",
            "slow",
        ]
        .iter()
        .any(|w| name.contains(w)),
    };
    vec![
        s("ordinary life", plain),
        s("many callers", |seed| World::new(seed, 400, 90.0, LENGTH)),
        s("tiny service", |seed| World::new(seed, 4, 0.6, LENGTH)),
        s("small service", |seed| World::new(seed, 8, 4.0, LENGTH)),
        s("wave", |seed| {
            let mut w = plain(seed);
            for c in &mut w.clients {
                c.shape = Box::new(|t| 1.0 + 0.6 * (t / 1200.0 * std::f64::consts::TAU).sin());
            }
            w
        }),
        s("restart, everybody catches up", |seed| {
            let mut w = plain(seed);
            w.effects.push(Effect::Silence {
                from: 1400.0,
                to: ONSET,
            });
            for (i, c) in w.clients.iter_mut().enumerate() {
                let k = 1.5 + (i % 5) as f64;
                c.shape = Box::new(move |t| {
                    if (ONSET..ONSET + 40.0).contains(&t) {
                        k
                    } else {
                        1.0
                    }
                });
            }
            w
        }),
        s("rename", |seed| {
            let mut w = plain(seed);
            rename(&mut w, 1, |t| f64::from(t >= ONSET));
            w
        }),
        s("rolling rename", |seed| {
            let mut w = plain(seed);
            rename(&mut w, 1, |t| ((t - ONSET) / 120.0).clamp(0.0, 1.0));
            w
        }),
        s("new caller", |seed| {
            let mut w = plain(seed);
            w.clients[2].shape = Box::new(|t| f64::from(t >= ONSET));
            w
        }),
        s("many tiny new callers", |seed| {
            let mut w = World::new(seed, 200, 40.0, LENGTH);
            for (i, c) in w.clients.iter_mut().enumerate().skip(60) {
                let from = 700.0 + 12.0 * i as f64;
                c.shape = Box::new(move |t| f64::from(t >= from));
            }
            w
        }),
        s("staged rollout of a little more", |seed| {
            let mut w = plain(seed);
            w.clients[3].shape =
                Box::new(|t| 1.0 + 0.15 * ((t - ONSET) / 100.0).floor().clamp(0.0, 4.0));
            w.deploys.push((ONSET - 5.0, 3, "v2"));
            w
        }),
        s("service fails, everybody retries", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(spoil(None, None, Class::Unavailable, 0.8, 4));
            w
        }),
        s("one route fails, its callers retry", |seed| {
            let mut w = plain(seed);
            w.effects
                .push(spoil(None, Some(4), Class::ServerError, 0.9, 3));
            w
        }),
        s("our deploy rejects good input", |seed| {
            let mut w = plain(seed);
            w.effects.push(spoil(None, None, Class::Validation, 0.6, 0));
            w
        }),
        s("service times out behind an impatient proxy", |seed| {
            let mut w = plain(seed);
            w.effects.push(spoil(None, None, Class::Cancelled, 0.4, 2));
            w.effects.push(Effect::Slow {
                client: None,
                route: None,
                by: 12.0,
                from: ONSET,
                to: ONSET + 300.0,
            });
            w
        }),
        s("dependency is slow", |seed| {
            let mut w = plain(seed);
            w.effects.push(Effect::Slow {
                client: None,
                route: None,
                by: 8.0,
                from: ONSET,
                to: ONSET + 300.0,
            });
            w
        }),
        s("one route is slow for all", |seed| {
            let mut w = plain(seed);
            for c in w.clients.iter_mut().step_by(3) {
                c.routes.push((5, 0.5));
            }
            w.effects.push(Effect::Slow {
                client: None,
                route: Some(5),
                by: 40.0,
                from: ONSET,
                to: ONSET + 300.0,
            });
            w
        }),
        s("crowd", |seed| {
            let mut w = plain(seed);
            for (i, c) in w.clients.iter_mut().enumerate() {
                let (k, lag) = (1.8 + (i % 4) as f64 * 0.4, (i % 13) as f64);
                c.shape =
                    Box::new(move |t| 1.0 + (k - 1.0) * ((t - ONSET - lag) / 20.0).clamp(0.0, 1.0));
            }
            w
        }),
        s("cron jobs", |seed| {
            let mut w = plain(seed);
            for k in 0..3 {
                let (period, high) = ([120.0, 300.0, 450.0][k], [25.0, 60.0, 40.0][k]);
                extra(
                    &mut w,
                    20 + k,
                    k as u32,
                    Class::Ok,
                    Box::new(move |t| if t % period < 15.0 { high } else { 0.0 }),
                );
            }
            w
        }),
        s("webhooks in bursts", |seed| {
            let mut w = plain(seed);
            for i in 10..16 {
                w.clients[i].visit = 25.0;
                w.clients[i].pause = 0.03;
            }
            w
        }),
        s("token expires, a few 401 each time", |seed| {
            let mut w = plain(seed);
            for i in 0..8 {
                let phase = 37.0 * i as f64;
                extra(
                    &mut w,
                    i,
                    0,
                    Class::Auth,
                    Box::new(move |t| if (t + phase) % 300.0 < 1.0 { 5.0 } else { 0.0 }),
                );
            }
            w
        }),
        s("report that takes long, now and then", |seed| {
            let mut w = plain(seed);
            extra(
                &mut w,
                30,
                50,
                Class::Ok,
                Box::new(|t| if t % 200.0 < 2.0 { 1.0 } else { 0.0 }),
            );
            w.effects.push(Effect::Slow {
                client: None,
                route: Some(50),
                by: 300.0,
                from: 0.0,
                to: LENGTH,
            });
            w
        }),
    ]
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

fn rename(w: &mut World, client: usize, moved: fn(f64) -> f64) {
    let old = &w.clients[client];
    let new = worlds::Client {
        name: "renamed".into(),
        shape: Box::new(moved),
        routes: old.routes.clone(),
        ..*old
    };
    w.clients[client].shape = Box::new(move |t| 1.0 - moved(t));
    w.clients.push(new);
}

fn loud() -> Vec<Situation> {
    let s = |name: &'static str, build, culprits| Situation {
        name,
        build,
        culprits,
        common: name.contains("crowd"),
    };
    vec![
        s(
            "sevenfold on one route",
            |seed| {
                let mut w = plain(seed);
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
            &[("client-40", ONSET, 5.0)],
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
            &[("client-1", ONSET, 20.0)],
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
                    rate: 30.0,
                    from: ONSET,
                    to: ONSET + 300.0,
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
                w.capacity = 8.0;
                extra(
                    &mut w,
                    6,
                    9,
                    Class::Ok,
                    between(ONSET, ONSET + 300.0, 120.0),
                );
                w
            },
            &[("client-6", ONSET, 7.0)],
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
            &[("client-6", ONSET, 6.0), ("client-6", ONSET + 400.0, 6.0)],
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

/// What went wrong, by situation; empty if nothing did.
fn judge(situations: &[Situation], seeds: std::ops::Range<u64>) -> Vec<String> {
    let only = std::env::var("SITUATION").unwrap_or_default();
    let mut wrong = Vec::new();
    let both = std::env::var_os("SEEDS").is_some();
    let chosen = situations.iter().filter(|s| s.name.contains(&only));
    for (i, situation) in chosen.enumerate() {
        for seed in seeds.clone() {
            for live in [false, true] {
                if !both && live != (i % 2 == 0) {
                    continue;
                }
                let events = (situation.build)(seed).run(live);
                let how = if live { "live" } else { "log" };
                let who: Vec<&str> = situation.culprits.iter().map(|c| c.0).collect();
                for &(name, from, within) in situation.culprits {
                    let (found, others) = verdict(&events, name, from, LENGTH);
                    println!("{:36} {seed} {how:4} {name}: {found:?}", situation.name);
                    if found.is_none_or(|delay| delay > within) {
                        wrong.push(format!(
                            "{}, seed {seed}, {how}: {name} after {found:?}",
                            situation.name
                        ));
                    }
                    let strangers = others
                        .iter()
                        .filter(|o| !who.iter().any(|w| o.starts_with(&format!("{w} "))));
                    wrong.extend(
                        strangers.map(|o| format!("{}, seed {seed}, {how}: {o}", situation.name)),
                    );
                }
                let common = events
                    .iter()
                    .filter(|e| e.caller.is_none() && !situation.common);
                wrong.extend(common.map(|e| {
                    format!(
                        "{}, seed {seed}, {how}: {:?} at {}",
                        situation.name, e.kind, e.t
                    )
                }));
                if situation.culprits.is_empty() {
                    let (_, others) = verdict(&events, "", 0.0, LENGTH);
                    wrong.extend(
                        others
                            .iter()
                            .map(|o| format!("{}, seed {seed}, {how}: {o}", situation.name)),
                    );
                }
            }
        }
    }
    wrong
}

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SEEDS").unwrap_or_default();
    let mut parts = text.split("..").filter_map(|p| p.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(from), Some(to)) => from..to,
        _ => 0..1,
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn nobody_is_named_where_nobody_departs_from_what_is_harmless() {
    let wrong = judge(&quiet(), seeds());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow without optimisation: use --release")]
fn the_culprit_is_named_in_time_and_nobody_else() {
    let wrong = judge(&loud(), seeds());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
