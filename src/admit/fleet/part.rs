//! The fleet that this replica is a part of, which a reload may change.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

#[cfg(feature = "dashboard")]
use super::board::Board;
use super::link::Troubles;
use super::{Fleet, Pool};
use crate::clock::Ticker;

/// What stays while the fleet changes.
pub(crate) struct Part {
    pool: ArcSwapOption<Pool>,
    secret: Vec<u8>,
    ticker: Ticker,
    /// By which the other replicas count this one.
    name: String,
    troubles: Arc<Troubles>,
    #[cfg(feature = "dashboard")]
    board: Arc<Board>,
}

/// The fleet of a reload, which is not in force yet.
#[derive(Debug)]
pub(crate) enum Next {
    /// That which is there.
    Same,
    Other(Arc<Pool>),
    Nobody,
}

impl Part {
    pub(crate) fn new(secret: Option<&[u8]>, ticker: &Ticker) -> Self {
        Self {
            pool: ArcSwapOption::empty(),
            secret: secret.unwrap_or_default().to_vec(),
            ticker: ticker.clone(),
            name: format!("{:032x}", fastrand::u128(..)),
            troubles: Arc::default(),
            #[cfg(feature = "dashboard")]
            board: Arc::new(Board::new()),
        }
    }

    /// Who is asked.
    pub(crate) fn pool(&self) -> Guard<Option<Arc<Pool>>> {
        self.pool.load()
    }

    /// Gets a fleet ready. Waits up to half a second for its Redis.
    pub(crate) fn prepare(&self, fleet: Option<&Fleet>) -> Result<Next, Vec<String>> {
        let now = self.pool.load();
        let Some(fleet) = fleet else {
            return Ok(if now.is_some() {
                Next::Nobody
            } else {
                Next::Same
            });
        };
        if now.as_ref().is_some_and(|now| now.settings == *fleet) {
            return Ok(Next::Same);
        }
        match Pool::start(fleet, self) {
            Ok(pool) => Ok(Next::Other(Arc::new(pool))),
            Err(error) => Err(vec![format!(
                "the thread `callerid-fleet` could not be started: {error}"
            )]),
        }
    }

    /// Gets ready, and is one of the fleet.
    pub(crate) fn enter(&self, fleet: Option<&Fleet>) -> Result<(), Vec<String>> {
        if let Next::Other(pool) = self.prepare(fleet)? {
            self.join(Some(pool));
        }
        Ok(())
    }

    /// Puts another fleet in the place of this one, whose thread ends.
    pub(crate) fn join(&self, next: Option<Arc<Pool>>) {
        #[cfg(feature = "dashboard")]
        if next
            .as_ref()
            .is_none_or(|next| next.settings.redis.is_none())
        {
            self.board.of_nobody();
        }
        let place = |pool: &Pool| {
            let Fleet {
                namespace, redis, ..
            } = &pool.settings;
            (namespace.clone(), redis.clone())
        };
        let next_place = next.as_deref().map(place);
        if let Some(before) = self.pool.swap(next) {
            before.end(next_place == Some(place(&before)));
        }
    }

    /// How often the Redis was of no help, by why.
    pub(crate) fn trouble_totals(&self) -> impl Iterator<Item = u64> + use<> {
        self.troubles.totals().into_iter()
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }

    pub(super) fn ticker(&self) -> &Ticker {
        &self.ticker
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn troubles(&self) -> Arc<Troubles> {
        Arc::clone(&self.troubles)
    }

    /// What is shared but for quotas, where there is a Redis.
    #[cfg(feature = "dashboard")]
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

#[cfg(test)]
impl Part {
    /// For tests: the part of the only replica, without a Redis.
    pub(crate) fn of_the_only_one() -> Self {
        use crate::clock::MonotonicClock;

        let part = Self::new(None, &Ticker::Monotonic(MonotonicClock::new()));
        let fleet = Fleet::new("x").mode(super::FleetMode::Local).replicas(1);
        part.enter(Some(&fleet)).unwrap();
        part
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Part").field(&*self.pool.load()).finish()
    }
}
