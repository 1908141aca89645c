//! Nobody departs from what is harmless.

use callerid::Class;

use super::{LENGTH, ONSET, Situation, extra, plain, spoil};
use crate::worlds::{self, Effect, World};

pub(crate) fn quiet() -> Vec<Situation> {
    let s = |name: &'static str, build| Situation {
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
        ..Situation::new(name, build)
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
