//! The pipeline from the outside, in one process and on a clock that stands still.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod doors;
mod late_identity;
mod metrics;
mod otel;
mod passthrough;
mod readiness;
mod table;
mod threads;
mod who;
