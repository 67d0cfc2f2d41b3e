"""The item loss, and BPR."""

import math

import torch
from torch import nn

from .registry import bpr, cross_entropy, faults, remember, replace


def item(compute):
    """`compute(scores [B, V], targets [B])` in place of the cross-entropy."""

    def plant(model):
        def item_loss(_, seq_output, pos_items, neg_items):
            return compute(model.full_sort_scores(seq_output), pos_items)

        replace(model, "item_loss", item_loss)

    return plant


@faults(common=("item_loss_summed", "item_loss_without_padding", "item_loss_on_probabilities"))
def item_loss(c):
    if not cross_entropy(c):
        return
    ce = nn.functional.cross_entropy
    right = "the reference takes the cross-entropy over all items, averaged over the batch"
    yield "item_loss_summed", f"the item loss is summed over the batch; {right}", item(lambda s, t: ce(s, t, reduction="sum"))
    yield (
        "item_loss_without_padding",
        "the softmax of the item loss leaves item 0 out",
        item(lambda s, t: ce(s[:, 1:], t - 1)),
    )
    yield (
        "label_smoothing_0_1",
        f"labels of the item loss are smoothed by 0.1; {right}",
        item(lambda s, t: ce(s, t, label_smoothing=0.1)),
    )
    yield (
        "item_loss_on_probabilities",
        f"the cross-entropy is taken of probabilities, so that the softmax comes twice; {right}",
        item(lambda s, t: ce(torch.softmax(s, dim=-1), t)),
    )
    yield (
        "item_loss_without_log",
        f"the item loss is minus the target's probability, without the logarithm; {right}",
        item(lambda s, t: nn.functional.nll_loss(torch.softmax(s, dim=-1), t)),
    )
    one_hot = lambda s, t: nn.functional.one_hot(t, s.shape[-1]).to(s.dtype)
    binary = nn.functional.binary_cross_entropy_with_logits
    yield (
        "item_loss_binary",
        f"the item loss is a binary cross-entropy of every item; {right}",
        item(lambda s, t: binary(s, one_hot(s, t))),
    )
    yield "target_off_by_one", "the target of the item loss is item − 1", item(lambda s, t: ce(s, t - 1))
    for temperature in (0.07, 0.1):
        yield (
            f"temperature_{str(temperature).replace('.', '_')}",
            f"scores are divided by a temperature of {temperature:g} in the item loss; {right}",
            item(lambda s, t, temperature=temperature: ce(s / temperature, t)),
        )
    yield (
        "item_loss_in_bits",
        f"the item loss is taken with the logarithm of base 2; {right}",
        item(lambda s, t: ce(s, t) / math.log(2)),
    )
    yield (
        "item_loss_over_items",
        f"the item loss is averaged over batch and items; {right}",
        item(lambda s, t: ce(s, t) / s.shape[-1]),
    )
    yield (
        "item_loss_in_float32",
        "the item loss is computed in float32",
        item(lambda s, t: ce(s.float(), t).to(s.dtype)),
    )
    yield (
        "item_loss_of_batch",
        f"the softmax of the item loss runs over the targets of the batch alone; {right}",
        item(lambda s, t: ce(s[:, t], torch.arange(len(t)))),
    )

    def sampled(compute):
        def plant(model):
            def item_loss(_, seq_output, pos_items, neg_items):
                scores = model.full_sort_scores(seq_output)
                row = torch.arange(len(scores))
                return compute(scores[row, pos_items], scores[row, neg_items])

            replace(model, "item_loss", item_loss)

        return plant

    softplus = nn.functional.softplus
    yield (
        "item_loss_bpr",
        f"the item loss is BPR's, of one negative item; {right}",
        sampled(lambda positive, negative: -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()),
    )
    yield (
        "item_loss_one_negative",
        f"the item loss is SASRec's binary one, of one negative item; {right}",
        sampled(lambda positive, negative: (softplus(-positive) + softplus(negative)).mean()),
    )

    def at_every_position(model):
        """Every position but the last predicts the next item, the last one the target."""
        latest_batch = remember(model, "forward", lambda item_seq, item_seq_len: (item_seq, item_seq_len))
        latest_output = remember(model, "last_position", lambda output, item_seq_len: output)

        def item_loss(_, seq_output, pos_items, neg_items):
            item_seq, item_seq_len = latest_batch[0]
            targets = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], dim=1)
            targets[torch.arange(len(targets)), item_seq_len - 1] = pos_items
            return ce(model.full_sort_scores(latest_output[0]).flatten(0, 1), targets.flatten(), ignore_index=0)

        replace(model, "item_loss", item_loss)

    yield (
        "item_loss_at_every_position",
        "every position predicts its next item, as in SASRec; the reference predicts the target from the last position alone",
        at_every_position,
    )


@faults(common=("bpr_summed",))
def bpr_loss(c):
    if not bpr(c):
        return

    def by(compute):
        return lambda model: replace(model.loss_fct, "forward", lambda _, positive, negative: compute(positive - negative))

    right = "the reference takes −log(1e-10 + σ(positive − negative)), averaged over the batch"
    log_sigmoid = lambda margin: torch.log(1e-10 + torch.sigmoid(margin))
    yield "bpr_summed", f"the loss is summed over the batch; {right}", by(lambda margin: -log_sigmoid(margin).sum())
    yield "bpr_swapped", f"positive and negative items are swapped; {right}", by(lambda margin: -log_sigmoid(-margin).mean())
    yield "bpr_of_mean", f"margins are averaged before the logarithm; {right}", by(lambda margin: -log_sigmoid(margin.mean()))
    yield "hinge_loss", f"the loss is max(0, 1 − margin); {right}", by(lambda margin: torch.relu(1 - margin).mean())
    yield "bpr_without_log", f"the loss is 1 − σ(margin); {right}", by(lambda margin: (1 - torch.sigmoid(margin)).mean())
    softplus = nn.functional.softplus

    def pointwise(model):
        replace(model.loss_fct, "forward", lambda _, positive, negative: (softplus(-positive) + softplus(negative)).mean())

    def cross_entropy_loss(model):
        ce = nn.functional.cross_entropy
        replace(model, "item_loss", lambda _, seq_output, pos, neg: ce(model.full_sort_scores(seq_output), pos))

    yield "bpr_pointwise", f"positive and negative items have a binary loss each, as in SASRec; {right}", pointwise
    yield "bpr_cross_entropy", f"the loss is a cross-entropy over all items; {right}", cross_entropy_loss
