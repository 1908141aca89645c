//! Guide pages.

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("deployment.md")]
pub mod deployment {}
