//! What is refused, and what is not.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

mod ceiling;
mod config;
mod in_flight;
mod limits;
#[path = "../support/log.rs"]
mod log;
mod mistakes;
mod refusals;
mod reload;
mod shadow;
mod sockets;
mod support;
mod switch;
mod unread;
