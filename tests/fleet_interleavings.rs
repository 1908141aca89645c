//! Leases under every interleaving of threads: the file of the library itself, on the atomics of a model checker.

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../src/admit/fleet/slots.rs"]
mod slots;

use loom::sync::Arc;
use loom::thread;

use slots::Slots;

fn took(slots: &Slots, cost: u32, now: u64) -> u32 {
    u32::from(slots.take(cost, now).is_ok())
}

/// Takes two tokens once and one once; returns how many it got.
fn spend(slots: &Slots, now: u64) -> u32 {
    2 * took(slots, 2, now) + took(slots, 1, now)
}

#[test]
fn threads_that_race_never_spend_more_than_was_granted() {
    loom::model(|| {
        let slots = Arc::new(Slots::new());
        slots.grant(1, 600, 100);
        let taker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || spend(&slots, 110))
        };
        slots.grant(2, 700, 110);
        let spent = 2 * took(&slots, 2, 110);
        let spent = spent + taker.join().unwrap();
        assert!(spent + slots.left(110) <= 3, "{spent} are spent");
    });
}

#[test]
fn a_token_that_is_put_back_never_outlives_its_lease() {
    loom::model(|| {
        let slots = Arc::new(Slots::new());
        slots.grant(1, 200, 100);
        // Wants two, finds one and puts it back, while the lease ends and another begins.
        let taker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.take(2, 199).is_ok())
        };
        slots.grant(1, 700, 200);
        let got = taker.join().unwrap();
        let left = slots.left(200);
        assert!(
            left <= 1,
            "{left} are left after the first lease has lapsed"
        );
        assert!(!got || left == 0);
    });
}

#[test]
fn the_last_tokens_are_there_for_whoever_hears_that_there_are_no_others() {
    loom::model(|| {
        let slots = Arc::new(Slots::new());
        let taker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.take(1, 110))
        };
        // In the order of the library: what was granted, and that it was the last.
        slots.grant(1, 600, 100);
        slots.deny_until(200_000_000);
        let heard = taker.join().unwrap();
        assert!(matches!(heard, Ok(()) | Err(0)), "{heard:?}");
    });
}
