//! Parameters and gradients, each in one slice of the same layout.
//!
//! [`layout`] gives every parameter its range; [`linear`] computes linear layers from the slice; [`grads`] gathers what
//! threads compute apart.

pub mod grads;
pub mod layout;
pub mod linear;
pub mod tensors;
