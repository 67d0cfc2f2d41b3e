//! What tch lacks of libtorch: the states of its generators, deterministic algorithms, autocasting to bfloat16,
//! operations on lists of tensors, for which a GPU needs few kernels, and the leave to use a processor's matrix unit.

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::{Error, Result};

unsafe extern "C" {
    fn dif_sr_generator_state(cuda: c_int, state: *mut *mut C_tensor) -> *const c_char;
    fn dif_sr_set_generator_state(cuda: c_int, state: *const C_tensor) -> *const c_char;
    fn dif_sr_deterministic();
    fn dif_sr_autocast(cuda: c_int, enabled: c_int);
    fn dif_sr_forget_gradients(n: usize, tensors: *const *const C_tensor) -> *const c_char;
    fn dif_sr_backward(tensor: *const C_tensor, gradient: *const C_tensor) -> *const c_char;
    fn dif_sr_set_gradient(tensor: *const C_tensor, gradient: *const C_tensor) -> *const c_char;
    fn dif_sr_adam(
        n: usize,
        steps: *const AdamStep<'_>,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    ) -> *const c_char;
    fn dif_sr_fused_adam(
        n: usize,
        steps: *const FusedAdamStep<'_>,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    ) -> *const c_char;
    fn dif_sr_on_gpu(from: *const C_tensor, cuda: c_int, to: *mut *mut C_tensor) -> *const c_char;
    fn dif_sr_copy_without_waiting(to: *const C_tensor, from: *const C_tensor) -> *const c_char;
    #[cfg(test)]
    fn dif_sr_watch_operations();
    #[cfg(test)]
    fn dif_sr_watched_operations() -> *const c_char;
    fn dif_sr_matrix_unit() -> c_int;
    fn dif_sr_libtorch_version() -> *const c_char;
}

/// A parameter with a gradient, Adam's moments of it, and the factors of its step.
#[repr(C)]
pub(crate) struct AdamStep<'a> {
    parameter: *const C_tensor,
    exp_avg: *const C_tensor,
    exp_avg_sq: *const C_tensor,
    step_size: f64,
    correction: f64,
    tensors: PhantomData<&'a Tensor>,
}

impl<'a> AdamStep<'a> {
    /// `correction` is the square root of what the second moment lacks.
    pub fn new([parameter, exp_avg, exp_avg_sq]: [&'a Tensor; 3], step_size: f64, correction: f64) -> Self {
        let [parameter, exp_avg, exp_avg_sq] = [parameter, exp_avg, exp_avg_sq].map(Tensor::as_ptr);
        Self { parameter, exp_avg, exp_avg_sq, step_size, correction, tensors: PhantomData }
    }
}

/// A parameter with a gradient, Adam's moments of it, and how many steps it has taken, all on one device.
#[repr(C)]
pub(crate) struct FusedAdamStep<'a> {
    tensors: [*const C_tensor; 4],
    alive: PhantomData<&'a Tensor>,
}

impl<'a> FusedAdamStep<'a> {
    /// The parameter, its moments, and its steps so far, float32 `[]`.
    pub fn new(tensors: [&'a Tensor; 4]) -> Self {
        Self { tensors: tensors.map(|tensor| tensor.as_ptr()), alive: PhantomData }
    }
}

/// The state of the device's default generator, `[n]` bytes on the CPU: what is drawn after it was set is what was drawn
/// after it was read.
///
/// # Errors
/// No such device.
pub fn generator_state(device: Device) -> Result<Tensor> {
    let mut state = std::ptr::null_mut();
    // SAFETY: the function either sets `state` to a tensor that is ours from then on or returns a message.
    unsafe {
        checked(dif_sr_generator_state(index(device), &mut state))?;
        Ok(Tensor::from_ptr(state))
    }
}

/// Sets the state of the device's default generator to one that [`generator_state`] read.
///
/// # Errors
/// Bytes that are no state of this kind of generator; the generator then stays as it was.
pub fn set_generator_state(device: Device, state: &Tensor) -> Result<()> {
    if device == Device::Cpu && points_beyond_itself(state) {
        return Err(Error::new("expected the state of a generator, found one whose counters point beyond it"));
    }
    // SAFETY: the tensor outlives the call, which copies it.
    unsafe { checked(dif_sr_set_generator_state(index(device), state.as_ptr())) }
}

/// The generators that a training on this device draws from, by their names in files: shuffles are drawn on the CPU.
pub(crate) fn generators(device: Device) -> impl Iterator<Item = (&'static str, Device)> {
    std::iter::once(("generator.cpu", Device::Cpu)).chain(device.is_cuda().then_some(("generator.cuda", device)))
}

/// Whether a state of the CPU's generator (a seed, how many of 624 numbers are left, a flag, the next one's place, the numbers)
/// would be read beyond its end: libtorch checks each counter alone.
fn points_beyond_itself(state: &Tensor) -> bool {
    // In any shape, as libtorch takes it; what is no bytes it refuses itself.
    let Ok(bytes) = Vec::<u8>::try_from(state.flatten(0, -1)) else { return false };
    let (Some(left), Some(next)) = (bytes.get(8..12), bytes.get(16..24)) else { return false };
    let left = i32::from_le_bytes(left.try_into().expect("four bytes"));
    let next = u64::from_le_bytes(next.try_into().expect("eight bytes"));
    u64::try_from(left).is_ok_and(|left| left.saturating_add(next) > 625)
}

/// Has libtorch take the same sums in the same order in every run, on a GPU too, for the rest of the process. It warns of an
/// operation that it cannot do so.
pub(crate) fn deterministic() {
    // SAFETY: sets two flags.
    unsafe { dif_sr_deterministic() }
}

/// Leaves the tensors without gradients.
///
/// # Panics
/// A tensor that is undefined.
pub(crate) fn forget_gradients<'a>(tensors: impl Iterator<Item = &'a Tensor>) {
    let tensors: Vec<*const C_tensor> = tensors.map(|tensor| tensor.as_ptr()).collect();
    // SAFETY: the tensors outlive the call.
    let done = unsafe { checked(dif_sr_forget_gradients(tensors.len(), tensors.as_ptr())) };
    done.unwrap_or_else(|e| panic!("{e}"));
}

/// Takes the gradient of a tensor back through what it was computed from, where tch knows that of a number alone.
///
/// # Panics
/// A gradient of another shape; a tensor without history.
pub(crate) fn backward(tensor: &Tensor, gradient: &Tensor) {
    // SAFETY: the tensors outlive the call.
    unsafe { checked(dif_sr_backward(tensor.as_ptr(), gradient.as_ptr())) }.unwrap_or_else(|e| panic!("{e}"));
}

/// Gives a parameter a gradient that was computed by hand, instead of the one that it has.
///
/// # Panics
/// A gradient of another shape, kind or device.
pub(crate) fn set_gradient(parameter: &Tensor, gradient: &Tensor) {
    let like = |tensor: &Tensor| (tensor.size(), tensor.kind(), tensor.device());
    assert_eq!(like(gradient), like(parameter), "a gradient is like its parameter");
    // SAFETY: the tensors outlive the call, which shares the gradient.
    unsafe { checked(dif_sr_set_gradient(parameter.as_ptr(), gradient.as_ptr())) }.unwrap_or_else(|e| panic!("{e}"));
}

/// One step of Adam, all parameters in each operation:
///
/// ```text
/// g ← g + weight_decay · parameter
/// exp_avg ← exp_avg + (1 − β₁) (g − exp_avg)
/// exp_avg_sq ← β₂ · exp_avg_sq + (1 − β₂) g²
/// parameter ← parameter − step_size · exp_avg / (√exp_avg_sq / correction + ε)
/// ```
///
/// # Panics
/// A tensor that is not of its parameter's shape, kind or device.
pub(crate) fn adam(steps: &[AdamStep], [beta1, beta2]: [f64; 2], eps: f64, weight_decay: f64) {
    // SAFETY: the tensors outlive the steps, which have the layout of the C++ side.
    let done = unsafe { checked(dif_sr_adam(steps.len(), steps.as_ptr(), beta1, beta2, eps, weight_decay)) };
    done.unwrap_or_else(|e| panic!("{e}"));
}

/// The same step with its number on the device, so that the step can be recorded in a CUDA graph. The sums are those of
/// [`adam`], rounded elsewhere.
///
/// # Panics
/// As [`adam`].
pub(crate) fn fused_adam(
    steps: &[FusedAdamStep],
    learning_rate: f64,
    [beta1, beta2]: [f64; 2],
    eps: f64,
    weight_decay: f64,
) {
    let (n, steps) = (steps.len(), steps.as_ptr());
    // SAFETY: the tensors outlive the steps, which have the layout of the C++ side.
    let done = unsafe { checked(dif_sr_fused_adam(n, steps, learning_rate, beta1, beta2, eps, weight_decay)) };
    done.unwrap_or_else(|e| panic!("{e}"));
}

/// A tensor of the host on a device. To a GPU it goes from pinned memory, so that the copy is a part of the device's work,
/// for which the host does not wait.
///
/// # Panics
/// No memory left.
pub(crate) fn on_device(from: Tensor, device: Device) -> Tensor {
    if !device.is_cuda() {
        return from;
    }
    let mut to = std::ptr::null_mut();
    // SAFETY: the function either sets `to` to a tensor that is ours from then on or returns a message.
    unsafe {
        checked(dif_sr_on_gpu(from.as_ptr(), index(device), &mut to)).unwrap_or_else(|e| panic!("{e}"));
        Tensor::from_ptr(to)
    }
}

/// Copies a tensor into another. From pinned memory and from the device itself the copy is a part of the device's work, for
/// which the host does not wait.
///
/// # Errors
/// Another shape.
pub(crate) fn copy_without_waiting(to: &mut Tensor, from: &Tensor) -> Result<()> {
    // SAFETY: the tensors outlive the call; libtorch keeps pinned memory until the copy is done.
    unsafe { checked(dif_sr_copy_without_waiting(to.as_ptr(), from.as_ptr())) }
}

/// Computes with matrix products in bfloat16 on this thread, by libtorch's autocasting: parameters and gradients stay
/// float32, as do the operations that it says lose too much.
pub(crate) fn in_bfloat16<T>(device: Device, compute: impl FnOnce() -> T) -> T {
    /// Ends it, however `compute` ends.
    struct Autocast(c_int);
    impl Drop for Autocast {
        fn drop(&mut self) {
            // SAFETY: sets a flag of the thread.
            unsafe { dif_sr_autocast(self.0, 0) }
        }
    }
    let autocast = Autocast(index(device));
    // SAFETY: as above.
    unsafe { dif_sr_autocast(autocast.0, 1) }
    compute()
}

/// The names of libtorch's operations that `compute` asks for on this thread, a backward pass on the CPU included: those
/// for which a GPU has work, and all. Views and new memory are no work; of what is made of others these are counted, and
/// nothing inside of them.
#[cfg(test)]
pub(crate) fn operations(compute: impl FnOnce()) -> (Vec<String>, Vec<String>) {
    /// No work.
    const IDLE: &str = " alias as_strided chunk detach detach_ empty empty_like empty_strided expand expand_as is_nonzero \
        narrow permute resolve_conj resolve_neg resize_ result_type select slice split split_with_sizes squeeze t transpose \
        unbind unflatten unsqueeze view view_as _reshape_alias _unsafe_view set_ lift_fresh numpy_T ";
    /// Made of others, each of which is counted.
    const COMPOSITE: &str = " contiguous cross_entropy_loss flatten layer_norm linear log_sigmoid log_softmax matmul \
        nll_loss nll_loss_nd one_hot reshape select_backward slice_backward embedding_backward softmax stack to where \
        binary_cross_entropy_with_logits value_selecting_reduction_backward unsafe_split split_backward triu ";
    let is_in = |list: &str, name: &str| list.contains(&format!(" {name} "));
    // SAFETY: both are called on one thread, one behind the other; the text is copied at once.
    let lines = unsafe {
        dif_sr_watch_operations();
        compute();
        CStr::from_ptr(dif_sr_watched_operations()).to_string_lossy().into_owned()
    };
    let (mut found, mut all, mut inside) = (Vec::new(), Vec::new(), usize::MAX);
    for line in lines.lines() {
        let (depth, name) = line.split_once(' ').expect("a depth and a name");
        let depth: usize = depth.parse().expect("a depth");
        let name = name.trim_start_matches("aten::");
        all.push(name.to_owned());
        if depth > inside {
            continue;
        }
        inside = usize::MAX;
        // The automatic gradients' own steps, which ask for operations.
        if name.contains("::") || name.ends_with("Backward0") || name.ends_with("Backward1") {
            continue;
        }
        if !is_in(COMPOSITE, name) {
            inside = depth;
            if !is_in(IDLE, name) {
                found.push(name.to_owned());
            }
        }
    }
    (found, all)
}

/// Asks the system to let this process use the matrix unit of an x86 processor (AMX), and says whether it does; `false` where
/// there is none.
pub(crate) fn matrix_unit() -> bool {
    // SAFETY: asks the processor and the system.
    unsafe { dif_sr_matrix_unit() != 0 }
}

/// The version in the headers of the libtorch that this program was built with.
pub(crate) fn libtorch_version() -> String {
    // SAFETY: a constant of the library.
    unsafe { CStr::from_ptr(dif_sr_libtorch_version()) }.to_string_lossy().into_owned()
}

fn index(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => index as c_int,
        _ => -1,
    }
}

/// # Safety
/// `message` is null or a C string.
pub(crate) unsafe fn checked(message: *const c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise; it is not null.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // Libtorch appends a C++ stack trace; the first line is the message.
    Err(Error::new(format!("libtorch: {}", text.lines().next().unwrap_or_default())))
}

/// Libtorch's generator belongs to the process: tests that draw from it take turns.
#[cfg(test)]
pub(crate) fn turn() -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    GENERATOR.lock().unwrap_or_else(|broken| broken.into_inner())
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::run_folder::Calibration;

    #[test]
    fn what_is_drawn_after_a_state_was_set_is_what_was_drawn_after_it_was_read() {
        let _turn = turn();
        let draw = || {
            // An odd number of normal values, of which the generator keeps one back.
            let normal = Tensor::randn([7], (Kind::Double, Device::Cpu));
            let order = Tensor::randperm(50, (Kind::Int64, Device::Cpu)).to_kind(Kind::Double);
            Vec::<f64>::try_from(Tensor::cat(&[normal, order], 0)).unwrap()
        };
        tch::manual_seed(212);
        draw();
        let state = generator_state(Device::Cpu).unwrap();
        let first = draw();
        assert_ne!(draw(), first);
        set_generator_state(Device::Cpu, &state).unwrap();
        // A calibration in between draws nothing.
        Calibration::measure(Device::Cpu);
        assert_eq!(draw(), first);

        // All 624 numbers are left, and the next is the last.
        let mut forged = Vec::<u8>::try_from(&state).unwrap();
        forged[8..12].copy_from_slice(&624_i32.to_le_bytes());
        forged[16..24].copy_from_slice(&623_u64.to_le_bytes());
        let error = set_generator_state(Device::Cpu, &Tensor::from_slice(&forged)).unwrap_err();
        assert!(error.to_string().contains("point beyond it"), "{error}");
        let error = set_generator_state(Device::Cpu, &Tensor::from_slice(&forged).view([1, -1])).unwrap_err();
        assert!(error.to_string().contains("point beyond it"), "{error}");
        forged[16..24].copy_from_slice(&1_u64.to_le_bytes());
        set_generator_state(Device::Cpu, &Tensor::from_slice(&forged)).unwrap();
        let error = set_generator_state(Device::Cpu, &Tensor::zeros([5], (Kind::Uint8, Device::Cpu))).unwrap_err();
        assert!(error.to_string().starts_with("libtorch: "), "{error}");
    }
}
