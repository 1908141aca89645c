//! It is switched off, and comes back: soon, when what was said of it is not over, and later.

use callerid::Class;

use super::{ONSET, Situation, extra, plain, spoil_between};
use crate::worlds::{World, between};

/// How long each outage lasts.
const LASTS: f64 = 100.0;
/// How long nothing is wrong in between, and what is to be said of it.
const GAPS: [f64; 5] = [15.0, 33.0, 60.0, 120.0, 300.0];

type Said = [(&'static str, f64, f64); 2];

const fn twice(gap: f64, within: f64) -> Said {
    [
        ("client-6", ONSET, within),
        ("client-6", ONSET + LASTS + gap, within),
    ]
}

static LOUD: [Said; 5] = [
    twice(GAPS[0], 10.0),
    twice(GAPS[1], 10.0),
    twice(GAPS[2], 10.0),
    twice(GAPS[3], 10.0),
    twice(GAPS[4], 10.0),
];

// A dozen errors of a caller whose visits come every four to eight seconds.
static WRONG: [Said; 5] = [
    twice(GAPS[0], 60.0),
    twice(GAPS[1], 60.0),
    twice(GAPS[2], 60.0),
    twice(GAPS[3], 60.0),
    twice(GAPS[4], 60.0),
];

pub(crate) fn again() -> Vec<Situation> {
    let s = |name, build: fn(u64) -> World, said: &'static Said| {
        Situation::new(name, build).named(said)
    };
    vec![
        s("too many, and again after 15 s", loud::<0>, &LOUD[0]),
        s("too many, and again after 33 s", loud::<1>, &LOUD[1]),
        s("too many, and again after 60 s", loud::<2>, &LOUD[2]),
        s("too many, and again after 120 s", loud::<3>, &LOUD[3]),
        s("too many, and again after 300 s", loud::<4>, &LOUD[4]),
        s(
            "so many that answers take long, and again after 33 s",
            slow,
            &LOUD[1],
        ),
        s("invalid, and again after 15 s", invalid::<0>, &LOUD[0]),
        s("invalid, and again after 33 s", invalid::<1>, &LOUD[1]),
        s("invalid, and again after 60 s", invalid::<2>, &LOUD[2]),
        s("invalid, and again after 120 s", invalid::<3>, &LOUD[3]),
        s("invalid, and again after 300 s", invalid::<4>, &LOUD[4]),
        s("rejected, and again after 15 s", rejected::<0>, &WRONG[0]),
        s("rejected, and again after 33 s", rejected::<1>, &WRONG[1]),
        s("rejected, and again after 60 s", rejected::<2>, &WRONG[2]),
        s("rejected, and again after 120 s", rejected::<3>, &WRONG[3]),
        s("rejected, and again after 300 s", rejected::<4>, &WRONG[4]),
    ]
}

fn onsets<const GAP: usize>() -> [f64; 2] {
    [ONSET, ONSET + LASTS + GAPS[GAP]]
}

fn loud<const GAP: usize>(seed: u64) -> World {
    let mut w = plain(seed);
    w.capacity = 200.0;
    for from in onsets::<GAP>() {
        extra(&mut w, 6, 9, Class::Ok, between(from, from + LASTS, 40.0));
    }
    w
}

/// A log tells of what takes long when it has ended; the first outage goes on for all that.
fn slow(seed: u64) -> World {
    let mut w = plain(seed);
    w.capacity = 30.0;
    for from in onsets::<1>() {
        extra(&mut w, 6, 9, Class::Ok, between(from, from + LASTS, 120.0));
    }
    w
}

fn invalid<const GAP: usize>(seed: u64) -> World {
    let mut w = plain(seed);
    for from in onsets::<GAP>() {
        let rate = between(from, from + LASTS, 50.0);
        extra(&mut w, 6, 9, Class::Validation, rate);
    }
    w
}

fn rejected<const GAP: usize>(seed: u64) -> World {
    let mut w = plain(seed);
    for from in onsets::<GAP>() {
        w.effects.push(spoil_between(
            (from, from + LASTS),
            Some(6),
            None,
            Class::Auth,
            0.95,
            0,
        ));
    }
    w
}
