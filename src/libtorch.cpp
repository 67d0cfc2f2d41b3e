// What tch lacks of libtorch.
#include "caught.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcdiv.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/record_function.h>
#include <torch/headeronly/version.h>

#include <mutex>
#include <string>
#include <vector>

namespace {

// -1 is the CPU, others are CUDA devices.
at::Device device(int cuda) { return cuda < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, cuda); }

at::Generator generator(int cuda) { return at::globalContext().defaultGenerator(device(cuda)); }

// The operations of this thread: how deep each is within others, and its name.
thread_local std::string operations;
thread_local int depth = 0;
thread_local at::CallbackHandle watching = 0;

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction &function) {
    operations.append(std::to_string(depth)).append(" ").append(function.name()).push_back('\n');
    ++depth;
    return nullptr;
}

void end(const at::RecordFunction &, at::ObserverContext *) { --depth; }

} // namespace

extern "C" {

// What Adam moves, and the factors of its step; its Rust side is `AdamStep`.
struct dif_sr_adam_step {
    const at::Tensor *parameter, *exp_avg, *exp_avg_sq;
    double step_size, correction;
};

// What Adam moves on a GPU, with the number of its steps, a float32 `[]` there.
struct dif_sr_fused_adam_step {
    const at::Tensor *parameter, *exp_avg, *exp_avg_sq, *step;
};

const char *dif_sr_generator_state(int cuda, at::Tensor **state) {
    return caught([&] {
        auto gen = generator(cuda);
        std::lock_guard<std::mutex> lock(gen.mutex());
        *state = new at::Tensor(gen.get_state());
    });
}

const char *dif_sr_set_generator_state(int cuda, const at::Tensor *state) {
    return caught([&] {
        auto gen = generator(cuda);
        std::lock_guard<std::mutex> lock(gen.mutex());
        gen.set_state(*state);
    });
}

void dif_sr_deterministic() {
    auto &context = at::globalContext();
    context.setDeterministicAlgorithms(true, /*warn_only=*/true);
    // It is for finding reads of memory that nobody wrote, and costs a pass over every new tensor.
    context.setDeterministicFillUninitializedMemory(false);
}

void dif_sr_autocast(int cuda, int enabled) {
    const auto type = device(cuda).type();
    at::autocast::set_autocast_dtype(type, at::kBFloat16);
    at::autocast::set_autocast_enabled(type, enabled);
    if (!enabled) {
        // Of copies of the parameters, which are wrong once these have moved.
        at::autocast::clear_cache();
    }
}

// As `zero_grad` in PyTorch: the next backward pass leaves its gradients here, and adds to none.
const char *dif_sr_forget_gradients(size_t n, const at::Tensor *const *tensors) {
    return caught([&] {
        for (size_t i = 0; i < n; ++i) {
            tensors[i]->mutable_grad().reset();
        }
    });
}

const char *dif_sr_backward(const at::Tensor *tensor, const at::Tensor *gradient) {
    return caught([&] { tensor->backward(*gradient); });
}

const char *dif_sr_set_gradient(const at::Tensor *tensor, const at::Tensor *gradient) {
    return caught([&] { tensor->mutable_grad() = *gradient; });
}

// From now on the operations of this thread are noted.
void dif_sr_watch_operations() {
    operations.clear();
    depth = 0;
    watching = at::addThreadLocalCallback(at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION}));
}

// A line for each: how many others it is called by, a space, its name. Valid until the thread watches again.
const char *dif_sr_watched_operations() {
    at::removeCallback(watching);
    return operations.c_str();
}

// One step of Adam on n tensors with gradients: adam.rs says what of. Operations and order are those of torch.optim.Adam.
const char *dif_sr_adam(size_t n, const dif_sr_adam_step *steps, double beta1, double beta2, double eps, double weight_decay) {
    return caught([&] {
        if (n == 0) {
            return; // libtorch takes no empty list
        }
        const at::NoGradGuard no_grad;
        std::vector<at::Tensor> parameters, grads, exp_avgs, exp_avg_sqs;
        std::vector<at::Scalar> step_sizes, corrections;
        for (const auto *one = steps; one != steps + n; ++one) {
            parameters.push_back(*one->parameter);
            grads.push_back(one->parameter->grad());
            exp_avgs.push_back(*one->exp_avg);
            exp_avg_sqs.push_back(*one->exp_avg_sq);
            step_sizes.push_back(-one->step_size);
            corrections.push_back(one->correction);
        }
        if (weight_decay != 0) {
            grads = at::_foreach_add(grads, parameters, weight_decay);
        }
        at::_foreach_lerp_(exp_avgs, grads, 1 - beta1);
        at::_foreach_mul_(exp_avg_sqs, beta2);
        at::_foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2);
        auto denominators = at::_foreach_sqrt(exp_avg_sqs);
        at::_foreach_div_(denominators, corrections);
        at::_foreach_add_(denominators, eps);
        at::_foreach_addcdiv_(parameters, exp_avgs, denominators, step_sizes);
    });
}

// The same in one kernel, to which nothing comes from the host: torch.optim.Adam with `fused` and `capturable`.
const char *dif_sr_fused_adam(size_t n, const dif_sr_fused_adam_step *steps, double learning_rate, double beta1, double beta2,
                              double eps, double weight_decay) {
    return caught([&] {
        if (n == 0) {
            return;
        }
        const at::NoGradGuard no_grad;
        std::vector<at::Tensor> parameters, grads, exp_avgs, exp_avg_sqs, counts;
        for (const auto *one = steps; one != steps + n; ++one) {
            parameters.push_back(*one->parameter);
            grads.push_back(one->parameter->grad());
            exp_avgs.push_back(*one->exp_avg);
            exp_avg_sqs.push_back(*one->exp_avg_sq);
            counts.push_back(*one->step);
        }
        at::_foreach_add_(counts, 1);
        at::_fused_adam_(parameters, grads, exp_avgs, exp_avg_sqs, /*max_exp_avg_sqs=*/{}, counts, learning_rate, beta1, beta2,
                         weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
    });
}

// By way of pinned memory, so that the host does not wait for it.
const char *dif_sr_on_gpu(const at::Tensor *from, int cuda, at::Tensor **to) {
    return caught([&] { *to = new at::Tensor(from->pin_memory().to(device(cuda), from->scalar_type(), /*non_blocking=*/true)); });
}

// From pinned memory or the device itself, the host does not wait for it.
const char *dif_sr_copy_without_waiting(const at::Tensor *to, const at::Tensor *from) {
    return caught([&] {
        const at::NoGradGuard no_grad;
        to->copy_(*from, /*non_blocking=*/true);
    });
}

int dif_sr_matrix_unit() { return at::cpu::init_amx(); }

const char *dif_sr_libtorch_version() { return TORCH_VERSION; }
}
