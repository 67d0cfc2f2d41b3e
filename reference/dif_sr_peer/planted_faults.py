"""Faults that re-implementations of DIF-SR really have, planted in the peer.

    python -m dif_sr_peer.planted_faults CASE_DIR FAULT OUT.safetensors   # the faulty peer's dump of a golden case
    python -m dif_sr_peer.planted_faults --table GOLDEN_DIR               # which key shows each fault first, per case

A fault that a case cannot show (a tanh-GELU where the activation is ReLU) leaves a dump within tolerance.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from . import case
from .goldens import FLOAT64, MAX_POOLING, null_gradient


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
        source = torch.arange(length) - (length - item_seq_len).unsqueeze(1)
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


def faulty_dump(case_dir, fault):
    model, inputs, config = case.build(case_dir)
    also_trained = FAULTS[fault](model) or ()
    for tensor in also_trained:
        tensor.requires_grad_()
    return case.compute(model, inputs, config, also_trained)


IN_LAYER = ("fused_scores", "attention_probs", "attention_output", "output")
AFTER_LAYERS = (
    *("out.seq_output", "out.scores", "out.loss.item", "out.loss.attribute", "out.loss.total"),
    *("grad", "train", "after5"),
)


def stage(key):
    """Sorts keys in the order of the computation."""
    parts = key.split(".")
    if parts[0] == "param":
        return (0, key)
    if parts[:2] == ["out", "layer"]:
        return (1, int(parts[2]), IN_LAYER.index(parts[3]))
    return (2, next(i for i, prefix in enumerate(AFTER_LAYERS) if key.startswith(prefix)), key)


def first_departure(ours, golden, fusion, name):
    """The first key outside the tolerance of the golden README, and its error relative to the tensor's largest value."""
    for key in sorted(ours.keys() & golden.keys(), key=stage):
        if null_gradient(key, fusion) and not key.startswith("param."):
            continue
        if name == "max_pooling" and key.startswith(MAX_POOLING):
            continue
        error, largest = (ours[key] - golden[key]).abs().max().item(), golden[key].abs().max().item()
        if not error <= FLOAT64[0] * largest + FLOAT64[1]:
            return key, error / largest if largest else error
    return None, 0.0


def compare(case_dir, dump):
    golden = load_file(case_dir / "tensors.safetensors")
    fusion = case.configuration(case_dir)["fusion_type"]
    return first_departure(dump.tensors, golden, fusion, case_dir.name)


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.planted_faults", epilog="faults: " + ", ".join(FAULTS))
    parser.add_argument("case_dir", nargs="?", type=Path)
    parser.add_argument("fault", nargs="?", choices=FAULTS, metavar="fault")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--table", type=Path, metavar="GOLDEN_DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        for fault in FAULTS:
            for folder in sorted(path.parent for path in arguments.table.glob("*/config.yaml")):
                key, error = compare(folder, faulty_dump(folder, fault))
                shown = f"{key:46} {error:.1e}" if key else "not visible"
                print(f"{fault:30} {folder.name:24} {shown}", flush=True)
        return
    if not arguments.out:
        parser.error("CASE_DIR FAULT OUT.safetensors, or --table GOLDEN_DIR")
    dump = faulty_dump(arguments.case_dir, arguments.fault)
    dump.save(arguments.out)
    key, error = compare(arguments.case_dir, dump)
    if key:
        print(f"{arguments.out}: {arguments.fault} shows first in {key} ({error:.1e})")
    else:
        print(f"{arguments.out}: {arguments.fault} is not visible in this case", file=sys.stderr)


if __name__ == "__main__":
    main()
