//! Who is who: names that are invented, shared, missing, taken over, divided and united.

use callerid::Class;

use super::{LENGTH, ONSET, Situation, extra, plain};
use crate::worlds::{Client, Effect, World, between};

pub(crate) fn identity() -> Vec<Situation> {
    let quiet = |name, build| Situation::new(name, build);
    vec![
        quiet("invented names that stay for a while", |seed| {
            let mut w = plain(seed);
            w.effects.push(Effect::Names {
                rate: between(ONSET, ONSET + 300.0, 3.0),
                each: 12.0,
            });
            w
        })
        .named(&[("__other__", ONSET, 20.0)]),
        quiet("invented names without room", |seed| {
            let mut w = plain(seed);
            w.places = 60;
            w.effects.push(Effect::Names {
                rate: between(ONSET, ONSET + 300.0, 30.0),
                each: 1.0,
            });
            w
        })
        .named(&[("__other__", ONSET, 8.0)]),
        quiet("a flood of names where names come and go", |seed| {
            let mut w = churn(seed);
            w.effects.push(Effect::Names {
                rate: between(ONSET, ONSET + 300.0, 20.0),
                each: 2.0,
            });
            w
        })
        .named(&[("__other__", ONSET, 20.0)]),
        quiet("hidden among those without room", |seed| {
            let mut w = World::new(seed, 90, 40.0, LENGTH);
            w.capacity = 200.0;
            w.places = 60;
            extra(
                &mut w,
                80,
                3,
                Class::Ok,
                between(ONSET, ONSET + 300.0, 50.0),
            );
            w
        })
        .named(&[("__other__", ONSET, 8.0)]),
        quiet("hidden among the unnamed", |seed| {
            let mut w = plain(seed);
            w.unnamed = Some(12);
            extra(
                &mut w,
                12,
                3,
                Class::NotFound,
                between(ONSET, ONSET + 300.0, 50.0),
            );
            w
        })
        .named(&[("__unknown__", ONSET, 8.0)]),
        quiet("a new caller at a thousand a second", |seed| {
            let mut w = plain(seed);
            w.clients[33].shape = Box::new(|_| 0.0);
            extra(
                &mut w,
                33,
                3,
                Class::Ok,
                between(ONSET, ONSET + 60.0, 1000.0),
            );
            w.capacity = 200.0;
            w
        })
        .named(&[("client-33", ONSET, 3.0)]),
        quiet("names come and go", churn),
        quiet("names come and go in waves", |seed| {
            let mut w = plain(seed);
            w.effects.push(Effect::Names {
                rate: Box::new(|t| 0.6 + 0.4 * (t / 1200.0 * std::f64::consts::TAU).sin()),
                each: 12.0,
            });
            w
        }),
        quiet("names come and go without room", |seed| {
            let mut w = churn(seed);
            w.places = 80;
            w
        }),
        quiet("one caller becomes three", |seed| {
            let mut w = plain(seed);
            for k in 0..3 {
                heir(&mut w, 0, k, 1.0 / 3.0, ONSET + 90.0 * f64::from(k));
            }
            w.clients[0].shape =
                Box::new(|t| 1.0 - ((t - ONSET) / 90.0 + 1.0).floor().clamp(0.0, 3.0) / 3.0);
            w
        }),
        quiet("three callers become one", |seed| {
            let mut w = plain(seed);
            unite(&mut w, 90.0);
            w
        }),
        quiet("three callers become one at once", |seed| {
            let mut w = plain(seed);
            unite(&mut w, 0.0);
            w
        }),
        quiet("three callers have become one that runs away", |seed| {
            let mut w = plain(seed);
            unite(&mut w, 0.0);
            let heir = w.clients.len() - 1;
            extra(
                &mut w,
                heir,
                3,
                Class::Ok,
                between(ONSET + 300.0, ONSET + 600.0, 60.0),
            );
            w
        })
        .named(&[("heir-0", ONSET + 300.0, 15.0)]),
        quiet("renamed over a pause", |seed| {
            let mut w = plain(seed);
            heir(&mut w, 0, 0, 1.0, ONSET + 300.0);
            w.clients[0].shape = Box::new(|t| f64::from(t < ONSET));
            w
        }),
        quiet("two new callers at once", |seed| {
            let mut w = plain(seed);
            for i in [2, 3] {
                w.clients[i].shape = Box::new(|t| f64::from(t >= ONSET));
            }
            w
        }),
    ]
}

/// Visitors by the address that they come from: a new name every two seconds, a dozen requests each.
fn churn(seed: u64) -> World {
    let mut w = plain(seed);
    w.effects.push(Effect::Names {
        rate: Box::new(|_| 0.5),
        each: 12.0,
    });
    w
}

/// A part of a client's traffic under a new name from `from` on.
fn heir(w: &mut World, client: usize, k: i32, part: f64, from: f64) {
    let old = &w.clients[client];
    let new = Client {
        name: format!("heir-{k}"),
        rate: part * old.rate,
        shape: Box::new(move |t| f64::from(t >= from)),
        routes: old.routes.clone(),
        ..*old
    };
    w.clients.push(new);
}

/// The first three clients under one new name, one after another.
fn unite(w: &mut World, apart: f64) {
    w.capacity = 200.0;
    let moved = move |t: f64, i: usize| t >= ONSET + apart * i as f64;
    let rates: Vec<f64> = w.clients[..3].iter().map(|c| c.rate).collect();
    let all: f64 = rates.iter().sum();
    for i in 0..3 {
        w.clients[i].shape = Box::new(move |t| f64::from(!moved(t, i)));
    }
    let new = Client {
        name: "heir-0".into(),
        rate: all,
        shape: Box::new(move |t| {
            let part = |(i, rate): (usize, &f64)| if moved(t, i) { *rate } else { 0.0 };
            rates.iter().enumerate().map(part).sum::<f64>() / all
        }),
        routes: w.clients[0].routes.clone(),
        ..w.clients[0]
    };
    w.clients.push(new);
}
