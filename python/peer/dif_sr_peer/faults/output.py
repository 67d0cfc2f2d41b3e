"""The vector of the sequence, and the scores of the items."""

import torch
from torch import nn

from .registry import faults, replace


@faults(common=("off_by_one_gather", "output_at_end", "mean_of_sequence"))
def last_position(c):
    def by(compute):
        return lambda model: replace(model, "last_position", lambda _, output, length: compute(output, length))

    def at(place):
        def taken(output, length):
            index = place(length, output.shape[1]).clamp(0, output.shape[1] - 1)
            return output[torch.arange(len(output), device=output.device), index]

        return by(taken)

    def items(output, length):
        return (torch.arange(output.shape[1], device=output.device) < length.unsqueeze(1)).unsqueeze(-1)

    right = "the reference takes it at len − 1"
    yield (
        "off_by_one_gather",
        "the sequence output is taken at position len, one too far: positions count from 0, the last item is at len − 1",
        at(lambda length, width: length),
    )
    yield (
        "output_at_end",
        "the sequence output is taken at position L − 1, padding or not, instead of len − 1",
        at(lambda length, width: torch.full_like(length, width - 1)),
    )
    yield "output_one_early", f"the sequence output is taken at len − 2; {right}", at(lambda length, width: length - 2)
    yield "output_at_start", f"the sequence output is taken at position 0; {right}", at(lambda length, width: length * 0)
    yield (
        "mean_of_sequence",
        f"the sequence output is the mean over the items of the sequence; {right}",
        by(lambda output, length: (output * items(output, length)).sum(dim=1) / length.unsqueeze(1)),
    )
    yield (
        "output_mean_over_width",
        f"the sequence output is the mean over all L positions, padding counted; {right}",
        by(lambda output, length: output.mean(dim=1)),
    )
    yield (
        "sum_of_sequence",
        f"the sequence output is the sum over the items of the sequence; {right}",
        by(lambda output, length: (output * items(output, length)).sum(dim=1)),
    )
    yield (
        "max_of_sequence",
        f"the sequence output is the largest value of each column over the items of the sequence; {right}",
        by(lambda output, length: output.masked_fill(~items(output, length), -torch.inf).amax(dim=1)),
    )


@faults(common=("output_normalised",))
def sequence_output(c):
    def then(compute):
        return lambda model: replace(model, "last_position", lambda original, *a: compute(original(*a)))

    right = "in the reference nothing follows the last position's vector"
    yield (
        "output_normalised",
        f"the sequence output is brought to length 1; {right}",
        then(lambda x: nn.functional.normalize(x, dim=-1)),
    )
    yield "output_tanh", f"the sequence output passes a tanh; {right}", then(torch.tanh)
    yield "output_relu", f"the sequence output passes a ReLU; {right}", then(torch.relu)


@faults(common=("scores_cosine", "scores_mask_padding"))
def scores(c):
    def by(compute):
        def plant(model):
            def full_sort_scores(_, seq_output):
                return compute(seq_output, model.item_embedding.weight)

            replace(model, "full_sort_scores", full_sort_scores)

        return plant

    def then(compute):
        return lambda model: replace(model, "full_sort_scores", lambda original, x: compute(original(x), x))

    normal = lambda x: nn.functional.normalize(x, dim=-1)
    right = "the reference takes the products of sequence output and item embedding"
    yield "scores_cosine", f"item scores are cosines; {right}", by(lambda x, items: normal(x) @ normal(items).T)
    yield "scores_of_normalised_items", f"item vectors have length 1 in the scores; {right}", by(lambda x, i: x @ normal(i).T)
    yield (
        "scores_scaled",
        f"item scores are divided by √{{hidden}}; {right}",
        then(lambda scores, x: scores / x.shape[-1] ** 0.5),
    )
    yield (
        "scores_normed_items",
        f"item vectors pass the input LayerNorm before the scores; {right}",
        lambda model: by(lambda x, items: x @ model.LayerNorm(items).T)(model),
    )
    yield "scores_softmax", f"item scores are brought through a softmax; {right}", then(lambda s, x: torch.softmax(s, dim=-1))
    yield "scores_sigmoid", f"item scores are brought through a sigmoid; {right}", then(lambda s, x: torch.sigmoid(s))
    yield (
        "scores_mask_padding",
        "the score of item 0 is −∞ already in training; the reference hides it in evaluation alone",
        then(lambda s, x: torch.cat([torch.full_like(s[:, :1], -torch.inf), s[:, 1:]], dim=1)),
    )
    yield (
        "scores_padding_zero",
        "the score of item 0 is 0; the reference computes it as all others",
        then(lambda s, x: torch.cat([torch.zeros_like(s[:, :1]), s[:, 1:]], dim=1)),
    )
    yield (
        "items_detached_in_scores",
        "the item embedding is detached in the scores, so that the item loss trains look-ups alone",
        by(lambda x, items: x @ items.detach().T),
    )
    yield (
        "output_detached_in_scores",
        "the sequence output is detached in the scores, so that the item loss does not train the encoder",
        by(lambda x, items: x.detach() @ items.T),
    )
