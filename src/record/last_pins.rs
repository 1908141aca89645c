//! When a caller, or we, changed something last: for the time lines of those who look at metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use metrics::Label;

use super::handles::{Flush, GaugeHandle};
use super::names;
use crate::events::Change;

/// The last change of each kind, in Unix seconds.
#[derive(Debug, Default)]
pub(crate) struct LastPins {
    last: [AtomicU64; Change::ALL.len()],
    /// Most callers have none.
    any: AtomicBool,
}

impl LastPins {
    /// Notes one; an earlier one than what is known is history.
    pub(crate) fn note(&self, change: Change, t: f64) {
        if let (Some(last), true) = (self.last.get(change as usize), t > 0.0 && t.is_finite()) {
            // Positive numbers are in the order of their bits.
            last.fetch_max(t.to_bits(), Ordering::Relaxed);
            self.any.store(true, Ordering::Release);
        }
    }

    fn read(&self) -> [f64; Change::ALL.len()] {
        std::array::from_fn(|at| {
            let bits = self.last.get(at).map(|last| last.load(Ordering::Relaxed));
            bits.map_or(0.0, f64::from_bits)
        })
    }
}

/// The handles of these times, each made when there is one.
#[derive(Debug, Default)]
pub(crate) struct LastPinHandles([Option<GaugeHandle>; Change::ALL.len()]);

impl LastPinHandles {
    /// `caller` is empty for what is ours.
    pub(crate) fn tell(&mut self, caller: &str, pins: &LastPins, flush: &Flush<'_>) {
        if !pins.any.load(Ordering::Acquire) {
            return;
        }
        for ((handle, t), change) in self.0.iter_mut().zip(pins.read()).zip(Change::ALL) {
            if t > 0.0 {
                let labels = || {
                    let caller = Label::new("caller", caller.to_owned());
                    vec![caller, Label::from_static_parts("pin", change.as_str())]
                };
                handle
                    .get_or_insert_with(|| GaugeHandle::new(names::LAST_PIN, labels()))
                    .set(t, flush);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_is_the_latest_and_not_what_was_said_last() {
        let pins = LastPins::default();
        for t in [100.5, 300.25, 200.0, -1.0, f64::NAN, f64::INFINITY] {
            pins.note(Change::Flag, t);
        }
        assert_eq!(pins.read(), [0.0, 300.25, 0.0, 0.0, 0.0]);
    }
}
