//! Which client is calling, what each client costs and breaks.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod caller;
pub mod clock;
#[doc(hidden)]
pub mod detect;
pub mod identify;
mod outcome;
mod roster;

#[doc(inline)]
pub use caller::{Caller, Provenance, Source};
pub use clock::{Clock, Timestamp};
pub use outcome::{Class, ErrorDetail, Fault};
pub use roster::{Account, ApiKey};
