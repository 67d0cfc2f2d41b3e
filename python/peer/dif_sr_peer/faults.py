"""Faults that re-implementations of DIF-SR really have: each changes a peer, and names what else is then trained."""

import math

import torch
from torch import nn


def attentions(model):
    return [layer.multi_head_attention for layer in model.trm_encoder.layer]


def scale_by_attribute_head_size(model):
    """Scores divided by sqrt(head size of the last attribute), not by that of the items."""
    for attention in attentions(model):
        attention.scale = lambda size=attention.attribute_head_sizes[-1]: math.sqrt(size)


def mask_before_fusion(model):
    """-10000 added to every stream, which the gate or the linear layer then mixes."""
    for attention in attentions(model):

        def attend(attributes, item, position, mask, attention=attention):
            fused = attention.fuse([scores + mask for scores in attributes], item + mask, position + mask)
            return torch.softmax(fused / attention.scale(), dim=-1)

        attention.attend = attend


def attribute_table_trained(model):
    """The attribute embeddings given to the optimizer."""
    return list(model.attribute_tables().values())


def padding_row_zeroed(model):
    """Row 0 of the item embedding set to zero after initialisation."""
    with torch.no_grad():
        model.item_embedding.weight[0] = 0


def position_added_to_input(model):
    """Item plus position enters the encoder, as in SASRec."""
    model.encoder_input = lambda items, positions: items + positions


def off_by_one_gather(model):
    """The output is taken at position `len` (the last one at most), not at `len - 1`."""

    def last_position(output, item_seq_len):
        index = item_seq_len.clamp(max=output.shape[1] - 1)
        return output[torch.arange(len(output)), index]

    model.last_position = last_position


def left_padding(model):
    """Sequences moved to the right end, the output taken at the last position."""
    forward = model.forward

    def left_padded(item_seq, item_seq_len):
        length = item_seq.shape[1]
        source = torch.arange(length, device=item_seq.device) - (length - item_seq_len).unsqueeze(1)
        moved = torch.where(source >= 0, item_seq.gather(1, source.clamp(min=0)), 0)
        return forward(moved, torch.full_like(item_seq_len, length))

    model.forward = left_padded


def label_clipped_to_1(model):
    """A token that an item repeats counts once."""
    labels = model.attribute_labels
    model.attribute_labels = lambda attribute, items: labels(attribute, items).clamp(max=1)


def index_0_in_attribute_loss(model):
    """The padding token takes part in the mean of the attribute loss."""
    model.attribute_mean = torch.mean


def tanh_gelu(model):
    """GELU by its tanh approximation."""
    for layer in model.trm_encoder.layer:
        if layer.feed_forward.activation.__name__ == "gelu":
            layer.feed_forward.activation = lambda x: nn.functional.gelu(x, approximate="tanh")


def layer_norm_eps_1e_5(model):
    """PyTorch's default epsilon in every LayerNorm."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


FAULTS = {
    plant.__name__: plant
    for plant in (
        scale_by_attribute_head_size,
        mask_before_fusion,
        attribute_table_trained,
        padding_row_zeroed,
        position_added_to_input,
        off_by_one_gather,
        left_padding,
        label_clipped_to_1,
        index_0_in_attribute_loss,
        tanh_gelu,
        layer_norm_eps_1e_5,
    )
}
