//! Detection on the live service: requests go through the layer, on a clock that only the test moves.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod clamp;
#[path = "../../src/dashboard/columns.rs"]
mod columns;
#[path = "../../examples/demo/glance.rs"]
#[allow(dead_code, reason = "the demo uses all of it")]
mod glance;
mod outages;
mod said;
mod state;
mod world;
