"""The item loss, the attribute losses, and their sum."""

import math

import torch
from torch import nn

from .registry import bpr, cross_entropy, fault, faults, predictor, replace, two_attributes


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
        latest = {}

        def forward(original, item_seq, item_seq_len):
            latest["batch"] = item_seq, item_seq_len
            return original(item_seq, item_seq_len)

        def last_position(original, output, item_seq_len):
            latest["output"] = output
            return original(output, item_seq_len)

        def item_loss(_, seq_output, pos_items, neg_items):
            item_seq, item_seq_len = latest["batch"]
            targets = torch.cat([item_seq[:, 1:], torch.zeros_like(item_seq[:, :1])], dim=1)
            targets[torch.arange(len(targets)), item_seq_len - 1] = pos_items
            return ce(model.full_sort_scores(latest["output"]).flatten(0, 1), targets.flatten(), ignore_index=0)

        replace(model, "forward", forward)
        replace(model, "last_position", last_position)
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
        replace(
            model.loss_fct, "forward", lambda _, positive, negative: (softplus(-positive) + softplus(negative)).mean()
        )

    def cross_entropy_loss(model):
        ce = nn.functional.cross_entropy
        replace(model, "item_loss", lambda _, seq_output, pos, neg: ce(model.full_sort_scores(seq_output), pos))

    yield "bpr_pointwise", f"positive and negative items have a binary loss each, as in SASRec; {right}", pointwise
    yield "bpr_cross_entropy", f"the loss is a cross-entropy over all items; {right}", cross_entropy_loss


@faults(common=("label_clipped_to_1",))
def attribute_labels(c):
    if not predictor(c):
        return

    def labels(compute):
        """`compute(labels [B, vocab], attribute, items, original)`."""

        def plant(model):
            def attribute_labels(original, attribute, items):
                return compute(original(attribute, items), attribute, items, original)

            replace(model, "attribute_labels", attribute_labels)

        return plant

    def first_token(labels, attribute, items, _):
        ids = attribute.ids[items]
        return nn.functional.one_hot(ids if ids.dim() == 1 else ids[:, 0], attribute.vocab).to(labels.dtype)

    def of_newest_item(model):
        latest = []

        def forward(original, item_seq, item_seq_len):
            latest[:] = [item_seq[torch.arange(len(item_seq)), item_seq_len - 1]]
            return original(item_seq, item_seq_len)

        replace(model, "forward", forward)
        replace(model, "attribute_labels", lambda original, attribute, items: original(attribute, latest[0]))

    def of_negative_item(model):
        latest = []

        def losses(original, seq_output, pos_items, neg_items=None):
            latest[:] = [neg_items]
            return original(seq_output, pos_items, neg_items)

        replace(model, "losses", losses)
        replace(model, "attribute_labels", lambda original, attribute, items: original(attribute, latest[0]))

    yield (
        "label_clipped_to_1",
        "attribute labels are clipped to 1; the reference counts a token as often as the item has it",
        labels(lambda labels, *_: labels.clamp(max=1)),
    )
    yield (
        "labels_of_first_token",
        "attribute labels hold an item's first token alone; the reference counts all",
        labels(first_token),
    )
    yield (
        "labels_normalised",
        "attribute labels are divided by their number; the reference counts tokens",
        labels(lambda labels, *_: labels / labels.sum(dim=-1, keepdim=True)),
    )
    yield (
        "labels_smoothed",
        "attribute labels are smoothed by 0.1",
        labels(lambda labels, *_: labels * 0.9 + 0.05),
    )
    yield (
        "labels_of_newest_item",
        "attribute labels are those of the sequence's last item; the reference takes the target's",
        of_newest_item,
    )
    yield (
        "labels_of_negative_item",
        "attribute labels are those of the negative item; the reference takes the target's",
        of_negative_item,
    )
    yield (
        "labels_of_item_before",
        "attribute labels are read one row too early, at target − 1",
        labels(lambda labels, attribute, items, original: original(attribute, items - 1)),
    )


@faults(common=("index_0_in_attribute_loss", "attribute_loss_summed", "attribute_loss_summed_over_tokens"))
def attribute_mean(c):
    if not predictor(c):
        return

    def mean(compute):
        return lambda model: replace(model, "attribute_mean", lambda _, loss: compute(loss))

    right = "the reference averages over batch and tokens, index 0 left out"
    yield "index_0_in_attribute_loss", "the mean of the attribute loss takes in index 0, the padding token", mean(torch.mean)
    yield (
        "index_0_zeroed_in_attribute_loss",
        f"index 0 is zeroed in the attribute loss, but counted in its mean; {right}",
        mean(lambda loss: loss[:, 1:].sum() / loss.numel()),
    )
    yield "attribute_loss_summed", f"the attribute loss is summed over batch and tokens; {right}", mean(lambda l: l[:, 1:].sum())
    yield (
        "attribute_loss_summed_over_tokens",
        f"the attribute loss is summed over the tokens and averaged over the batch; {right}",
        mean(lambda loss: loss[:, 1:].sum(dim=1).mean()),
    )
    yield (
        "attribute_loss_summed_over_batch",
        f"the attribute loss is averaged over the tokens and summed over the batch; {right}",
        mean(lambda loss: loss[:, 1:].mean(dim=1).sum()),
    )


@faults(common=("attribute_loss_softmax",))
def attribute_loss(c):
    if not predictor(c):
        return

    def by(compute):
        """`compute(logits, labels)`, both without index 0."""

        def plant(model):
            def attribute_loss(_, i, seq_output, pos_items, exact=False):
                labels = model.attribute_labels(model.attributes[i], pos_items)
                labels = labels.to(seq_output.dtype)
                return compute(model.attribute_logits(i, seq_output)[:, 1:], labels[:, 1:])

            replace(model, "attribute_loss", attribute_loss)

        return plant

    binary = nn.functional.binary_cross_entropy_with_logits
    right = "the reference takes the binary cross-entropy of every token"
    log_softmax = nn.functional.log_softmax
    yield (
        "attribute_loss_softmax",
        f"the attribute loss is a cross-entropy over the tokens; {right}",
        by(lambda logits, labels: -(log_softmax(logits, dim=-1) * labels).sum(dim=-1).mean()),
    )
    yield (
        "attribute_loss_softmax_normalised",
        f"the attribute loss is a cross-entropy with the distribution of an item's tokens; {right}",
        by(lambda logits, labels: -(log_softmax(logits, dim=-1) * labels / labels.sum(-1, keepdim=True)).sum(-1).mean()),
    )
    yield (
        "attribute_loss_squared",
        f"the attribute loss is the squared error of the sigmoids; {right}",
        by(lambda logits, labels: (torch.sigmoid(logits) - labels).pow(2).mean()),
    )
    yield (
        "attribute_loss_of_logits",
        f"the sigmoid comes twice in the attribute loss; {right}",
        by(lambda logits, labels: binary(torch.sigmoid(logits), labels)),
    )
    yield (
        "attribute_loss_of_present_tokens",
        f"the attribute loss averages over an item's own tokens alone; {right}",
        by(lambda logits, labels: (binary(logits, labels, reduction="none") * (labels > 0)).sum() / (labels > 0).sum()),
    )
    yield (
        "attribute_loss_balanced",
        f"tokens of the item weigh as much as all others in the attribute loss (pos_weight); {right}",
        by(lambda logits, labels: binary(logits, labels, pos_weight=(labels == 0).sum() / (labels > 0).sum())),
    )


@faults(common=("predictor_input_detached",))
def attribute_logits(c):
    if not predictor(c):
        return

    def of(compute):
        def plant(model):
            replace(model, "attribute_logits", lambda original, i, seq_output: original(i, compute(seq_output)))

        return plant

    def without_bias(model):
        for layer in model.ap:
            layer.register_parameter("bias", None)

    def from_target(model):
        latest = []

        def losses(original, seq_output, pos_items, neg_items=None):
            latest[:] = [model.item_vectors(pos_items)]
            return original(seq_output, pos_items, neg_items)

        replace(model, "losses", losses)
        replace(model, "attribute_logits", lambda original, i, seq_output: original(i, latest[0]))

    yield (
        "predictor_input_detached",
        "attributes are predicted from a detached sequence output, so that their loss does not train the encoder",
        of(lambda x: x.detach()),
    )
    yield "predictor_input_activated", "the sequence output passes a GELU before attributes are predicted", of(
        nn.functional.gelu
    )
    yield "predictor_bias_missing", "the attribute predictor has no bias; in the reference it has one", without_bias
    yield "predictor_of_target", "attributes are predicted from the target's embedding, not from the sequence output", from_target


@faults(common=("attribute_loss_missing", "unweighted", "lamdas_swapped", "second_attribute_loss_missing"))
def total(c):
    if not predictor(c):
        return

    def by(compute):
        """`compute(item, attribute losses, lamdas)`."""
        return lambda model: replace(model, "total", lambda _, item, losses: compute(item, losses, model.lamdas))

    weighted = lambda losses, lamdas: sum(lamda * loss for lamda, loss in zip(lamdas, losses))
    right = "the reference adds lamdas ({lamdas}) times attribute losses to the item loss"
    yield (
        "attribute_loss_missing",
        f"the total loss is the item loss alone; {right}",
        by(lambda item, losses, lamdas: item),
    )
    yield "item_loss_missing", f"the total loss lacks the item loss; {right}", by(lambda i, losses, w: weighted(losses, w))
    yield "unweighted", "attribute losses are added without their weights, lamdas", by(lambda i, losses, w: i + sum(losses))
    yield (
        "losses_averaged",
        f"the total loss is divided by the number of losses; {right}",
        by(lambda item, losses, w: (item + weighted(losses, w)) / (1 + len(losses))),
    )
    yield (
        "lamdas_of_sum_1",
        f"losses are weighed by 1 and lamdas, brought to sum 1; {right}",
        by(lambda item, losses, w: (item + weighted(losses, w)) / (1 + sum(w))),
    )
    yield (
        "lamda_on_item_loss",
        f"lamda weighs the item loss instead of the attribute loss; {right}",
        by(lambda item, losses, w: w[0] * item + sum(losses)),
    )
    yield (
        "lamda_on_both",
        f"lamda weighs item and attribute loss alike; {right}",
        by(lambda item, losses, w: w[0] * item + weighted(losses, w)),
    )
    yield (
        "lamda_divides",
        f"attribute losses are divided by lamdas; {right}",
        by(lambda item, losses, w: item + sum(loss / lamda for loss, lamda in zip(losses, w))),
    )
    yield (
        "attribute_loss_subtracted",
        f"attribute losses are subtracted; {right}",
        by(lambda item, losses, w: item - weighted(losses, w)),
    )
    yield (
        "attribute_loss_detached",
        f"attribute losses are added detached, and train nothing; {right}",
        by(lambda item, losses, w: item + weighted([loss.detach() for loss in losses], w)),
    )
    if two_attributes(c):
        yield "lamdas_swapped", f"lamdas are applied in reverse order; {right}", by(lambda i, l, w: i + weighted(l, w[::-1]))
        yield "first_lamda_for_all", f"the first lamda weighs every attribute loss; {right}", by(
            lambda item, losses, w: item + w[0] * sum(losses)
        )
        yield "second_attribute_loss_missing", f"the first attribute's loss alone is added; {right}", by(
            lambda item, losses, w: item + w[0] * losses[0]
        )
        yield "first_attribute_loss_missing", f"the last attribute's loss alone is added; {right}", by(
            lambda item, losses, w: item + w[-1] * losses[-1]
        )
        yield "attribute_losses_averaged", f"attribute losses are averaged over the attributes; {right}", by(
            lambda item, losses, w: item + weighted(losses, w) / len(losses)
        )
