//! The activation of the feed-forward network: y = f(x), and dx = f′(x) · dy.

use crate::config::Activation;
use crate::fast::cpu::gemm::{MatRef, tensor_mut};

/// `out` = f(x).
///
/// # Shapes
/// x, out `[n]`
pub fn forward(activation: Activation, x: &[f32], out: &mut [f32]) {
    let map = |out: &mut [f32], f: fn(f32) -> f32| out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x));
    match activation {
        Activation::Gelu => _ = MatRef::new(x, 1).tensor().gelu_out(&tensor_mut(out, 1), "none"),
        // Not `max`, which would hide a NaN.
        Activation::Relu => map(out, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::Swish => map(out, |x| x * sigmoid(x)),
        Activation::Tanh => map(out, f32::tanh),
        Activation::Sigmoid => map(out, sigmoid),
    }
}

/// Turns the gradient of f(x), in place, into that of x.
///
/// # Shapes
/// x, grad `[n]`
pub fn backward(activation: Activation, x: &[f32], grad: &mut [f32]) {
    let scale = |grad: &mut [f32], f: fn(f32) -> f32| grad.iter_mut().zip(x).for_each(|(grad, &x)| *grad *= f(x));
    match activation {
        Activation::Gelu => {
            let (target, x) = (tensor_mut(grad, 1), MatRef::new(x, 1).tensor());
            let _ = x.gelu_backward_grad_input(&target, &target, "none");
        }
        Activation::Relu => scale(grad, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Swish => scale(grad, |x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))),
        Activation::Tanh => scale(grad, |x| 1.0 - x.tanh() * x.tanh()),
        Activation::Sigmoid => scale(grad, |x| sigmoid(x) * (1.0 - sigmoid(x))),
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
