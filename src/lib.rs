//! Which client is calling, what each client costs and breaks.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
pub mod caller;
mod callers;
mod classify;
pub mod clock;
#[cfg(feature = "axum")]
mod extract;
pub mod identify;
pub mod middleware;
mod outcome;
mod pipeline;
mod record;
mod registry;
mod roster;
pub mod snapshot;
mod span;
mod upkeep;

pub use builder::{BuildError, Builder};
#[doc(inline)]
pub use caller::{Caller, Provenance, Source};
pub use callers::Callers;
pub use clock::{Clock, Timestamp};
#[cfg(feature = "axum")]
pub use extract::{CallerRequired, RequireCaller};
pub use middleware::CallerLayer;
pub use outcome::{Class, ErrorDetail, Fault};
pub use pipeline::CallerSlot;
pub use record::histogram::LATENCY_BUCKETS;
pub use registry::InferredLabel;
pub use roster::{Account, ApiKey};
#[doc(inline)]
pub use snapshot::Snapshot;
