//! Where tower begins.

pub mod propagate;
