"""Writes model cases of the baselines, in the form of the golden ones: what RecBole's own classes compute.

    python -m dif_sr_peer.baseline_cases fixtures/baselines

`python -m dif_sr_peer.goldens fixtures/baselines` recomputes them.
"""

import argparse
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from . import case, train
from .model import Attribute

# name, kind, tokens (padding included)
CATEGORIES, STYLES = ("categories", "token_seq", 7), ("styles", "token_seq", 4)
BRAND, TYPE = ("brand", "token", 5), ("type", "token", 3)
SIZES = {
    **{"n_items": 20, "MAX_ITEM_LIST_LENGTH": 5, "n_layers": 2, "n_heads": 2, "hidden_size": 8, "inner_size": 12},
    **{"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "layer_norm_eps": 1e-12, "initializer_range": 0.02},
    **{"learning_rate": 0.001, "train_steps": 5},
}
ROWS, WIDTH = 4, 3
CASES = {
    "sasrec": ("SASRec", [], {"hidden_act": "gelu", "loss_type": "CE"}),
    "sasrec_bpr": ("SASRec", [], {"hidden_act": "relu", "loss_type": "BPR"}),
    "sasrecf": ("SASRecF", [CATEGORIES], {"hidden_act": "gelu", "loss_type": "CE", "pooling_mode": "sum"}),
    "sasrecf_four_attributes": (
        "SASRecF",
        [CATEGORIES, BRAND, STYLES, TYPE],  # RecBole puts `token` attributes first
        {"hidden_act": "swish", "loss_type": "CE", "pooling_mode": "mean"},
    ),
    "sasrecf_max": ("SASRecF", [BRAND, CATEGORIES], {"hidden_act": "tanh", "loss_type": "BPR", "pooling_mode": "max"}),
}


def ids(kind, vocab, n_items, generator):
    """Attribute ids: the padding item has none, every other item at least one; tokens may repeat."""
    width = WIDTH if kind == "token_seq" else 1
    values = torch.randint(1, vocab, (n_items, width), generator=generator)
    counts = torch.randint(1, width + 1, (n_items,), generator=generator)
    counts[0] = 0
    values[torch.arange(width) >= counts.unsqueeze(1)] = 0
    return values if kind == "token_seq" else values.squeeze(1)


def batch(sizes, generator, rows=ROWS):
    """Right-padded sequences, the first of them full and the last of one item."""
    length, n_items = sizes["MAX_ITEM_LIST_LENGTH"], sizes["n_items"]
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    lengths[0], lengths[-1] = length, 1
    items = torch.randint(1, n_items, (rows, length), generator=generator)
    items[torch.arange(length) >= lengths.unsqueeze(1)] = 0
    positive = torch.randint(1, n_items, (rows,), generator=generator)
    negative = (positive + torch.randint(0, n_items - 2, (rows,), generator=generator)) % (n_items - 1) + 1
    return {"item_seq": items, "item_seq_len": lengths, "pos_items": positive, "neg_items": negative}


def value(name, parameter, generator):
    """Large weights and biases other than zero, so that every term shows."""
    mean, std = 0.0, 0.5
    if name.endswith("LayerNorm.weight"):
        mean, std = 1.0, 0.3
    elif name.endswith("bias"):
        std = 0.3
    elif "embed" in name:
        std = 1.0
    return mean + std * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)


def write(folder, seed, config, fields, rows=ROWS, value=value):
    """A case of this configuration and these attributes, its parameters drawn by `value(name, parameter, generator)`."""
    generator = torch.Generator().manual_seed(seed)
    config["attributes"] = [{"name": name, "type": kind, "vocab": vocab} for name, kind, vocab in fields]
    if fields:
        config["selected_features"] = [name for name, *_ in fields]
    attributes = [Attribute(*field, ids(*field[1:], config["n_items"], generator)) for field in fields]
    own = train.model_of(config, config["n_items"], attributes).double()
    with torch.no_grad():
        for name, parameter in train.parameters(own).items():
            parameter.copy_(value(name, parameter, generator))
    inputs = batch(config, generator, rows)
    tensors = case.compute(own.train(), inputs, config).tensors
    inputs |= {f"item_feat.{attribute.name}": attribute.ids for attribute in attributes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    save_file(tensors | {f"in.{name}": tensor for name, tensor in inputs.items()}, folder / "tensors.safetensors")


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.baseline_cases", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed, (name, (model, fields, keys)) in enumerate(CASES.items(), 212):
        write(arguments.folder / name, seed, {"model": model} | SIZES | keys, fields)
        print(arguments.folder / name)


if __name__ == "__main__":
    main()
