//! The page from the outside: who gets what, what every answer carries, and what bad input gets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "dashboard/access.rs"]
mod access;
#[path = "dashboard/answers.rs"]
mod answers;
#[path = "dashboard/hyper.rs"]
mod hyper_server;
#[path = "dashboard/operate.rs"]
mod operate;
#[path = "dashboard/own.rs"]
mod own;
#[path = "programs/mod.rs"]
mod programs;
#[path = "dashboard/visit.rs"]
mod visit;
