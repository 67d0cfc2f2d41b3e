"""How streams of scores become one: sum, concat, gate."""

import torch
from torch import nn

from .registry import attentions, drop, everywhere, fault, faults, gates, learned_fusion, remember, replace, two_attributes
from .scores import before_fusion, stream


def gate(c):
    return c["fusion_type"] == "gate"


def concat(c):
    return c["fusion_type"] == "concat"


def fused(compute, without_layer=False):
    """`compute(attributes, item, position)` in place of the fusion."""

    def plant(model):
        for attention in attentions(model):
            replace(attention, "fuse", lambda _, attributes, item, position: compute(attributes, item, position))
            if without_layer:
                drop(attention, "fusion_layer")

    return plant


@faults(common=("fusion_sum", "fusion_mean"))
def fusion(c):
    learned, kind = learned_fusion(c), c["fusion_type"]
    if learned:
        text = f"streams are added up; the reference fuses them by {kind}, with a layer of its own"
        yield "fusion_sum", text, fused(lambda attributes, item, position: sum(attributes) + item + position, True)
    mean = lambda attributes, item, position: (sum(attributes) + item + position) / (len(attributes) + 2)
    yield "fusion_mean", f"streams are averaged; the reference fuses them by {kind}", fused(mean, learned)
    product = lambda attributes, item, position: torch.stack(attributes).prod(dim=0) * item * position
    yield "fusion_product", f"streams are multiplied; the reference fuses them by {kind}", fused(product, learned)
    largest = lambda attributes, item, position: torch.stack([*attributes, item, position]).amax(dim=0)
    yield "fusion_max", f"the largest stream is taken; the reference fuses them by {kind}", fused(largest, learned)


@faults(common=("item_stream_missing", "position_stream_missing", "attribute_stream_missing"))
def streams(c):
    for name in ("item", "position", "attribute"):
        yield (
            f"{name}_scores_zero",
            f"scores of the {name} stream are zero, or never added",
            stream([name], torch.zeros_like),
        )
        yield f"{name}_scores_doubled", f"scores of the {name} stream count twice", stream([name], lambda s: 2 * s)
    if two_attributes(c):
        for k, attribute in enumerate(c["attributes"]):
            missing = before_fusion(lambda a, i, scores, k=k: scores * (i != k))
            yield (
                f"{attribute['name']}_missing_in_fusion",
                f"attribute `{attribute['name']}` does not enter the fusion",
                missing,
            )
        mean = lambda attributes, item, position: sum(attributes) / len(attributes) + item + position
        if not learned_fusion(c):
            yield "attributes_averaged", "attribute scores are averaged before they are added; they are summed", fused(mean)
    if not gate(c):
        return

    def without(keep):
        return everywhere(gates, "forward", lambda original, streams: original(streams[..., keep, :]))

    n = len(c["attributes"])
    right = "the reference weighs attributes, item and position"
    yield "gate_without_attributes", f"attributes are left out of the gate; {right}", without(slice(n, None))
    yield "gate_without_position", f"positions are left out of the gate; {right}", without(slice(0, n + 1))
    yield "gate_without_item", f"items are left out of the gate; {right}", without([*range(n), n + 1])


@faults(common=("concat_item_attribute_position", "concat_interleaved", "concat_item_position_attribute"))
def concat_order(c):
    if not concat(c):
        return

    def order(compute):
        def concatenate(_, attributes, item, position):
            return torch.cat(compute(list(attributes.unbind(dim=-2)), item, position), dim=-1)

        return everywhere(attentions, "concatenate", concatenate)

    right = "the reference concatenates attributes, item, position"
    orders = {
        "item_attribute_position": lambda attributes, item, position: [item, *attributes, position],
        "item_position_attribute": lambda attributes, item, position: [item, position, *attributes],
        "attribute_position_item": lambda attributes, item, position: [*attributes, position, item],
        "position_item_attribute": lambda attributes, item, position: [position, item, *attributes],
        "position_attribute_item": lambda attributes, item, position: [position, *attributes, item],
    }
    for name, compute in orders.items():
        yield f"concat_{name}", f"streams are concatenated as {', '.join(name.split('_'))}; {right}", order(compute)
    if two_attributes(c):
        backwards = lambda attributes, item, position: [*attributes[::-1], item, position]
        yield "concat_attributes_reversed", f"attributes are concatenated in reverse order; {right}", order(backwards)
    interleaved = lambda attributes, item, position: [torch.stack([*attributes, item, position], dim=-1).flatten(-2)]
    yield "concat_interleaved", f"streams are interleaved key by key; {right}, each as a whole row", order(interleaved)


@faults()
def concat_layer(c):
    if not concat(c):
        return

    def without_bias(model):
        for layer in gates(model):
            drop(layer, "bias")

    yield "fusion_bias_missing", "the fusion layer has no bias; in the reference it has one", without_bias
    after = lambda function: everywhere(gates, "forward", lambda original, x: function(original(x)))
    yield "concat_relu", "a ReLU follows the fusion layer; in the reference nothing does", after(torch.relu)
    yield "concat_tanh", "a tanh follows the fusion layer; in the reference nothing does", after(torch.tanh)

    def transposed(original, x):
        columns = torch.cat([part.transpose(-1, -2) for part in x.split(x.shape[-2], dim=-1)], dim=-1)
        return original(columns).transpose(-1, -2)

    yield (
        "fusion_over_queries",
        "the fusion layer mixes columns of scores, over the queries; the reference mixes rows, over the keys",
        everywhere(gates, "forward", transposed),
    )


@faults(common=("gate_sigmoid", "gate_softmax_over_heads", "gate_without_softmax"))
def gate_weights(c):
    if not gate(c):
        return

    def by(compute):
        """`compute(original, energies)`."""
        return everywhere(gates, "weights", compute)

    right = "the reference takes a softmax over the streams"
    yield "gate_sigmoid", f"gate weights are sigmoids of their energies; {right}", by(lambda _, e: torch.sigmoid(e))
    yield "gate_tanh", f"gate weights are the tanh of their energies; {right}", by(lambda _, e: torch.tanh(e))
    yield "gate_without_softmax", f"gate weights are the energies themselves; {right}", by(lambda _, e: e)
    yield "gate_softmax_over_heads", f"the gate's softmax runs over the heads; {right}", by(lambda _, e: torch.softmax(e, 1))
    yield (
        "gate_softmax_over_queries",
        f"the gate's softmax runs over the queries; {right}",
        by(lambda _, e: torch.softmax(e, dim=2)),
    )
    yield (
        "gate_hard",
        f"the stream of the largest energy is taken alone; {right}",
        by(lambda _, e: nn.functional.one_hot(e.argmax(dim=-1), e.shape[-1]).to(e.dtype)),
    )
    yield (
        "gate_scaled",
        f"gate energies are divided by √L before their softmax; {right} of the energies as they are",
        by(lambda original, e: original(e / e.shape[2] ** 0.5)),
    )
    yield "gate_uniform", f"every stream has the same weight; {right}", by(lambda _, e: torch.full_like(e, 1 / e.shape[-1]))
    yield (
        "gate_per_sequence",
        "gate energies are averaged over heads and queries: one weight a stream; the reference has one a row of scores",
        by(lambda original, e: original(e.mean(dim=(1, 2), keepdim=True).expand_as(e))),
    )
    yield (
        "gate_per_query",
        "gate energies are averaged over the heads; the reference has weights for each head",
        by(lambda original, e: original(e.mean(dim=1, keepdim=True).expand_as(e))),
    )
    yield (
        "gate_times_streams",
        f"gate weights are multiplied by the number of streams; {right}",
        by(lambda original, e: original(e) * e.shape[-1]),
    )
    yield (
        "gate_detached",
        "gate weights are detached, so that the gate is not trained",
        by(lambda original, e: original(e).detach()),
    )


@faults(common=("gate_activation_tanh", "gate_on_masked_scores"))
def gate_energies(c):
    if not gate(c):
        return

    def activation(function):
        def plant(model):
            for layer in gates(model):
                first, _, last = layer.projection
                energies = lambda _, streams, first=first, last=last: last(function(first(streams))).squeeze(-1)
                replace(layer, "energies", energies)

        return plant

    functions = {"tanh": torch.tanh, "gelu": nn.functional.gelu, "sigmoid": torch.sigmoid, "none": lambda x: x}
    functions |= {"leaky_relu": nn.functional.leaky_relu, "swish": nn.functional.silu}
    for name, function in functions.items():
        yield f"gate_activation_{name}", f"the gate's activation is {name}, not ReLU", activation(function)

    def energies(compute):
        return everywhere(gates, "energies", lambda original, streams: original(compute(streams)))

    def energies_of_masked(model):
        for attention in attentions(model):
            latest = remember(attention, "attend", lambda attributes, item, position, mask: mask)
            energies = lambda original, streams, latest=latest: original(streams + latest[0].unsqueeze(-2))
            replace(attention.fusion_layer, "energies", energies)

    yield (
        "gate_on_masked_scores",
        "the gate weighs streams by masked scores; the reference masks after the fusion",
        energies_of_masked,
    )
    yield (
        "gate_on_probabilities",
        "the gate weighs streams by the softmax of their scores; the reference by the scores themselves",
        energies(lambda streams: torch.softmax(streams, dim=-1)),
    )
    yield (
        "gate_on_columns",
        "the gate weighs a column of scores, over the queries; the reference weighs a row, over the keys",
        energies(lambda streams: streams.transpose(2, 4)),
    )

    def biases(*names):
        def plant(model):
            for layer in gates(model):
                for name in names:
                    drop(layer.projection[name], "bias")

        return plant

    yield "gate_first_bias_missing", "the gate's first layer has no bias; in the reference it has one", biases(0)
    yield "gate_second_bias_missing", "the gate's second layer has no bias; in the reference it has one", biases(2)
    yield "gate_biases_missing", "the gate's layers have no biases; in the reference they have", biases(0, 2)

    def one_layer(model):
        for layer in gates(model):
            last = layer.projection[2]
            replace(layer, "energies", lambda _, streams, last=last: last(streams).squeeze(-1))
            drop(layer.projection, "0")

    yield "gate_of_one_layer", "the gate has one linear layer; in the reference two, with a ReLU between them", one_layer


@fault("fused scores have the item scores added to them again, as a residual")
def fusion_residual(model):
    for attention in attentions(model):
        replace(attention, "fuse", lambda original, attributes, item, position: original(attributes, item, position) + item)
