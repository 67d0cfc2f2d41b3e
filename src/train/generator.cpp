// The state of libtorch's default generators, and its version: tch has neither. Functions return a message on failure.
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/headeronly/version.h>

#include <mutex>
#include <string>

namespace {

// -1 is the CPU, others are CUDA devices.
at::Generator generator(int cuda) {
    return at::globalContext().defaultGenerator(cuda < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, cuda));
}

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

const char *dif_sr_libtorch_version() { return TORCH_VERSION; }
}
