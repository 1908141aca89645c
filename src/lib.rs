//! Which client is calling, what each client costs and breaks.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod caller;
pub mod clock;
pub mod identify;
pub mod middleware;
mod outcome;
mod roster;
mod span;

#[doc(inline)]
pub use caller::{Caller, Provenance, Source};
pub use clock::{Clock, Timestamp};
pub use outcome::{Class, ErrorDetail, Fault};
pub use roster::{Account, ApiKey};
pub use span::make_span;
