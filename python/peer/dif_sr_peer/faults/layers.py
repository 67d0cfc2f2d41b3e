"""What follows the attention: output layer, feed-forward network, residuals, LayerNorms, the stack of layers."""

import torch
from torch import nn

from ..encoder import ACTIVATIONS
from .registry import attentions, drop, everywhere, fault, faults, feed_forwards, number, remember, replace


def blocks(model):
    """The two halves of every layer: what they have in common is `add_and_norm`."""
    return attentions(model) + feed_forwards(model)


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.LayerNorm)]


def residual(where, compute):
    """`compute(block, hidden, x)` in place of LayerNorm(hidden + x)."""

    def plant(model):
        for block in where(model):
            replace(block, "add_and_norm", lambda _, hidden, x, block=block: compute(block, hidden, x))

    return plant


def residual_without_norm(where):
    def plant(model):
        residual(where, lambda block, hidden, x: hidden + x)(model)
        for block in where(model):
            drop(block, "LayerNorm")

    return plant


PLACES = {
    "attention": (attentions, "the attention block"),
    "feed_forward": (feed_forwards, "the feed-forward network"),
}


@faults(common=("attention_residual_missing", "feed_forward_residual_missing"))
def residuals(c):
    for name, (where, place) in PLACES.items():
        right = "the reference computes LayerNorm(output + input)"
        yield (
            f"{name}_residual_missing",
            f"{place} has no residual connection; {right}",
            residual(where, lambda block, hidden, x: block.LayerNorm(hidden)),
        )
        yield f"{name}_norm_missing", f"{place} has no LayerNorm; {right}", residual_without_norm(where)
        yield (
            f"{name}_norm_before_residual",
            f"{place} normalises its output before the input is added; {right}",
            residual(where, lambda block, hidden, x: block.LayerNorm(hidden) + x),
        )
        yield (
            f"{name}_residual_doubled",
            f"{place} adds its input twice; {right}",
            residual(where, lambda block, hidden, x: block.LayerNorm(hidden + 2 * x)),
        )
        yield (
            f"{name}_residual_detached",
            f"{place} adds its input detached, so that no gradient flows past it",
            residual(where, lambda block, hidden, x: block.LayerNorm(hidden + x.detach())),
        )
    yield (
        "residuals_missing",
        "layers have no residual connections; the reference has one round the attention and one round the feed-forward network",
        residual(blocks, lambda block, hidden, x: block.LayerNorm(hidden)),
    )
    yield (
        "norms_of_layers_missing",
        "layers have no LayerNorms; the reference has one after the attention and one after the feed-forward network",
        residual_without_norm(blocks),
    )


def norm_first(where):
    """x + f(LayerNorm(x)) in place of LayerNorm(f(x) + x)."""

    def plant(model):
        for block in where(model):
            replace(block, "forward", lambda original, x, *rest, block=block: original(block.LayerNorm(x), *rest))
            before = remember(block, "forward", lambda x, *_: x)
            replace(block, "add_and_norm", lambda _, hidden, x, before=before: hidden + before[0])

    return plant


@faults(common=("pre_norm",))
def order_of_norms(c):
    yield (
        "pre_norm",
        "layers normalise their inputs (pre-norm); the reference normalises after each residual connection",
        norm_first(blocks),
    )
    yield (
        "attention_pre_norm",
        "the attention block normalises its input (pre-norm); the reference normalises after the residual connection",
        norm_first(attentions),
    )
    yield (
        "feed_forward_pre_norm",
        "the feed-forward network normalises its input (pre-norm); the reference normalises after the residual connection",
        norm_first(feed_forwards),
    )

    def pre_norm_final_norm(model):
        norm_first(blocks)(model)
        final(plain_norm)(model)

    text = "layers are pre-norm, with a LayerNorm after the last; the reference is post-norm"
    yield "pre_norm_final_norm", text, pre_norm_final_norm

    def swapped(model):
        for layer in model.trm_encoder.layer:
            attention, feed_forward = layer.multi_head_attention, layer.feed_forward
            attention.LayerNorm, feed_forward.LayerNorm = feed_forward.LayerNorm, attention.LayerNorm

    yield "norms_swapped", "the LayerNorms of the attention and of the feed-forward network have changed places", swapped


def plain_norm(x):
    return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-12)


def final(norm):
    def plant(model):
        replace(model.trm_encoder, "output", lambda original, states: norm(original(states)))

    return plant


@faults(common=("final_norm",))
def norm_of_output(c):
    yield "final_norm", "a LayerNorm follows the last layer; in the reference nothing does", final(plain_norm)
    yield (
        "final_norm_is_input_norm",
        "the input LayerNorm is used again after the last layer; in the reference nothing follows it",
        lambda model: final(model.LayerNorm)(model),
    )


@faults(common=("layer_norm_eps_1e_5", "layer_norm_eps_1e_6", "layer_norm_eps_1e_8"))
def layer_norm(c):
    def eps(value, where=norms):
        def plant(model):
            for module in where(model):
                module.eps = value

        return plant

    def each(compute):
        def plant(model):
            for module in norms(model):
                replace(module, "forward", lambda original, x, module=module: compute(original, module, x))

        return plant

    own = c.get("layer_norm_eps", 1e-12)
    for value in (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12):
        if value != own:
            yield f"layer_norm_eps_{number(value)}", f"LayerNorm's epsilon is {value:g}, not {{eps}}", eps(value)
    if own != 1e-5:
        yield (
            "input_norm_eps_1e_5",
            "the input LayerNorm's epsilon is 1e-05, not {eps}; those of the layers are right",
            eps(1e-5, lambda model: [model.LayerNorm]),
        )
        yield (
            "layers_norm_eps_1e_5",
            "the epsilon of the layers' LayerNorms is 1e-05, not {eps}; the input's is right",
            eps(1e-5, lambda model: [block.LayerNorm for block in blocks(model)]),
        )

    def unbiased(original, module, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        return module.weight * centred / (x.std(dim=-1, keepdim=True) + module.eps) + module.bias

    def root_mean_square(original, module, x):
        return module.weight * x / (x.pow(2).mean(dim=-1, keepdim=True) + module.eps).sqrt() + module.bias

    def over_sequence(original, module, x):
        whole = nn.functional.layer_norm(x, x.shape[-2:], eps=module.eps) if x.dim() > 2 else x
        return module.weight * whole + module.bias

    yield "layer_norm_unbiased", "LayerNorm divides by the standard deviation of n − 1; the reference takes n", each(unbiased)
    yield "layer_norm_not_centred", "LayerNorm does not take off the mean (RMSNorm)", each(root_mean_square)
    yield "layer_norm_over_sequence", "LayerNorm takes mean and variance over [L, H]; the reference over H", each(over_sequence)
    yield (
        "layer_norm_in_float32",
        "LayerNorm is computed in float32",
        each(
            lambda original, m, x: (
                nn.functional.layer_norm(x.float(), m.normalized_shape, eps=m.eps).to(x.dtype) * m.weight + m.bias
            )
        ),
    )

    def without(*names):
        def plant(model):
            for module in norms(model):
                drop(module, *names)

        return plant

    yield "layer_norm_without_bias", "LayerNorms have no bias; in the reference they have", without("bias")
    yield (
        "layer_norm_without_affine",
        "LayerNorms have neither weight nor bias; in the reference both",
        without("weight", "bias"),
    )


@faults(common=("tanh_gelu", "quick_gelu", "activation_relu"))
def activation(c):
    def by(function):
        return everywhere(feed_forwards, "activation", lambda _, x: function(x))

    own = c.get("hidden_act", "gelu")
    for name, function in ACTIVATIONS.items():
        if name != own:
            yield f"activation_{name}", f"the feed-forward activation is {name}, not {{activation}}", by(function)
    if own == "gelu":
        tanh = lambda x: nn.functional.gelu(x, approximate="tanh")
        yield "tanh_gelu", "GELU is its tanh approximation, not the exact form with erf", by(tanh)
        yield "quick_gelu", "GELU is x · σ(1.702 x), not the exact form with erf", by(lambda x: x * torch.sigmoid(1.702 * x))
    others = {"leaky_relu": nn.functional.leaky_relu, "elu": nn.functional.elu, "softplus": nn.functional.softplus}
    for name, function in others.items():
        yield f"activation_{name}", f"the feed-forward activation is {name}, not {{activation}}", by(function)
    yield "activation_missing", "the feed-forward network has no activation; the reference has {activation}", by(lambda x: x)


@faults(common=("feed_forward_biases_missing",))
def feed_forward(c):
    def biases(names, where):
        def plant(model):
            for block in where(model):
                for name in names:
                    drop(getattr(block, name), "bias")

        return plant

    yield (
        "feed_forward_biases_missing",
        "the feed-forward network has no biases; in the reference both layers have one",
        biases(("dense_1", "dense_2"), feed_forwards),
    )
    yield (
        "dense_bias_missing",
        "the attention's output layer has no bias; in the reference it has one",
        biases(("dense",), attentions),
    )

    def second_activation(model):
        for block in feed_forwards(model):
            replace(block, "add_and_norm", lambda original, hidden, x, b=block: original(b.activation(hidden), x))

    def missing(model):
        for block in feed_forwards(model):
            replace(block, "forward", lambda _, x: x)
            drop(block, "dense_1", "dense_2", "LayerNorm")

    def layer_input(model):
        for layer in model.trm_encoder.layer:
            before = remember(layer, "forward", lambda x, *_: x)
            add = lambda original, hidden, x, before=before: original(hidden, before[0])
            replace(layer.feed_forward, "add_and_norm", add)

    def beside(model):
        for layer in model.trm_encoder.layer:
            before = remember(layer, "forward", lambda x, *_: x)
            replace(
                layer.feed_forward,
                "forward",
                lambda _, x, f=layer.feed_forward, before=before: f.add_and_norm(
                    f.dense_2(f.activation(f.dense_1(before[0]))), x
                ),
            )

    yield (
        "activation_after_dense_2",
        "the activation follows the second layer too; in the reference nothing does",
        second_activation,
    )
    yield "feed_forward_missing", "layers have no feed-forward network; in the reference each has one", missing
    yield (
        "feed_forward_residual_of_layer_input",
        "the residual of the feed-forward network is the layer's input; in the reference it is the attention's output",
        layer_input,
    )
    yield (
        "feed_forward_parallel",
        "the feed-forward network reads the layer's input; in the reference it reads the attention's output",
        beside,
    )

    def no_dense(model):
        for attention in attentions(model):
            replace(attention.dense, "forward", lambda _, x: x)
            drop(attention.dense, "weight", "bias")

    yield "dense_missing", "the merged heads pass no output layer; in the reference they do", no_dense


@fault("probabilities are not applied to the values: every query takes its own")
def attention_skipped(model):
    for attention in attentions(model):
        replace(attention, "attend", lambda original, *a: torch.eye(a[1].shape[-1], dtype=a[1].dtype).expand_as(original(*a)))


@faults(common=("first_layer_output", "layers_share_weights"))
def stack(c):
    if c["n_layers"] < 2:
        return

    def output(compute):
        return lambda model: replace(model.trm_encoder, "output", lambda original, states: compute(states))

    right = "the reference takes the last layer's output"
    yield "first_layer_output", f"the output is the first layer's; {right}", output(lambda states: states[1])
    yield "layers_averaged", f"the output is the mean of all layers'; {right}", output(lambda s: sum(s[1:]) / len(s[1:]))
    yield "layers_summed", f"the output is the sum of all layers'; {right}", output(lambda s: sum(s[1:]))
    yield "encoder_residual", f"the encoder's input is added to its output; {right}", output(lambda s: s[-1] + s[0])

    def shared(model):
        layers = model.trm_encoder.layer
        for layer in list(layers)[1:]:
            for half in ("multi_head_attention", "feed_forward"):
                for name, module in getattr(layers[0], half).named_children():
                    if any(True for _ in module.parameters()):
                        setattr(getattr(layer, half), name, module)

    def once_more(model):
        def forward(original, x, *rest):
            return model.trm_encoder.layer[-1](original(x, *rest), *rest)

        replace(model.trm_encoder, "forward", forward)

    def backwards(model):
        def forward(_, x, *rest):
            for layer in reversed(model.trm_encoder.layer):
                x = layer(x, *rest)
            return x

        replace(model.trm_encoder, "forward", forward)

    def first_layer_only(at):
        name = ("attribute_scores", "position_scores")[at]
        zero = lambda original, x: [torch.zeros_like(s) for s in original(x)] if at == 0 else torch.zeros_like(original(x))
        return everywhere(lambda model: attentions(model)[1:], name, zero)

    yield "last_layer_twice", "the last layer runs twice", once_more
    yield "layers_backwards", "layers run in reverse order", backwards
    yield (
        "attributes_in_first_layer_only",
        "attributes enter the first layer alone; in the reference every one",
        first_layer_only(0),
    )
    yield (
        "positions_in_first_layer_only",
        "positions enter the first layer alone; in the reference every one",
        first_layer_only(1),
    )
    yield "layers_share_weights", "all layers are one; in the reference each has weights of its own", shared
