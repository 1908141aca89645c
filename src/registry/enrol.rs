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
        super::lock(&self.places).set_room(room.saturating_sub(roster.len()));
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
