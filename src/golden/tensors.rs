//! libtorch's tensors as the judge reads them.

use tch::{Device, Kind, Tensor};

/// A copy of a tensor, its elements in float64; float32 is remembered to have been that.
pub fn to_judge(tensor: &Tensor) -> judge::Tensor {
    let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
    let flat = tensor.detach().to_device(Device::Cpu).flatten(0, -1);
    let copied = match tensor.kind() {
        Kind::Int64 | Kind::Int => Vec::<i64>::try_from(flat).map(|values| judge::Tensor::new(&shape, &values)),
        Kind::Double => Vec::<f64>::try_from(flat).map(|values| judge::Tensor::new(&shape, &values)),
        _ => Vec::<f32>::try_from(flat).map(|values| judge::Tensor::new(&shape, &values)),
    };
    let copied = copied.expect("one dimension");
    copied.unwrap_or_else(|e| unreachable!("a tensor has as many elements as its shape says: {e}"))
}
