"""Labels, predictions and losses of the attributes, and the total loss."""

import torch
from torch import nn

from .registry import faults, predictor, remember, replace, two_attributes


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
        latest = remember(model, "forward", lambda item_seq, length: item_seq[torch.arange(len(item_seq)), length - 1])
        replace(model, "attribute_labels", lambda original, attribute, items: original(attribute, latest[0]))

    def of_negative_item(model):
        latest = remember(model, "losses", lambda seq_output, pos_items, neg_items=None: neg_items)
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
    yield (
        "attribute_loss_summed",
        f"the attribute loss is summed over batch and tokens; {right}",
        mean(lambda l: l[:, 1:].sum()),
    )
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
        latest = remember(model, "losses", lambda seq_output, pos_items, *_: model.item_vectors(pos_items))
        replace(model, "attribute_logits", lambda original, i, seq_output: original(i, latest[0]))

    yield (
        "predictor_input_detached",
        "attributes are predicted from a detached sequence output, so that their loss does not train the encoder",
        of(lambda x: x.detach()),
    )
    yield (
        "predictor_input_activated",
        "the sequence output passes a GELU before attributes are predicted",
        of(nn.functional.gelu),
    )
    yield "predictor_bias_missing", "the attribute predictor has no bias; in the reference it has one", without_bias
    yield (
        "predictor_of_target",
        "attributes are predicted from the target's embedding, not from the sequence output",
        from_target,
    )


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
        yield (
            "first_lamda_for_all",
            f"the first lamda weighs every attribute loss; {right}",
            by(lambda item, losses, w: item + w[0] * sum(losses)),
        )
        yield (
            "second_attribute_loss_missing",
            f"the first attribute's loss alone is added; {right}",
            by(lambda item, losses, w: item + w[0] * losses[0]),
        )
        yield (
            "first_attribute_loss_missing",
            f"the last attribute's loss alone is added; {right}",
            by(lambda item, losses, w: item + w[-1] * losses[-1]),
        )
        yield (
            "attribute_losses_averaged",
            f"attribute losses are averaged over the attributes; {right}",
            by(lambda item, losses, w: item + weighted(losses, w) / len(losses)),
        )
