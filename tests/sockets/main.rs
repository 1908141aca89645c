//! Conservation over real sockets: whatever clients, handlers and connections do, every request that entered has
//! left exactly once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod conservation;
mod servers;
mod storm;
