// What tch lacks of libtorch. Functions that can fail return a message when they do.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/headeronly/version.h>

#include <mutex>
#include <string>

namespace {

// -1 is the CPU, others are CUDA devices.
at::Device device(int cuda) { return cuda < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, cuda); }

at::Generator generator(int cuda) { return at::globalContext().defaultGenerator(device(cuda)); }

template <typename F> const char *caught(F f) {
    static thread_local std::string message;
    try {
        f();
        return nullptr;
    } catch (const std::exception &e) {
        message = e.what();
        return message.c_str();
    }
}

} // namespace

extern "C" {

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

const char *dif_sr_libtorch_version() { return TORCH_VERSION; }
}
