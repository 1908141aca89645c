//! What is recorded of a caller: cells that the request path writes ([`lane`]), sums over them ([`row`]), time
//! series ([`window`]), the last failures ([`sample`]), and the [`flush`] to the `metrics` facade ([`handles`]).

pub(crate) mod bounded;
pub(crate) mod flush;
pub(crate) mod handles;
pub(crate) mod histogram;
pub(crate) mod lane;
pub(crate) mod last_pins;
pub(crate) mod names;
pub(crate) mod route;
pub(crate) mod row;
pub(crate) mod sample;
pub(crate) mod totals;
pub(crate) mod window;
