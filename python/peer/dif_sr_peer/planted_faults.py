"""Dumps of golden cases by the peer with a fault planted in it.

    python -m dif_sr_peer.planted_faults CASE_DIR FAULT OUT.safetensors   # the faulty peer's dump of a golden case
    python -m dif_sr_peer.planted_faults --table GOLDEN_DIR               # which key shows each fault first, per case

A fault that a case cannot show (a tanh-GELU where the activation is ReLU) leaves a dump within tolerance.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from . import case
from .faults import FAULTS
from .goldens import FLOAT64, MAX_POOLING, null_gradient


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
