//! Another roster, while requests come in.

use std::sync::Arc;

use super::{OURS, Registry, Who};
use crate::clock::Timestamp;
use crate::roster::{Account, Roster};

impl Registry {
    /// Why a roster cannot take the place of the one in force.
    pub(crate) fn cannot_enrol(&self, roster: &Roster) -> Option<String> {
        let limits = self.limits();
        let room = limits.exported.saturating_sub(limits.reserved + 2 * OURS);
        let named = roster.len();
        (named > room).then(|| {
            format!(
                "caller: {named} callers are more than the {room} that have room beside others since the start; \
                 start the service anew with them, or raise max_exported"
            )
        })
    }

    /// Puts another roster in force. Who is new on it has a row of its own from now on; who is not on it any more is
    /// a caller as others are. What was counted stays where it is.
    pub(crate) fn set_roster(&self, roster: &Arc<Roster>, now: Timestamp) {
        let before = self.roster.swap(Arc::clone(roster));
        let limits = self.limits();
        let room = limits.exported - OURS - limits.reserved;
        crate::lock::lock(&self.places).set_room(room.saturating_sub(roster.len()));
        for account in roster.accounts() {
            self.enrol(account, now);
        }
        for account in before.accounts() {
            if roster.account(&account.name).is_none()
                && let Some(entry) = self.verified(&account.name)
            {
                entry.set_accepts_claims(false);
                self.set_on_roster(&entry, false);
            }
        }
    }

    fn enrol(&self, account: &Account, now: Timestamp) {
        let name = account.name.as_str();
        let known = self.verified(name);
        if let Some(entry) = &known {
            self.set_on_roster(entry, true);
        }
        if let Some(entry) = known.or_else(|| self.insert(&Who::named(name), true, now)) {
            entry.set_accepts_claims(account.accept_claimed);
        }
        // Claims of the name come back as the account's, or as `claimed:...`.
        let claim = self.weaker.get(name).map(|entry| Arc::clone(&entry));
        if let Some(claim) = claim {
            self.retire(&claim);
        }
    }

    fn verified(&self, name: &str) -> Option<Arc<super::Entry>> {
        self.verified.get(name).map(|entry| Arc::clone(&entry))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::caller::{Provenance, Source};
    use crate::clock::{ManualClock, Ticker};
    use crate::record::route::RouteRef;
    use crate::registry::Limits;
    use crate::registry::entry::Trust;

    const ROUNDS: usize = 10_000;

    #[test]
    fn a_claim_that_comes_with_the_reload_is_not_remembered_beyond_it() {
        let clock = ManualClock::at(Timestamp::from_secs(1_000));
        let limits = Limits::of(100, 40);
        let roster = |account: Account| Arc::new(Roster::new(vec![account]).unwrap());
        let (open, shut) = (Account::new("a").accept_claimed(), Account::new("a"));
        let (open, shut) = (roster(open), roster(shut));
        let table = Registry::new(
            Arc::clone(&shut),
            limits,
            Ticker::Other(Arc::new(clock.clone())),
        );
        let now = clock.advance(Duration::ZERO);
        let who = Who {
            trust: Trust::Weaker,
            name: "a",
            provenance: Provenance::Claimed,
            source: Source::Header,
        };
        let reached = |route| {
            let route = RouteRef::new(&http::Method::GET, route);
            let place = table.place(&who, route, || None, now);
            let trust = place.entry().trust;
            place.leave();
            trust
        };
        let routes: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
        // Which round the claims come for, and for which they have been looked at.
        let (round, looked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let wrong = std::thread::scope(|threads| {
            let claims = threads.spawn(|| {
                let mut wrong = 0;
                for turn in 1..=ROUNDS {
                    while round.load(Ordering::Acquire) < turn {
                        for route in &routes {
                            reached(route);
                        }
                    }
                    // It is shut.
                    let still = routes
                        .iter()
                        .filter(|route| reached(route) != Trust::Weaker);
                    wrong += still.count();
                    looked.store(turn, Ordering::Release);
                }
                wrong
            });
            for turn in 1..=ROUNDS {
                table.set_roster(&open, now);
                table.set_roster(&shut, now);
                round.store(turn, Ordering::Release);
                while looked.load(Ordering::Acquire) < turn {
                    std::hint::spin_loop();
                }
            }
            claims.join().unwrap()
        });
        assert_eq!(wrong, 0);
    }
}
