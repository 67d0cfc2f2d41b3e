//! The kernel of attention's rows (`rows.h`): fusion, scale, mask and softmax as one operation, with its gradient.
//!
//! It stands for eleven operations of libtorch in the forward pass and some twenty in the backward pass. It runs on the CPU,
//! where tests hold it to them; on a GPU the lean program has libtorch's operations until its launch is written.

use std::ffi::{c_char, c_int};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::libtorch::checked;
use crate::model::FusionLayer;

unsafe extern "C" {
    fn dif_sr_fuse(
        n: usize,
        tensors: *const *const C_tensor,
        streams: c_int,
        fusion: c_int,
        scale: f64,
        probs: *mut *mut C_tensor,
    ) -> *const c_char;
}

/// The probabilities of attention from the scores of each stream.
///
/// # Shapes
/// maps `[B, heads, Q, L]` each or what expands to it, the first as it is; mask `[B, 1, Q, L]` → `[B, heads, Q, L]`
///
/// # Panics
/// On another device than the CPU; more than 8 streams or 128 keys.
pub fn probabilities(fusion: &FusionLayer, maps: &[&Tensor], mask: &Tensor, scale: f64) -> Tensor {
    let (number, parameters) = match fusion {
        FusionLayer::Sum => (0, Vec::new()),
        FusionLayer::Concat(layer) => (1, vec![&layer.weight, &layer.bias]),
        FusionLayer::Gate { hidden, energy } => (2, vec![&hidden.weight, &hidden.bias, &energy.weight, &energy.bias]),
    };
    let shape = maps[0].size();
    let expanded: Vec<Tensor> =
        maps.iter().copied().chain([mask]).map(|map| map.expand(shape.as_slice(), false)).collect();
    let tensors: Vec<*const C_tensor> = expanded.iter().chain(parameters).map(Tensor::as_ptr).collect();
    let mut probs = std::ptr::null_mut();
    // SAFETY: the tensors outlive the call, which sets `probs` to a tensor that is ours or returns a message.
    unsafe {
        checked(dif_sr_fuse(tensors.len(), tensors.as_ptr(), maps.len() as c_int, number, scale, &mut probs))
            .unwrap_or_else(|e| panic!("{e}"));
        Tensor::from_ptr(probs)
    }
}
