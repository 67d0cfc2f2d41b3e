//! Where the parameters lie.

pub mod layout;
