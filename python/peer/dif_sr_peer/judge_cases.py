"""Writes the judge's own model cases, which the goldens lack, in their form and by their method.

    python -m dif_sr_peer.judge_cases judge/cases

`python -m dif_sr_peer.goldens judge/cases --only gate_token` recomputes them.
"""

import argparse
from pathlib import Path

import torch
import yaml

from . import baseline_cases

GATE = Path(__file__).parents[3] / "golden" / "gate" / "config.yaml"
# name -> attributes: name, kind, tokens (padding included)
CASES = {"gate_token": [("brand", "token", 9)]}


def value(name, parameter, generator):
    """As the goldens': large weights and biases other than zero, so that every term shows; tables from N(0, 1)."""
    mean, std = 0.0, 0.1
    if name.startswith("feature_embed_layer_list"):
        std = 1.0
    elif name.endswith("LayerNorm.weight"):
        mean = 1.0
    elif name.endswith("weight"):
        std = 0.8 / parameter.shape[-1] ** 0.5
    return mean + std * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.judge_cases", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed, (name, fields) in enumerate(CASES.items(), 212):
        baseline_cases.write(arguments.folder / name, seed, yaml.safe_load(GATE.read_text()), fields, rows=6, value=value)
        print(arguments.folder / name)


if __name__ == "__main__":
    main()
