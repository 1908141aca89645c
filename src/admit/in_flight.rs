//! Requests in flight: what an admitted request holds, up to the end of its body.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::seat::Seat;
use crate::clock::Timestamp;

/// A response that still streams after this long is a stream.
const STREAM: Duration = Duration::from_secs(10);

/// What an admitted request holds: places in its caller's count and in the ceiling's. Dropped with the request's
/// open account. While it is decided, the seat is only borrowed: who is refused counts no reference.
#[derive(Debug)]
pub(crate) struct Permit<S: Borrow<Arc<Seat>> = Arc<Seat>> {
    seat: S,
    in_flight: bool,
    /// A place under the brake on a runaway, which is apart: either limit may be in shadow alone.
    brake: bool,
    ceiling: bool,
    stream: bool,
}

impl<S: Borrow<Arc<Seat>>> Permit<S> {
    pub(super) fn new(seat: S) -> Self {
        Self {
            seat,
            in_flight: false,
            brake: false,
            ceiling: false,
            stream: false,
        }
    }

    pub(super) fn seat(&self) -> &Arc<Seat> {
        self.seat.borrow()
    }

    /// What is held, for as long as the request lasts.
    pub(super) fn kept(&mut self) -> Permit {
        Permit {
            in_flight: std::mem::take(&mut self.in_flight),
            brake: std::mem::take(&mut self.brake),
            ceiling: std::mem::take(&mut self.ceiling),
            stream: std::mem::take(&mut self.stream),
            seat: Arc::clone(self.seat()),
        }
    }

    pub(super) fn holds_any(&self) -> bool {
        self.in_flight || self.brake || self.ceiling
    }

    /// Takes one of the caller's `max` places. Says whether there was one.
    pub(super) fn take_place(&mut self, max: u32) -> bool {
        self.in_flight = take(&self.seat().in_flight, max);
        self.in_flight
    }

    /// Takes one of the `max` places that the brake leaves. Says whether there was one.
    pub(super) fn take_brake_place(&mut self, max: u32) -> bool {
        self.brake = take(&self.seat().braked, max);
        self.brake
    }

    /// Gives the place under the brake back.
    pub(super) fn leave_brake_place(&mut self) {
        if std::mem::take(&mut self.brake) {
            self.seat().braked.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Gives the caller's place back.
    pub(super) fn leave_place(&mut self) {
        if std::mem::take(&mut self.in_flight) {
            self.seat().in_flight.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) fn holds_ceiling(&mut self) {
        self.ceiling = true;
    }

    fn release(&mut self) {
        self.leave_place();
        self.leave_brake_place();
        self.leave_ceiling();
    }

    /// Gives the place in the ceiling back.
    pub(super) fn leave_ceiling(&mut self) {
        if std::mem::take(&mut self.ceiling) {
            self.seat().room.leave(self.seat());
        }
    }
}

/// Takes one of `max` places, if there is one left.
fn take(places: &AtomicU32, max: u32) -> bool {
    let taken = places.fetch_add(1, Ordering::AcqRel) < max;
    if !taken {
        places.fetch_sub(1, Ordering::AcqRel);
    }
    taken
}

impl Permit {
    /// A frame of a response has passed that began at `begun`. A long response leaves the ceiling's count, and
    /// where the caller has a number of streams of its own, it becomes one of these while there is room. Looks at
    /// the time that another request has read, which is precise enough.
    #[inline]
    pub(crate) fn streams_since(&mut self, begun: Timestamp) {
        if self.holds_any() && !self.stream && self.seat.room.coarse_now().since(begun) >= STREAM {
            self.become_stream();
        }
    }

    #[cold]
    fn become_stream(&mut self) {
        let before = self.seat.streams.fetch_add(1, Ordering::AcqRel);
        match self.seat.terms().and_then(|terms| terms.max_streams()) {
            Some(max) if before >= max => {
                self.seat.streams.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            Some(_) => self.release(),
            // Nothing else bounds them: they stay in the caller's own count.
            None => self.leave_ceiling(),
        }
        self.stream = true;
    }

    /// The head of the response is there, `took` after that of the request.
    #[inline]
    pub(crate) fn answered(&self, took: Duration) {
        if self.ceiling {
            self.seat.room.adaptive().answered(took);
        }
    }

    /// Takes what is held over to another caller: who the request is from was said late.
    pub(crate) fn move_to(&mut self, seat: Arc<Seat>) {
        if self.holds_any() && !self.stream {
            let (in_flight, brake, ceiling) = (self.in_flight, self.brake, self.ceiling);
            let now = self.seat.room.coarse_now();
            self.release();
            if in_flight {
                seat.in_flight.fetch_add(1, Ordering::AcqRel);
            }
            if brake {
                seat.braked.fetch_add(1, Ordering::AcqRel);
            }
            // It is in already: a ceiling asks once.
            let _ = ceiling.then(|| seat.room.enter(&seat, true, now));
            *self = Self {
                seat,
                in_flight,
                brake,
                ceiling,
                stream: false,
            };
        }
    }
}

impl<S: Borrow<Arc<Seat>>> Drop for Permit<S> {
    fn drop(&mut self) {
        self.release();
        if self.stream {
            self.seat().streams.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
