//! libtorch's tensors as the judge reads them.

use tch::{Device, Kind, Tensor};

/// A copy of a tensor, its elements in float64; float32 is remembered to have been that.
pub fn to_judge(tensor: &Tensor) -> judge::Tensor {
    let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
    let flat = tensor.detach().to_device(Device::Cpu).flatten(0, -1);
    let copied = match tensor.kind() {
        Kind::Int64 | Kind::Int => judge::Tensor::new(&shape, &read::<i64>(&flat.to_kind(Kind::Int64))),
        Kind::Double => judge::Tensor::new(&shape, &read::<f64>(&flat)),
        _ => judge::Tensor::new(&shape, &read::<f32>(&flat.to_kind(Kind::Float))),
    };
    copied.unwrap_or_else(|e| unreachable!("a tensor has as many elements as its shape says: {e}"))
}

fn read<T: tch::kind::Element + Copy + Default>(flat: &Tensor) -> Vec<T> {
    let mut values = vec![T::default(); flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values
}
