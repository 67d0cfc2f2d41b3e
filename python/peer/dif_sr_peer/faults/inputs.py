"""Embeddings, positions, the order of the sequence, the encoder's input."""

import math

import torch
from torch import nn

from .registry import drop, fault, faults, remember, replace


@fault(
    "row 0 of the item embedding, the padding item's, is zero; the reference draws it like all others",
    common=True,
)
def padding_row_zeroed(model):
    with torch.no_grad():
        model.item_embedding.weight[0] = 0


@fault("row 0 of the attribute tables, the padding token's, is zero; the reference draws it like all others", common=True)
def attribute_padding_row_zeroed(model):
    with torch.no_grad():
        for table in model.attribute_tables().values():
            table[0] = 0


def moved_right(item_seq, item_seq_len):
    length = item_seq.shape[1]
    source = torch.arange(length, device=item_seq.device) - (length - item_seq_len).unsqueeze(1)
    return torch.where(source >= 0, item_seq.gather(1, source.clamp(min=0)), 0), torch.full_like(item_seq_len, length)


@fault("sequences are padded on the left; the reference pads on the right", family="padding", common=True)
def left_padding(model):
    replace(model, "forward", lambda forward, *batch: forward(*moved_right(*batch)))


@fault(
    "sequences are padded on the left, with positions counted from the first item; the reference pads on the right",
    family="padding",
)
def left_padding_own_positions(model):
    left_padding(model)

    def position_ids(_, item_seq):
        return (torch.cumsum(item_seq > 0, dim=1) - 1).clamp(min=0)

    replace(model, "position_ids", position_ids)


@fault("the sequence runs from the newest item to the oldest; in the reference the newest comes last")
def sequence_reversed(model):
    def forward(original, item_seq, item_seq_len):
        source = item_seq_len.unsqueeze(1) - 1 - torch.arange(item_seq.shape[1], device=item_seq.device)
        return original(torch.where(source >= 0, item_seq.gather(1, source.clamp(min=0)), 0), item_seq_len)

    replace(model, "forward", forward)


@fault("the newest item of each sequence is cut off before the model sees it")
def newest_item_dropped(model):
    def forward(original, item_seq, item_seq_len):
        shorter = (item_seq_len - 1).clamp(min=1)
        kept = torch.arange(item_seq.shape[1], device=item_seq.device) < shorter.unsqueeze(1)
        return original(item_seq * kept, shorter)

    replace(model, "forward", forward)


def is_item(item_seq):
    """[B, L] -> [B, L, 1]"""
    return (item_seq > 0).unsqueeze(-1)


@faults(common=("position_reversed", "position_0_at_padding"))
def position_ids(c):
    def ids(compute):
        return lambda model: replace(model, "position_ids", lambda original, item_seq: compute(original(item_seq), item_seq))

    length = lambda item_seq: (item_seq > 0).sum(dim=1, keepdim=True)
    right = "the reference counts every position from 0 to L − 1"
    yield (
        "position_reversed",
        f"positions are counted from the end, L − 1 down to 0; {right}",
        ids(lambda at, seq: seq.shape[1] - 1 - at),
    )
    yield (
        "position_from_newest",
        f"positions are counted back from the newest item, len − 1 down to 0; {right}",
        ids(lambda at, seq: (length(seq) - 1 - at).clamp(min=0)),
    )
    yield "position_0_at_padding", f"padded positions take position vector 0; {right}", ids(lambda at, seq: at * (seq > 0))
    yield (
        "position_from_1",
        f"positions are counted from 1, with the last one clamped to L − 1; {right}",
        ids(lambda at, seq: (at + 1).clamp(max=seq.shape[1] - 1)),
    )
    yield "position_all_0", f"every position takes position vector 0; {right}", ids(lambda at, seq: at * 0)
    yield (
        "position_is_item",
        "position vectors are looked up by item id instead of by place in the sequence",
        ids(lambda at, seq: seq % seq.shape[1]),
    )


@faults(common=("position_zero_at_padding",))
def position_vectors(c):
    def vectors(compute):
        def plant(model):
            replace(model, "position_vectors", lambda original, item_seq: compute(model, original(item_seq), item_seq))

        return plant

    yield (
        "position_zero_at_padding",
        "position vectors of padded positions are zero; the reference takes them like all others",
        vectors(lambda model, positions, seq: positions * is_item(seq)),
    )
    yield (
        "position_scaled",
        "position vectors are multiplied by √{hidden}, the root of hidden_size; the reference takes them as they are",
        vectors(lambda model, positions, seq: positions * math.sqrt(positions.shape[-1])),
    )
    yield (
        "position_normed",
        "position vectors pass through the input LayerNorm; the reference takes them as they are",
        vectors(lambda model, positions, seq: model.LayerNorm(positions)),
    )
    yield (
        "item_added_to_position",
        "the position stream is fed with item + position; the reference feeds it with positions alone",
        vectors(lambda model, positions, seq: positions + model.item_vectors(seq)),
    )
    yield (
        "position_detached",
        "position vectors are detached, so that the position embedding is not trained",
        vectors(lambda model, positions, seq: positions.detach()),
    )


@fault("positions are fixed sines and cosines; the reference learns them")
def position_sinusoidal(model):
    length, size = model.position_embedding.weight.shape
    at = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    angle = at / 10000 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    waves = torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(-2)
    waves = waves.to(model.position_embedding.weight.dtype)
    replace(model, "position_vectors", lambda _, item_seq: waves.expand(len(item_seq), -1, -1))
    drop(model, "position_embedding")


def encoder_input(compute):
    def plant(model):
        replace(model, "encoder_input", lambda original, items, positions: compute(original(items, positions), positions))

    return plant


@faults(common=("position_added_to_input",))
def input_of_encoder(c):
    yield (
        "position_added_to_input",
        "position vectors are added to the items that enter the encoder; in DIF-SR they enter the attention scores alone",
        encoder_input(lambda x, positions: x + positions),
    )
    yield "position_as_input", "position vectors enter the encoder in place of the items", encoder_input(lambda x, p: p)
    yield (
        "item_detached_in_input",
        "item vectors are detached on their way into the encoder, so that look-ups do not train them",
        encoder_input(lambda x, positions: x.detach()),
    )


@fault(
    "attribute vectors are added to the items that enter the encoder; in DIF-SR they enter the attention scores alone",
    when=lambda c: c["hidden_size"] in c["attribute_hidden_size"],
    family="input_of_encoder",
    common=True,
)
def attribute_added_to_input(model):
    latest = []

    def attribute_vectors(original, item_seq):
        latest[:] = original(item_seq)
        return latest

    def input_norm(original, x):
        return original(x + sum(vectors for vectors in latest if vectors.shape == x.shape))

    replace(model, "attribute_vectors", attribute_vectors)
    replace(model, "input_norm", input_norm)


@fault("the encoder's input has no LayerNorm; in the reference it has one", family="input_norm", common=True)
def input_norm_missing(model):
    replace(model, "input_norm", lambda _, x: x)
    drop(model, "LayerNorm")


@fault("the input LayerNorm has no weight and no bias; in the reference it has both", family="input_norm")
def input_norm_without_affine(model):
    eps = model.LayerNorm.eps
    replace(model, "input_norm", lambda _, x: nn.functional.layer_norm(x, x.shape[-1:], eps=eps))
    drop(model, "LayerNorm")


@fault("the encoder's input passes its LayerNorm twice", family="input_norm")
def input_norm_twice(model):
    replace(model, "input_norm", lambda original, x: original(original(x)))


@fault("the encoder's input is zero at padded positions, as in SASRec; the reference leaves the padding item's vector there")
def input_masked(model):
    latest = remember(model, "item_vectors", lambda items: items)
    replace(model, "input_norm", lambda original, x: original(x) * is_item(latest[0]))


@fault("look-ups give the padding item's row a gradient: the embedding lacks padding_idx=0", common=True)
def padding_row_gradient(model):
    model.item_embedding.padding_idx = None


@fault("gradients of item look-ups are divided by how often the item occurs in the batch (scale_grad_by_freq)")
def gradient_by_frequency(model):
    model.item_embedding.scale_grad_by_freq = True
