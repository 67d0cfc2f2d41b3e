"""The peer's side of `cargo bench --bench peer`: times one piece of work for every line of standard input.

    python -m dif_sr_peer.timing --config FILE --data_path DIR --threads N [--device cuda]

`load` reads, filters and splits; `train N` takes N training steps; `evaluate` ranks the validation rows; `memory` tells
the peak resident bytes. Each answer is one line: seconds (or bytes). Dropout is drawn as PyTorch draws it, which is
faster than the portable masks.
"""

import argparse
import resource
import sys
import time

import torch

from . import config as configuration
from . import data as pipeline
from .train import Evaluation, build


class Peer:
    def __init__(self, options, device):
        self.options = options
        self.device = torch.empty(0, device=device).device  # the context of a GPU is no part of reading
        self.data = self.model = None

    def load(self):
        self.data = pipeline.load(self.options)
        self.model = build(self.options, self.data, portable_dropout=False).to(self.device)
        rates = {"lr": self.options["learning_rate"], "weight_decay": self.options["weight_decay"]}
        self.optimizer = torch.optim.Adam(self.model.parameters(), **rates)
        self.evaluation = Evaluation(self.options, self.data)
        self.batches = iter(())

    def train(self, steps):
        self.model.train()
        for _ in range(steps):
            batch = next(self.batches, None)
            if batch is None:
                self.data.train.shuffle_()
                self.batches = iter(self.data.train.batches(self.options["train_batch_size"]))
                batch = next(self.batches)
            batch = {name: column.to(self.device) for name, column in batch.items()}
            self.optimizer.zero_grad()
            losses = self.model.losses(self.model(batch["item_id_list"], batch["item_length"]), batch["item_id"])
            losses["total"].item()
            losses["total"].backward()
            self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def evaluate(self):
        self.evaluation(self.model, self.data.valid, self.device)


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.timing", description=__doc__.splitlines()[0])
    parser.add_argument("--config", nargs="+", required=True)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    arguments, options = configuration.of_command(parser)
    torch.set_num_threads(arguments.threads)
    peer = Peer(options, arguments.device)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
            continue
        started = time.perf_counter()
        getattr(peer, command)(*map(int, numbers))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
