//! Quotas that all replicas share, through real servers of Redis that tests start, kill and freeze.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]
#![allow(
    clippy::disallowed_methods,
    reason = "a quota is measured in real time over processes"
)]

mod changes;
mod clamps;
mod faults;
mod hostile;
mod outages;
#[path = "../programs/mod.rs"]
mod programs;
mod reload;
mod server;
mod sharing;
mod storm;
mod unread;
