//! The ceiling as it is written down: how much the service takes in at once.

use super::policy::Mode;

/// How many requests the service takes in at once.
///
/// ```
/// use callerid::Ceiling;
///
/// let ceiling = Ceiling::new(512).shadow(); // counts what it would refuse, refuses nothing
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    pub(crate) max_in_flight: u32,
    pub(crate) hard_max: Option<u32>,
    pub(crate) mode: Mode,
    /// The least and the most of an adaptive one beside it.
    pub(crate) adaptive: Option<(u32, u32)>,
}

impl Ceiling {
    /// From `max_in_flight` requests on, only callers below their fair share are let in; from twice that on, none.
    #[must_use]
    pub const fn new(max_in_flight: u32) -> Self {
        Self {
            max_in_flight,
            hard_max: None,
            mode: Mode::Enforce,
            adaptive: None,
        }
    }

    /// How many requests are never exceeded, instead of twice `max_in_flight`.
    #[must_use]
    pub const fn hard_max(mut self, requests: u32) -> Self {
        self.hard_max = Some(requests);
        self
    }

    /// Counts what would be refused, and refuses nothing.
    #[must_use]
    pub const fn shadow(mut self) -> Self {
        self.mode = Mode::Shadow;
        self
    }

    /// Also computes what an adaptive ceiling between `min` and `max` would be, from how latency changes with the
    /// load: the rule of `Gradient2Limit` in Netflix' concurrency-limits. It refuses nothing; the snapshot shows
    /// where it stands and how many requests it would have refused.
    #[must_use]
    pub const fn adaptive(mut self, min: u32, max: u32) -> Self {
        self.adaptive = Some((min, max));
        self
    }

    pub(crate) fn hard(&self) -> u32 {
        let twice = self.max_in_flight.saturating_mul(2);
        self.hard_max.unwrap_or(twice)
    }

    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.max_in_flight == 0 {
            return Some("max_in_flight: 0 lets nothing through; use 1 or more");
        }
        if self.hard() < self.max_in_flight {
            return Some("hard_max: is below max_in_flight; use at least as much");
        }
        match self.adaptive {
            Some((0, _)) => Some("adaptive.min: 0 lets nothing through; use 1 or more"),
            Some((min, max)) if max < min => {
                Some("adaptive.max: is below adaptive.min; use at least as much")
            }
            _ => None,
        }
    }
}

impl From<u32> for Ceiling {
    fn from(max_in_flight: u32) -> Self {
        Self::new(max_in_flight)
    }
}
