"""Which operation is the first to differ in bits between two sets of libtorch's kernels on one machine?

    python -m dif_sr_peer.first_difference --config FILE --data_path DIR ATEN_CPU_CAPABILITY=default [MKL_CBWR=COMPATIBLE]

Trains the first batches twice, in two processes, as the machine is and with the given environment, and compares what
every module gives, forwards, and every parameter's gradient, backwards, in the order of the computation.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys

import torch

from . import config as configuration
from . import data as pipeline
from .train import build


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def record(options, batches):
    """[(batch, what, digest)] in the order in which it was computed."""
    torch.set_num_threads(1)
    data = pipeline.load(options)
    model = build(options, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=options["learning_rate"], weight_decay=options["weight_decay"])
    seen, batch_number = [], 0

    def note(what, value):
        if isinstance(value, torch.Tensor):
            seen.append((batch_number, what, digest(value)))
        elif isinstance(value, (tuple, list)):
            for part in value:
                note(what, part)

    def watch(name, out):
        note(f"output of {name}", out)
        if isinstance(out, torch.Tensor) and out.requires_grad:
            out.register_hook(lambda grad: note(f"gradient of the output of {name}", grad))

    for name, module in model.named_modules():
        if name:
            label = f"{name} ({type(module).__name__})"
            module.register_forward_hook(lambda _module, _inputs, out, label=label: watch(label, out))
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, n=name: note(f"gradient of {n}", p.grad))
    data.train.shuffle_()
    for batch in data.train.batches(options["train_batch_size"]):
        batch_number += 1
        optimizer.zero_grad()
        losses = model.losses(model(batch["item_id_list"], batch["item_length"]), batch["item_id"])
        note("loss", losses["total"])
        losses["total"].backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            note(f"{name} after the optimizer's step", parameter)
        if batch_number == batches:
            return seen
    return seen


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.first_difference", description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", required=True)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("environment", nargs="*", metavar="NAME=VALUE")
    arguments, keys = parser.parse_known_args()
    if arguments.record:
        options = configuration.load(arguments.config, [key[2:] for key in keys])
        options["data_path"] = arguments.data_path
        json.dump(record(options, arguments.batches), sys.stdout)
        return 0
    command = [sys.executable, "-m", "dif_sr_peer.first_difference", *sys.argv[1:], "--record"]
    changed = dict(pair.split("=", 1) for pair in arguments.environment)
    runs = [
        json.loads(subprocess.run(command, env=os.environ | more, check=True, capture_output=True).stdout)
        for more in ({}, changed)
    ]
    different = [(a[0], a[1]) for a, b in zip(*runs) if a[2] != b[2]]
    print(f"{len(different)} of {len(runs[0])} tensors differ")
    for batch, what in different[:12]:
        print(f"batch {batch}: {what}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
