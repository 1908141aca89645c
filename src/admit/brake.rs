//! The brake on a caller in a runaway: a quota beside its own, set by detection and taken away by it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bucket::Bucket;
use super::mode::Mode;
use super::quota::Quota;
use super::seat::Seat;
use super::{Admission, lock};

/// What a caller in a runaway is held to.
#[derive(Debug)]
pub(crate) struct Brake {
    pub(super) bucket: Bucket,
    pub(super) max_in_flight: Option<u32>,
    pub(super) mode: Mode,
}

impl Admission {
    /// Holds a caller to a quota, and to requests in flight where those are what runs away, until it is released.
    pub(crate) fn brake(&self, seat: &Seat, quota: Quota, max_in_flight: Option<u32>, mode: Mode) {
        let _one_at_a_time = lock(&self.changing);
        let brake = Brake {
            bucket: Bucket::new(quota),
            max_in_flight,
            mode,
        };
        if seat.brake.swap(Some(Arc::new(brake))).is_none() {
            self.brakes.fetch_add(1, Ordering::AcqRel);
        }
        self.set_gate();
    }

    /// Takes the brake away.
    pub(crate) fn release(&self, seat: &Seat) {
        let _one_at_a_time = lock(&self.changing);
        if seat.brake.swap(None).is_some() {
            self.brakes.fetch_sub(1, Ordering::AcqRel);
        }
        self.set_gate();
    }
}
