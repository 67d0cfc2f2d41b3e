"""Attribute look-ups and the pooling of an item's tokens."""

import math

import torch
from torch import nn

from .registry import everywhere, fault, faults, replace, token_seq, two_attributes


def pooled(compute):
    """`compute(tokens [B, L, S], embedding [B, L, S, d], mask [B, L, S, 1])` in place of the pooling."""

    def pool(_, tokens, embedding):
        return compute(tokens, embedding, (tokens != 0).unsqueeze(-1).to(embedding.dtype))

    return everywhere(lambda model: model.feature_embed_layer_list, "pool", pool)


def mode(name):
    def plant(model):
        for layer in model.feature_embed_layer_list:
            layer.pooling_mode = name

    return plant


def first_of_each(tokens, embedding, mask):
    """Tokens that an item repeats are zeroed but for the first."""
    repeats = (tokens.unsqueeze(-1) == tokens.unsqueeze(-2)).tril(diagonal=-1).any(dim=-1)
    return mask * (~repeats).unsqueeze(-1)


def reduced(c, embedding, mask):
    """The case's own pooling with another mask, for sum and mean."""
    summed = (embedding * mask).sum(dim=-2)
    return summed if c["pooling_mode"] == "sum" else summed / mask.sum(dim=-2).clamp(min=1)


@faults(common=("pooling_sum", "pooling_mean", "pooling_max", "padding_tokens_pooled", "mean_over_width"))
def pooling(c):
    if not token_seq(c):
        return
    own = c["pooling_mode"]
    for name in ("sum", "mean", "max"):
        if name != own:
            yield f"pooling_{name}", f"attribute tokens are pooled by {name}, not by {{pooling}}", mode(name)
    right = "the reference pools by {pooling}, padding left out"
    yield (
        "mean_over_width",
        f"the sum of an item's tokens is divided by the table's width S, padding counted; {right}",
        pooled(lambda tokens, e, mask: (e * mask).mean(dim=-2)),
    )
    plain = {"sum": lambda e: e.sum(dim=-2), "mean": lambda e: e.mean(dim=-2), "max": lambda e: e.amax(dim=-2)}[own]
    yield (
        "padding_tokens_pooled",
        f"padding tokens are pooled with the item's own; {right}",
        pooled(lambda tokens, e, mask: plain(e)),
    )
    yield "first_token_only", f"an item's first token stands for all; {right}", pooled(lambda tokens, e, mask: e[..., 0, :])
    yield (
        "pooling_sqrt",
        f"the sum of an item's tokens is divided by the root of their number; {right}",
        pooled(lambda tokens, e, mask: (e * mask).sum(dim=-2) / mask.sum(dim=-2).clamp(min=1).sqrt()),
    )
    if own != "max":
        yield (
            "repeated_token_pooled_once",
            "a token that an item repeats is pooled once; the reference pools it as often as the item has it",
            pooled(lambda tokens, e, mask: reduced(c, e, first_of_each(tokens, e, mask))),
        )
    if own == "max":
        yield (
            "max_of_zeroed_padding",
            "padding tokens take part in the maximum as zeros; the reference puts them at −1e9",
            pooled(lambda tokens, e, mask: (e * mask).amax(dim=-2)),
        )
        yield (
            "max_padding_item_zero",
            "items without tokens are pooled to zero; in the reference they come out near −1e9",
            pooled(lambda tokens, e, mask: torch.where(mask.any(dim=-2), (e - (1 - mask) * 1e9).amax(dim=-2), 0)),
        )


def tokens(shift):
    """Attributes of item + shift."""

    def plant(model):
        for layer in model.feature_embed_layer_list:

            def of_other(original, item_seq, last=len(layer.ids) - 1):
                return original((item_seq + shift).clamp(0, last))

            replace(layer, "tokens", of_other)

    return plant


@faults(common=("attribute_of_item_before",))
def attribute_of_item(c):
    right = "row i of the attributes belongs to item i, row 0 to the padding item"
    yield (
        "attribute_of_item_before",
        f"attributes are read one row too early, at item − 1: {right}",
        tokens(-1),
    )
    yield (
        "attribute_of_item_after",
        f"attributes are read one row too late, at item + 1: {right}",
        tokens(1),
    )


@faults()
def attribute_vectors(c):
    def vectors(compute):
        def plant(model):
            def attribute_vectors(original, item_seq):
                return [compute(vector, item_seq) for vector in original(item_seq)]

            replace(model, "attribute_vectors", attribute_vectors)

        return plant

    yield (
        "attribute_zero_at_padding",
        "attribute vectors of padded positions are zero; the reference takes the padding item's",
        vectors(lambda vector, item_seq: vector * (item_seq > 0).unsqueeze(-1)),
    )
    yield (
        "attribute_scaled",
        "attribute vectors are multiplied by the root of their size; the reference takes them as they are",
        vectors(lambda vector, _: vector * math.sqrt(vector.shape[-1])),
    )
    yield (
        "attribute_normed",
        "attribute vectors are layer-normed; the reference takes them as they are",
        vectors(lambda vector, _: nn.functional.layer_norm(vector, vector.shape[-1:], eps=1e-12)),
    )
    yield (
        "attribute_normalised",
        "attribute vectors are brought to length 1; the reference takes them as they are",
        vectors(lambda vector, _: nn.functional.normalize(vector, dim=-1)),
    )
    yield (
        "attribute_missing_for_newest",
        "attribute vectors are shifted by one position against the items",
        vectors(lambda vector, _: torch.roll(vector, 1, dims=1)),
    )


@fault(
    "the attribute tables are trained; the reference keeps them from the optimizer",
    common=True,
)
def attribute_table_trained(model):
    for layer in model.feature_embed_layer_list:
        layer.register_parameter(f"{layer.type}_embedding", layer.table.weight)


@fault(
    "the attribute tables change places, the first attribute's vectors going to the second's layers",
    when=lambda c: two_attributes(c) and len(set(c["attribute_hidden_size"])) == 1,
)
def attributes_swapped(model):
    replace(model, "attribute_vectors", lambda original, item_seq: original(item_seq)[::-1])
