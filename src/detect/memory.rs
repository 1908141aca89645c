//! What outlives a restart: every caller's past, and the service's.
//!
//! A blob of bytes: a line that says what it is, a version, the time, the pasts, and a checksum. It is read with
//! suspicion: another version, a torn or foreign blob and one older than a week are refused as a whole, and no number
//! in it is believed that is not finite.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};

use super::WARM;
use super::detector::{Detector, SLOW_GRACE};
use super::observe::{CallerId, RouteId};
use super::state::State;
use crate::clock::Timestamp;

const MAGIC: &[u8] = b"callerid state\n";
/// Grows with every change of what is kept.
const VERSION: u8 = 1;
const CHECKSUM: usize = 8;
/// Nothing is restored that is older, in seconds.
const OLDEST: f64 = 7.0 * 86_400.0;
/// A blob is never longer.
const LARGEST: usize = 64 << 20;
/// What was restored and never asked for is forgotten after so many seconds.
const UNCLAIMED: f64 = 86_400.0;

/// Why a state was not restored. Everything is as it was before.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum StateError {
    /// It is no state, was cut short, or was changed.
    Damaged,
    /// It is of another version of this crate: what it means is not known.
    Version(u8),
    /// It is older than a week: the callers' habits may be others by now.
    TooOld {
        /// How old, in seconds.
        seconds: f64,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("the state is damaged, or none"),
            Self::Version(version) => write!(
                f,
                "the state is of version {version}, and this is version {VERSION}"
            ),
            Self::TooOld { seconds } => {
                write!(
                    f,
                    "the state is {:.1} days old, more than a week",
                    seconds / 86_400.0
                )
            }
        }
    }
}

impl std::error::Error for StateError {}

/// Numbers, in the order in which they were put.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    bytes: Vec<u8>,
    at: usize,
}

impl Numbers {
    pub(super) fn put(&mut self, number: f32) {
        self.bytes.extend(number.to_le_bytes());
    }

    pub(super) fn put_all(&mut self, numbers: &[f32]) {
        numbers.iter().for_each(|&number| self.put(number));
    }

    pub(super) fn put_u32(&mut self, number: u32) {
        self.bytes.extend(number.to_le_bytes());
    }

    pub(super) fn put_f64(&mut self, number: f64) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn put_text(&mut self, text: &str) {
        let text = text.get(..text.len().min(4_096)).unwrap_or_default();
        self.put_u32(text.len() as u32);
        self.bytes.extend(text.as_bytes());
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.at.checked_add(N)?;
        let bytes = self.bytes.get(self.at..end)?.try_into().ok()?;
        self.at = end;
        Some(bytes)
    }

    /// The next number, if it is one.
    pub(super) fn get(&mut self) -> Option<f32> {
        let number = f32::from_le_bytes(self.take()?);
        number.is_finite().then_some(number)
    }

    pub(super) fn get_all<const N: usize>(&mut self) -> Option<[f32; N]> {
        let mut numbers = [0.0; N];
        for number in &mut numbers {
            *number = self.get()?;
        }
        Some(numbers)
    }

    pub(super) fn get_u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take()?))
    }

    pub(super) fn get_f64(&mut self) -> Option<f64> {
        let number = f64::from_le_bytes(self.take()?);
        number.is_finite().then_some(number)
    }

    fn get_text(&mut self) -> Option<String> {
        let length = self.get_u32()? as usize;
        let end = self.at.checked_add(length)?;
        let text = std::str::from_utf8(self.bytes.get(self.at..end)?).ok()?;
        self.at = end;
        Some(text.to_owned())
    }
}

/// By name, and whether that is proven.
type Pasts = HashMap<(String, bool), State>;

/// Pasts that were restored and wait for their callers.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    pasts: Pasts,
    until: f64,
}

impl Unclaimed {
    /// The past of a caller, once.
    pub(super) fn claim(&mut self, name: &str, proven: bool, clock: f64) -> Option<State> {
        if self.pasts.is_empty() {
            return None;
        }
        if clock > self.until {
            self.pasts = Pasts::new();
            return None;
        }
        self.pasts.remove(&(name.to_owned(), proven))
    }
}

impl Detector {
    /// The pasts of all callers, given how they and the routes are called.
    #[must_use]
    pub fn export<'n>(
        &self,
        now: Timestamp,
        caller: impl Fn(CallerId) -> Option<(&'n str, bool)>,
        route: impl Fn(RouteId) -> Option<&'n str>,
    ) -> Vec<u8> {
        let mut all = Numbers {
            bytes: MAGIC.to_vec(),
            at: 0,
        };
        all.bytes.push(VERSION);
        all.put_f64(now.as_secs_f64());
        all.put_f64(self.clock);
        let routes: Vec<_> = self
            .service
            .routes()
            .filter_map(|id| Some((id, route(id)?)))
            .collect();
        all.put_u32(routes.len() as u32);
        for (_, name) in &routes {
            all.put_text(name);
        }
        let place = |id: RouteId| routes.iter().position(|(known, _)| *known == id);
        self.service
            .keep(&mut all, routes.iter().map(|(id, _)| *id));
        let named = self.callers.iter().enumerate().filter_map(|(slot, state)| {
            let id = CallerId {
                slot: u32::try_from(slot).ok()?,
                generation: state.generation,
            };
            let known = !state.is_free() && state.rate.age() > 0;
            known.then(|| Some((state, caller(id)?))).flatten()
        });
        let named: Vec<_> = named.collect();
        all.put_u32(named.len() as u32);
        for (state, (name, proven)) in named {
            all.put_text(name);
            all.bytes.push(u8::from(proven));
            state.keep(&mut all, &|id| place(id).map(|place| place as u32));
        }
        let checksum: [u8; 32] = Sha256::digest(&all.bytes).into();
        all.bytes.extend(checksum.iter().take(CHECKSUM));
        all.bytes
    }

    /// Takes over pasts that were [exported](Self::export); `route` gives the number of a route by its name. A caller
    /// who was seen already keeps the past that it has.
    ///
    /// # Errors
    ///
    /// See [`StateError`]; nothing is taken over then.
    pub fn restore(
        &mut self,
        bytes: &[u8],
        now: Timestamp,
        mut route: impl FnMut(&str) -> RouteId,
    ) -> Result<(), StateError> {
        let mut all = open(bytes, now)?;
        let mut read = || -> Option<(f64, Self, Pasts)> {
            let clock = all.get_f64().filter(|clock| *clock >= 0.0)?;
            let names = all.get_u32()?;
            let mut routes = Vec::new();
            for _ in 0..names {
                routes.push(route(&all.get_text()?));
            }
            let mut fresh = Self::new();
            fresh.service.recall(&mut all, &routes)?;
            let mut pasts = Pasts::new();
            for _ in 0..all.get_u32()? {
                let name = all.get_text()?;
                let [proven] = all.take::<1>()?;
                let state = State::recall(&mut all, &routes)?;
                pasts.insert((name, proven != 0), state);
            }
            (all.at == all.bytes.len()).then_some((clock, fresh, pasts))
        };
        let (clock, fresh, pasts) = read().ok_or(StateError::Damaged)?;
        if self.clock < WARM {
            self.service = fresh.service;
        }
        self.clock = self.clock.max(clock).max(WARM);
        (self.second, self.window) = (self.clock, self.clock);
        // For the callers who come back one after another.
        self.grace_until = self.clock + f64::from(SLOW_GRACE);
        self.unclaimed = Unclaimed {
            pasts,
            until: self.clock + UNCLAIMED,
        };
        Ok(())
    }
}

/// The numbers of a blob that is whole, of this version and not too old.
fn open(bytes: &[u8], now: Timestamp) -> Result<Numbers, StateError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Damaged)?;
    let (&version, _) = rest.split_first().ok_or(StateError::Damaged)?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let end = bytes
        .len()
        .checked_sub(CHECKSUM)
        .filter(|_| bytes.len() <= LARGEST);
    let (body, checksum) = end
        .and_then(|end| bytes.split_at_checked(end))
        .ok_or(StateError::Damaged)?;
    let expected: [u8; 32] = Sha256::digest(body).into();
    if expected.get(..CHECKSUM) != Some(checksum) {
        return Err(StateError::Damaged);
    }
    let mut all = Numbers {
        bytes: body.to_vec(),
        at: MAGIC.len() + 1,
    };
    let saved = all.get_f64().ok_or(StateError::Damaged)?;
    let seconds = now.as_secs_f64() - saved;
    if seconds > OLDEST {
        return Err(StateError::TooOld { seconds });
    }
    Ok(all)
}
