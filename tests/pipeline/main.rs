//! The pipeline from the outside, in one process and on a clock that stands still.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests, some of which wait with a deadline"
)]

#[path = "../support/mod.rs"]
mod support;

mod documented;
mod doors;
mod late_identity;
mod metrics;
mod otel;
mod passthrough;
mod readiness;
mod table;
mod threads;
mod who;
