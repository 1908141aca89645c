//! Guide pages.

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("detection.md")]
pub mod detection {}

#[doc = include_str!("protection.md")]
pub mod protection {}

#[doc = include_str!("balancers.md")]
pub mod balancers {}

#[doc = include_str!("fleet.md")]
pub mod fleet {}

#[doc = include_str!("deployment.md")]
pub mod deployment {}
