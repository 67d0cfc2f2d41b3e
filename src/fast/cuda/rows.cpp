// The rows of rows.h as an operation of libtorch with its gradient, on the CPU.
#include "../../caught.h"
#include "rows.h"

#include <torch/csrc/autograd/custom_function.h>
#include <ATen/ATen.h>

#include <vector>

namespace {

// The most keys and streams of a row on the CPU.
constexpr int KEYS = 128, STREAMS = 8;

template <typename T> dif_sr::Map<T> map_of(const at::Tensor &map) {
    return {map.const_data_ptr<T>(), {map.stride(0), map.stride(1), map.stride(2), map.stride(3)}};
}

struct Settings {
    int64_t streams, fusion;
    double scale;
};

// `inputs`: the streams' scores [B, heads, Q, L], the mask [B, heads, Q, L], the fusion's parameters.
template <typename T>
dif_sr::Rows<T, STREAMS> rows_of(at::TensorList inputs, const Settings &settings, const at::Tensor &probs) {
    dif_sr::Rows<T, STREAMS> rows{};
    const at::IntArrayRef sizes = inputs[0].sizes();
    rows.rows = sizes[0] * sizes[1] * sizes[2];
    rows.heads = sizes[1], rows.queries = sizes[2], rows.l = sizes[3];
    rows.s = settings.streams, rows.scale = settings.scale;
    for (int k = 0; k < rows.s; ++k) {
        rows.maps[k] = map_of<T>(inputs[k]);
    }
    rows.mask = map_of<T>(inputs[rows.s]);
    const T **parameters[] = {&rows.weight, &rows.bias, &rows.energy, &rows.energy_bias};
    for (size_t k = 0; rows.s + 1 + k < inputs.size(); ++k) {
        const at::Tensor &parameter = inputs[rows.s + 1 + k];
        *parameters[k] = parameter.const_data_ptr<T>();
    }
    rows.probs = probs.data_ptr<T>();
    return rows;
}

// Every row in turn, as a GPU's threads would.
template <typename T, int F> void run(const dif_sr::Rows<T, STREAMS> &rows) {
    for (long long r = 0; r < rows.rows; ++r) {
        if (rows.dprobs) {
            dif_sr::backward<T, KEYS, STREAMS, F>(r, rows);
        } else {
            dif_sr::forward<T, KEYS, STREAMS, F>(r, rows);
        }
    }
}

template <typename T> void run(int64_t fusion, const dif_sr::Rows<T, STREAMS> &rows) {
    fusion == dif_sr::SUM      ? run<T, dif_sr::SUM>(rows)
    : fusion == dif_sr::CONCAT ? run<T, dif_sr::CONCAT>(rows)
                               : run<T, dif_sr::GATE>(rows);
}

void check(at::TensorList inputs, const Settings &settings) {
    TORCH_CHECK(settings.streams <= STREAMS && inputs[0].size(3) <= KEYS, "at most 8 streams of 128 keys");
    for (const auto &input : inputs) {
        TORCH_CHECK(input.is_cpu() && input.scalar_type() == inputs[0].scalar_type(), "rows are on the CPU, of one kind");
    }
    for (int64_t k = 0; k <= settings.streams; ++k) {
        TORCH_CHECK(inputs[k].sizes() == inputs[0].sizes(), "all maps and the mask have one shape");
    }
    for (size_t k = settings.streams + 1; k < inputs.size(); ++k) {
        TORCH_CHECK(inputs[k].is_contiguous(), "parameters are contiguous");
    }
}

// The gradients of the fusion's parameters: sums over rows, taken by libtorch.
std::vector<at::Tensor> of_parameters(int64_t fusion, int64_t l, const at::Tensor &dfusion, const at::Tensor &stacked) {
    if (fusion == dif_sr::SUM) {
        return {};
    }
    const auto sums = dfusion.sum(0);
    const auto weight = dfusion.narrow(1, 0, l).t().mm(stacked);
    if (fusion == dif_sr::CONCAT) {
        return {weight, sums};
    }
    return {weight, sums.narrow(0, 0, l), sums.narrow(0, l, l).unsqueeze(0), sums.narrow(0, 2 * l, 1)};
}

struct Fuse : torch::autograd::Function<Fuse> {
    static at::Tensor forward(torch::autograd::AutogradContext *context, at::TensorList inputs, int64_t streams, int64_t fusion,
                              double scale) {
        const Settings settings{streams, fusion, scale};
        check(inputs, settings);
        auto probs = at::empty(inputs[0].sizes(), inputs[0].options());
        AT_DISPATCH_FLOATING_TYPES(probs.scalar_type(), "rows", [&] {
            run(fusion, rows_of<scalar_t>(inputs, settings, probs));
        });
        auto saved = inputs.vec();
        saved.push_back(probs);
        context->save_for_backward(saved);
        context->saved_data["streams"] = streams;
        context->saved_data["fusion"] = fusion;
        context->saved_data["scale"] = scale;
        return probs;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                   torch::autograd::variable_list gradients) {
        auto inputs = context->get_saved_variables();
        const auto probs = inputs.back();
        inputs.pop_back();
        const Settings settings{context->saved_data["streams"].toInt(), context->saved_data["fusion"].toInt(),
                                context->saved_data["scale"].toDouble()};
        const auto s = settings.streams, l = probs.size(3), n = probs.numel() / l;
        const auto dprobs = gradients[0].contiguous();
        auto shape = probs.sizes().vec();
        shape.insert(shape.begin(), s);
        const auto dmaps = at::empty(shape, probs.options());
        const bool gate = settings.fusion == dif_sr::GATE;
        const auto dfusion = at::empty({gate ? n * s : n, gate ? 2 * l + 1 : l}, probs.options());
        const auto stacked = at::empty({gate ? n * s : n, gate ? l : s * l}, probs.options());
        AT_DISPATCH_FLOATING_TYPES(probs.scalar_type(), "rows", [&] {
            auto rows = rows_of<scalar_t>(inputs, settings, probs);
            rows.dprobs = dprobs.const_data_ptr<scalar_t>();
            rows.dmaps = dmaps.data_ptr<scalar_t>();
            rows.dfusion = dfusion.data_ptr<scalar_t>(), rows.stacked = stacked.data_ptr<scalar_t>();
            run(settings.fusion, rows);
        });
        auto all = dmaps.unbind(0);
        all.emplace_back(); // the mask
        const auto parameters = of_parameters(settings.fusion, l, dfusion, stacked);
        all.insert(all.end(), parameters.begin(), parameters.end());
        all.resize(all.size() + 3); // the settings
        return all;
    }
};

} // namespace

extern "C" const char *dif_sr_fuse(size_t n, const at::Tensor *const *tensors, int streams, int fusion, double scale,
                                   at::Tensor **probs) {
    return caught([&] {
        std::vector<at::Tensor> inputs;
        for (size_t i = 0; i < n; ++i) {
            inputs.push_back(*tensors[i]);
        }
        *probs = new at::Tensor(Fuse::apply(at::TensorList(inputs), int64_t{streams}, int64_t{fusion}, scale));
    });
}
