//! Conservation over real sockets: whatever clients, handlers and connections do, every request that entered has
//! left exactly once.

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

mod conservation;
mod hostile;
mod servers;
mod storm;
mod tunnels;
