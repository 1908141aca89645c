//! Guide pages.
//!
//! Each is a file that can be read without rustdoc: its links, which stand at its end, lead to files. What `links.md` defines
//! comes first, and so wins here.

#[doc = include_str!("links.md")]
#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("links.md")]
#[doc = include_str!("detection.md")]
pub mod detection {}

#[doc = include_str!("links.md")]
#[doc = include_str!("configuration.md")]
#[doc = "```toml"]
#[doc = include_str!("../../examples/callerid.toml")]
#[doc = "```"]
pub mod configuration {}

#[doc = include_str!("links.md")]
#[doc = include_str!("protection.md")]
pub mod protection {}

#[doc = include_str!("links.md")]
#[doc = include_str!("balancers.md")]
pub mod balancers {}

#[doc = include_str!("links.md")]
#[doc = include_str!("fleet.md")]
pub mod fleet {}

#[doc = include_str!("links.md")]
#[doc = include_str!("deployment.md")]
pub mod deployment {}

#[doc = include_str!("links.md")]
#[doc = include_str!("first_hour.md")]
pub mod first_hour {}

#[doc = include_str!("links.md")]
#[doc = include_str!("three_am.md")]
pub mod three_am {}

#[doc = include_str!("links.md")]
#[doc = include_str!("many_teams.md")]
pub mod many_teams {}

#[doc = include_str!("links.md")]
#[doc = include_str!("privacy.md")]
pub mod privacy {}
