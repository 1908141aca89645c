//! The handle that users hold.

use std::sync::Arc;

use crate::builder::Builder;
use crate::clock::Timestamp;
use crate::middleware::CallerLayer;
use crate::snapshot::Snapshot;
use crate::upkeep::Upkeep;

/// The callers of a service: one table, shared by every clone of this handle and of its layers.
///
/// A clone is a reference count. A thread named `callerid` keeps the metrics up to date until the last handle and
/// the last layer are gone.
#[derive(Clone, Debug)]
pub struct Callers {
    upkeep: Arc<Upkeep>,
}

impl Callers {
    /// Starts with nothing; say at least who the callers are, with [`Builder::identify`].
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(upkeep: Arc<Upkeep>) -> Self {
        Self { upkeep }
    }

    /// A layer that attributes requests to callers of this table. Layers may be made as often as needed: they
    /// share the table, and a request that passes two of them is counted once.
    #[must_use]
    pub fn layer(&self) -> CallerLayer {
        CallerLayer::new(Arc::clone(&self.upkeep))
    }

    /// What is known now. Takes well under a millisecond for a hundred callers; works without a metrics recorder
    /// and never waits for a flush.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.upkeep.core.ticker.now();
        self.upkeep.roll(now);
        Snapshot::take(&self.upkeep.core.registry, now)
    }

    /// Brings the metrics recorder up to date, as the thread does four times a second. Call it before a render of
    /// the metrics, so that a scrape sees what happened up to now.
    pub fn flush(&self) {
        self.upkeep.flush(self.upkeep.core.ticker.now());
    }

    /// Does what is due at `now`: the flush, and once a second rates, time series and the sweep of idle callers.
    /// The thread calls it; call it yourself only where the builder says [`Builder::manual_tick`].
    pub fn tick(&self, now: Timestamp) {
        self.upkeep.tick(now);
    }
}
