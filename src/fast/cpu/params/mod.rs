//! Parameters and gradients, each in one slice of the same layout.
//!
//! [`layout`] gives every parameter its range; [`linear`] computes linear layers from the slice; [`grads`] is what
//! each thread adds up.

pub mod grads;
pub mod item_embedding;
pub mod layout;
pub mod linear;
pub mod look_up;
pub mod tensors;
