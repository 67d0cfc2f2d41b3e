//! The elements of libtorch's tensors.

use tch::{Device, Kind, Tensor};

/// The elements of a float32 tensor on the CPU.
pub fn floats(tensor: &Tensor) -> &[f32] {
    assert!(tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous());
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: a contiguous float32 tensor in the CPU's memory, which the reference keeps alive. Nothing writes to
    // parameters while the fast path reads them: the optimizer runs between steps.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The elements of a float32 tensor on the CPU, to write to.
pub fn floats_mut(tensor: &mut Tensor) -> &mut [f32] {
    let len = floats(tensor).len();
    if len == 0 {
        return &mut [];
    }
    // SAFETY: as in `floats`; whoever has the tensor mutably is the optimizer, between steps.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), len) }
}

/// A copy of an int64 tensor's elements, row-major.
pub fn integers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.flatten(0, -1)).expect("ids are int64")
}
