"""Masks, and the softmax over the keys."""

import torch

from .registry import attentions, everywhere, fault, faults, learned_fusion, replace


@faults(common=("mask_before_fusion", "mask_on_item_stream"))
def mask_of_streams(c):
    def masked(streams_of):
        """The mask on some streams; `fuse` sees none, so it is kept from `attend`."""

        def attend(original, attributes, item, position, mask):
            on_attributes, on_item, on_position = streams_of(attributes, item, position, mask)
            return original(on_attributes, on_item, on_position, torch.zeros_like(mask))

        return everywhere(attentions, "attend", attend)

    yield (
        "mask_before_fusion",
        "the mask is added to every stream before the fusion, not after it",
        masked(lambda attributes, item, position, m: ([scores + m for scores in attributes], item + m, position + m)),
    )
    if learned_fusion(c):
        yield (
            "mask_on_item_stream",
            "the mask is added to the item stream before the fusion, not to the fused scores after it",
            masked(lambda attributes, item, position, m: (attributes, item + m, position)),
        )


def seen_to_mask(seen):
    return (~seen).to(torch.float64) * -10000.0


@faults(common=("future_not_masked", "padding_not_masked", "mask_value_minus_inf", "self_masked"))
def mask(c):
    def masks(compute):
        """`compute(seen [B, 1, L, L], item_seq)`: the mask from which keys are seen."""

        def plant(model):
            def attention_mask(original, item_seq):
                found = compute(original(item_seq) == 0, item_seq)
                return (seen_to_mask(found) if found.dtype == torch.bool else found).to(model.item_embedding.weight.dtype)

            replace(model, "attention_mask", attention_mask)

        return plant

    items = lambda item_seq: (item_seq > 0).unsqueeze(1).unsqueeze(2)
    past = lambda seen: torch.ones_like(seen).tril()
    right = "the reference adds −10000 at padded and later keys, and 0 elsewhere"
    yield (
        "future_not_masked",
        "keys later than the query are not masked",
        masks(lambda seen, seq: items(seq).expand_as(seen)),
    )
    yield "padding_not_masked", "padded keys are not masked", masks(lambda seen, seq: past(seen))
    yield "nothing_masked", "neither padded nor later keys are masked", masks(lambda seen, seq: torch.ones_like(seen))
    yield (
        "mask_transposed",
        "keys earlier than the query are masked instead of later ones",
        masks(lambda seen, seq: past(seen).transpose(-1, -2) & items(seq)),
    )
    yield (
        "self_masked",
        "a query does not see its own position",
        masks(lambda seen, seq: seen & torch.ones_like(seen).tril(diagonal=-1)),
    )
    yield (
        "padded_queries_masked",
        "padding is masked for queries instead of for keys",
        masks(lambda seen, seq: past(seen) & items(seq).transpose(-1, -2)),
    )
    yield "mask_inverted", f"the mask is the wrong way round: {right}", masks(lambda seen, seq: ~seen)
    yield (
        "mask_of_ones",
        f"the mask itself, 1 for a key that is seen and 0 elsewhere, is added to the scores; {right}",
        masks(lambda seen, seq: seen.to(torch.float64)),
    )
    for name, value in {"minus_1e9": -1e9, "minus_inf": -torch.inf}.items():
        text = f"masked keys get {'−∞' if value == -torch.inf else f'{value:g}'.replace('-', '−')}; {right}"
        yield f"mask_value_{name}", text, masks(lambda seen, seq, v=value: torch.where(seen, 0.0, v).to(torch.float64))


@faults(common=("softmax_over_queries", "softmax_over_heads", "mask_after_softmax"))
def softmax(c):
    def by(compute):
        return everywhere(attentions, "softmax", lambda original, scores: compute(scores))

    def probabilities(compute):
        def plant(model):
            for attention in attentions(model):
                replace(attention, "probabilities", lambda _, fused, mask, a=attention: compute(a, fused / a.scale(), mask))

        return plant

    right = "the reference takes it over the keys"
    yield "softmax_over_queries", f"the softmax runs over the queries; {right}", by(lambda s: torch.softmax(s, dim=-2))
    yield "softmax_over_heads", f"the softmax runs over the heads; {right}", by(lambda s: torch.softmax(s, dim=1))
    yield "softmax_missing", "scores are not brought through a softmax", by(lambda s: s)
    yield "sigmoid_for_softmax", "a sigmoid stands in place of the softmax over the keys", by(torch.sigmoid)
    yield (
        "softmax_in_float32",
        "the softmax over the keys is computed in float32",
        by(lambda s: torch.softmax(s.float(), dim=-1).to(s.dtype)),
    )
    yield "softmax_twice", "the softmax over the keys is taken twice", by(lambda s: torch.softmax(torch.softmax(s, -1), -1))
    yield (
        "mask_after_softmax",
        "probabilities of masked keys are set to zero after the softmax, which they took part in",
        probabilities(lambda a, scores, mask: a.softmax(scores) * (mask == 0)),
    )
    yield (
        "mask_multiplied",
        "scores of masked keys are multiplied by 0; the reference adds −10000 to them",
        probabilities(lambda a, scores, mask: a.softmax(scores * (mask == 0))),
    )
    yield (
        "padded_queries_zeroed",
        "rows of padded queries are zero after the softmax; the reference leaves them",
        probabilities(lambda a, scores, mask: a.softmax(scores + mask) * (mask.diagonal(dim1=-2, dim2=-1) == 0).unsqueeze(-1)),
    )


def softmax_of_streams(model, last):
    for attention in attentions(model):

        def attend(_, attributes, item, position, mask, a=attention):
            soft = lambda scores: torch.softmax(scores / a.scale() + mask, dim=-1)
            return last(a, a.fuse([soft(scores) for scores in attributes], soft(item), soft(position)), mask)

        replace(attention, "attend", attend)


@fault("every stream has a softmax of its own before the fusion, and there is none after it", family="softmax", common=True)
def softmax_before_fusion(model):
    softmax_of_streams(model, lambda attention, fused, mask: fused)


@fault("every stream has a softmax of its own before the fusion, beside the one after it", family="softmax")
def softmax_before_and_after_fusion(model):
    softmax_of_streams(model, lambda attention, fused, mask: attention.softmax(fused + mask))
