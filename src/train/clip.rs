//! Gradient clipping by the norm of all gradients together.

use tch::{Kind, Tensor, no_grad};

use crate::config::ClipGradNorm;

/// Scales all gradients by one factor so that their norm is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_`.
pub fn clip_grad_norm(grads: impl Iterator<Item = Tensor>, ClipGradNorm { max_norm, norm_type }: ClipGradNorm) {
    no_grad(|| {
        let mut grads: Vec<Tensor> = grads.filter(Tensor::defined).collect();
        if grads.is_empty() {
            return;
        }
        // Flattened, because of a matrix libtorch would take the norm of the operator.
        let norm = |t: &Tensor| t.flatten(0, -1).linalg_norm(norm_type, None::<i64>, false, None::<Kind>);
        let norms: Vec<Tensor> = grads.iter().map(norm).collect();
        let scale = (norm(&Tensor::stack(&norms, 0)) + 1e-6).reciprocal() * max_norm;
        let scale = scale.clamp_max(1.0);
        grads.iter_mut().for_each(|grad| _ = grad.g_mul_(&scale));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_beyond_the_norm_are_scaled_together_and_others_are_left() {
        let parameters =
            [Tensor::from_slice(&[3.0, 0.0]), Tensor::from_slice(&[4.0])].map(|t| t.set_requires_grad(true));
        let loss = &parameters[0].dot(&Tensor::from_slice(&[3.0, 0.0])) + &parameters[1].sum(None::<Kind>) * 4.0;
        loss.backward();
        clip_grad_norm(parameters.iter().map(Tensor::grad), ClipGradNorm { max_norm: 10.0, norm_type: 2.0 });
        assert_eq!(parameters[0].grad().double_value(&[0]), 3.0, "a norm of 5 is below 10");
        clip_grad_norm(parameters.iter().map(Tensor::grad), ClipGradNorm { max_norm: 1.0, norm_type: 2.0 });
        let clipped = [parameters[0].grad().double_value(&[0]), parameters[1].grad().double_value(&[0])];
        // PyTorch adds a millionth to the norm.
        let expected = [3.0, 4.0].map(|gradient| gradient / (5.0 + 1e-6));
        assert!(
            clipped.iter().zip(expected).all(|(clipped, expected)| (clipped - expected).abs() < 1e-9),
            "{clipped:?}"
        );
    }

    #[test]
    fn the_norm_is_that_of_all_elements_whatever_the_shape_and_the_order_of_the_norm() {
        for (norm_type, norm) in [(1.0, 10.0), (2.0, 30.0_f64.sqrt()), (3.0, 100.0_f64.cbrt()), (f64::INFINITY, 4.0)] {
            let parameter = Tensor::from_slice(&[1.0, 2.0, -3.0, 4.0]).reshape([2, 2]).set_requires_grad(true);
            (&parameter * parameter.detach()).sum(None::<Kind>).backward();
            clip_grad_norm(std::iter::once(parameter.grad()), ClipGradNorm { max_norm: 1.0, norm_type });
            let clipped = parameter.grad().double_value(&[1, 1]);
            assert!((clipped - 4.0 / (norm + 1e-6)).abs() < 1e-12, "{norm_type}: {clipped}");
        }
    }
}
