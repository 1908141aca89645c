//! What befalls the service: it restarts, nothing reaches it, what it depends on hangs.

use callerid::Class;

use super::{LENGTH, ONSET, Situation, extra, plain};
use crate::worlds::{Effect, World, between};

pub(crate) fn service() -> Vec<Situation> {
    let quiet = |name, build| Situation::new(name, build);
    vec![
        quiet("restarted without a memory", |seed| {
            let mut w = plain(seed);
            w.restart = ONSET;
            w
        }),
        quiet("weekly job right after a restart", |seed| {
            let mut w = plain(seed);
            w.restart = ONSET;
            w.capacity = 200.0;
            extra(
                &mut w,
                20,
                2,
                Class::Ok,
                between(ONSET + 200.0, ONSET + 220.0, 40.0),
            );
            w
        }),
        quiet("runaway that harms, soon after a restart", |seed| {
            let mut w = plain(seed);
            w.restart = ONSET - 200.0;
            w.capacity = 24.0;
            extra(
                &mut w,
                6,
                9,
                Class::Ok,
                between(ONSET, ONSET + 300.0, 150.0),
            );
            w
        })
        .named(&[("client-6", ONSET, 60.0)])
        .said(),
        quiet("an hour without anything", |seed| {
            let mut w = World::new(seed, 60, 40.0, LENGTH + 3000.0);
            w.effects.push(Effect::Silence {
                from: ONSET,
                to: ONSET + 3600.0,
            });
            w
        }),
        quiet("an hour without anything, then a rush", |seed| {
            let mut w = World::new(seed, 60, 40.0, LENGTH + 3000.0);
            w.effects.push(Effect::Silence {
                from: ONSET,
                to: ONSET + 3600.0,
            });
            for (i, c) in w.clients.iter_mut().enumerate() {
                let k = 1.0 + (i % 4) as f64;
                c.shape = Box::new(move |t| {
                    if (ONSET + 3600.0..ONSET + 3660.0).contains(&t) {
                        k
                    } else {
                        1.0
                    }
                });
            }
            w
        })
        .said(),
        quiet("everything hangs for seconds", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e4;
            w.effects.push(hang(None, None, 30.0, 8.0));
            w
        })
        .said(),
        quiet("everything hangs for a minute and a half", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e4;
            w.effects.push(hang(None, None, 30.0, 90.0));
            w
        })
        .said(),
        quiet("a route hangs for its callers", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e4;
            for c in w.clients.iter_mut().step_by(3) {
                c.routes.push((5, 1.0));
            }
            w.effects.push(hang(None, Some(5), 30.0, 90.0));
            w
        })
        .said(),
        quiet("a dependency grows slow for all", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e4;
            for i in 0..60 {
                w.effects.push(Effect::Leak {
                    client: i,
                    by: Box::new(|t| 1.0 + 60.0 * ((t - ONSET) / 300.0).clamp(0.0, 1.0)),
                });
            }
            w
        })
        .said(),
        quiet("one reader takes minutes", |seed| {
            let mut w = plain(seed);
            w.effects.push(Effect::Slow {
                client: None,
                route: Some(60),
                by: 4000.0,
                from: 0.0,
                to: LENGTH,
            });
            extra(&mut w, 25, 60, Class::Ok, between(ONSET, ONSET + 1.0, 1.0));
            w
        }),
        quiet("one caller's requests hang, known while they do", |seed| {
            let mut w = plain(seed);
            w.capacity = 1e4;
            w.clients[6].routes = vec![(3, 1.0)];
            w.effects.push(hang(Some(6), None, 30.0, 300.0));
            w
        })
        .named(&[("client-6", ONSET, 60.0)])
        // Who waits for an answer sends no more: in flight is one request for each visit, and a new visit comes every
        // four to eight seconds. Six seconds of what the whole service holds, some 6 requests, are held after 12 s
        // where five visits are under way, and after 40 s where one or two are.
        .live(45.0),
    ]
}

fn hang(client: Option<usize>, route: Option<u32>, timeout: f64, length: f64) -> Effect {
    Effect::Hang {
        client,
        route,
        timeout,
        from: ONSET,
        to: ONSET + length,
    }
}
