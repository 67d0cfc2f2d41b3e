"""RecBole's own training of a baseline, from its files to its test, as a record.

    python -m dif_sr_peer.recbole_training --config FILE... --record OUT [--data_path DIR] [--threads 1] [--key=value]

Everything is RecBole 1.2.1's: data set, loaders, model, trainer, early stopping, metrics. Only the ranks of the test
targets are counted here, for RecBole keeps none.
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

from . import baselines
from . import config as configuration
from . import data as pipeline
from . import record
from .train import environment


def run(options):
    """The training, with the keys that `record.write` asks for."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    recbole_class = baselines.class_of(options["model"])
    config = pipeline.recbole_config(options, recbole_class)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = recbole_class(config, train.dataset)

    class Trainer(get_trainer(config["MODEL_TYPE"], config["model"])):
        """RecBole's, which keeps what a record says of every epoch."""

        def _train_epoch(self, *args, **kwargs):
            started = time.perf_counter()
            loss = super()._train_epoch(*args, **kwargs)
            kept["epoch_losses"].append(loss)
            kept["epoch_seconds"].append(round(time.perf_counter() - started, 3))
            return loss

        def _valid_epoch(self, *args, **kwargs):
            started = time.perf_counter()
            score, metrics = super()._valid_epoch(*args, **kwargs)
            kept["valid_seconds"].append(round(time.perf_counter() - started, 3))
            kept["valid"].append(numbers(metrics))
            kept["evaluated"].append(len(kept["epoch_losses"]) - 1)
            print(f"epoch {kept['evaluated'][-1]} loss {kept['epoch_losses'][-1]:.9g} {dict(metrics)}", flush=True)
            return score, metrics

    kept = {"epoch_losses": [], "epoch_seconds": [], "valid": [], "valid_seconds": [], "evaluated": []}
    trainer = Trainer(config, model)
    best_score, best_valid = trainer.fit(train, valid, verbose=False, show_progress=False)
    # RecBole 1.2.1 pickles its configuration beside the weights; the file is the one that this process has just written.
    with mock.patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        tested = trainer.evaluate(test, load_best_model=True, show_progress=False)
    scores = [metrics[options["valid_metric"].lower()] for metrics in kept["valid"]]
    # Of equal scores RecBole 1.2.1 keeps the last.
    best = max(index for index, score in enumerate(scores) if score == best_score)
    kept |= {"best_epoch": kept["evaluated"][best], "best_valid": numbers(best_valid), "test": numbers(tested)}
    print(f"test epoch {kept['best_epoch']} {kept['test']}")
    return kept | {"ranks": ranks(model, test)}


def numbers(metrics):
    return {name: float(value) for name, value in metrics.items()}


@torch.no_grad()
def ranks(model, loader):
    """How many items score higher than each target, in the loader's order."""
    model.eval()
    counted = []
    for interaction, _, rows, targets in loader:
        scores = model.full_sort_predict(interaction).view(len(interaction), -1)
        scores[:, 0] = -torch.inf
        counted += (scores > scores[rows, targets].unsqueeze(1)).sum(dim=1).tolist()
    return counted


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.recbole_training", description=__doc__.splitlines()[0])
    parser.add_argument("--config", "--config_files", nargs="+", required=True, help="RecBole YAML, or a golden .json")
    parser.add_argument("--data_path", help="folder that holds the data set's folder (ml-100k: recbole's own copy)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", metavar="OUT", required=True, help="the record that `dif-sr gate` judges")
    arguments, options = configuration.of_command(parser)
    torch.set_num_threads(arguments.threads)
    Path(arguments.record).parent.mkdir(parents=True, exist_ok=True)
    data = pipeline.load(options)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        for category in (FutureWarning, UserWarning):  # pandas' and PyTorch's, of RecBole's calls
            warnings.simplefilter("ignore", category)
        trained = run(options | {"checkpoint_dir": folder})
    record.write(arguments.record, options, data, trained, environment())


if __name__ == "__main__":
    main()
