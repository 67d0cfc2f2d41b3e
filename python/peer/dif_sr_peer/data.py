"""The reference's data pipeline, by the `recbole` package: files, k-core, ids, prefixes, leave-one-out.

`recbole` 1.2.1 prepares data as the authors' RecBole 1.0.1 did, with three exceptions handled here: it normalises
float columns by default, keeps a generator of its own for shuffling, and insists that CE has no negative sampling.
"""

import hashlib
import os
import sys
import warnings
from dataclasses import dataclass

import torch

from .config import stop
from .model import Attribute

COLUMNS = ("user_id", "item_id", "item_id_list", "item_length")


class Split:
    """Rows of one part of the data: `columns` maps the names in COLUMNS to int64 tensors."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["user_id"])

    def shuffle_(self):
        """Permutes the rows in place with the global generator: permutations compound over the epochs."""
        permutation = torch.randperm(len(self))
        self.columns = {name: column[permutation] for name, column in self.columns.items()}

    def batches(self, size):
        for start in range(0, len(self), size):
            yield {name: column[start : start + size] for name, column in self.columns.items()}

    def sha256(self):
        """Of each column as little-endian int64, row-major."""
        return {name: hashlib.sha256(c.numpy().astype("<i8").tobytes()).hexdigest() for name, c in self.columns.items()}

    def first(self, n):
        rows = zip(*(self.columns[name][:n].tolist() for name in COLUMNS))
        return [{"user": user, "seq": seq, "len": length, "pos": item} for user, item, seq, length in rows]


@dataclass
class Data:
    stats: dict
    tokens: dict  # field -> tokens in order of their ids, "[PAD]" first
    attributes: list  # of Attribute, as selected
    train: Split
    valid: Split
    test: Split

    @property
    def n_items(self):
        return self.stats["items"]


def recbole_config(options, model=None):
    """RecBole's own `Config`, with its defaults, from a mapping of RecBole's keys; `model` is one of RecBole's classes."""
    from recbole.config import Config
    from recbole.utils import ModelType

    for name in ("torch", "recbole", "pandas"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=name)
    own = ("model", "dataset", "data_path", "device", "neg_sampling", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type")
    passed = {key: value for key, value in options.items() if key not in own}
    passed |= {"train_neg_sample_args": None, "normalize_all": bool(options.get("normalize_all")), "benchmark_filename": None}
    passed["eval_neg_sample_args"] = None
    model = model or type("SASRecD", (), {"type": ModelType.SEQUENTIAL})
    argv, sys.argv = sys.argv, sys.argv[:1]  # `Config` reads the command line
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        config = Config(model=model, dataset=options["dataset"], config_dict=passed)
    finally:
        sys.argv = argv
        if visible is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
    folder = os.path.join(options["data_path"], options["dataset"])
    if options["dataset"] != "ml-100k" or os.path.isdir(folder):  # otherwise the copy that the wheel ships
        config["data_path"] = folder
    config["device"] = torch.device("cpu")
    return config


def load(options):
    """Reads, filters, orders and splits the data of a configuration."""
    from recbole.data.dataset import SequentialDataset

    config = recbole_config(options)
    if not os.path.isdir(config["data_path"]):  # RecBole would try to download it
        stop(f"{config['data_path']}: no such folder (data_path holds one folder per data set)")
    dataset = SequentialDataset(config)
    names = [options["USER_ID_FIELD"], options["ITEM_ID_FIELD"], options["ITEM_ID_FIELD"] + "_list", "item_length"]
    parts = [
        Split({own: part.inter_feat[name].long() for own, name in zip(COLUMNS, names)}) for part in dataset.build()
    ]
    features = dataset.get_item_feature()
    attributes = [
        Attribute(name, dataset.field2type[name].value, dataset.num(name), features[name])
        for name in options["selected_features"]
    ]
    stats = {
        "users": dataset.user_num,
        "items": dataset.item_num,
        "inters": dataset.inter_num,
        "sparsity": float(dataset.sparsity),
        "avg_user": float(dataset.avg_actions_of_users),
        "avg_item": float(dataset.avg_actions_of_items),
    }
    fields = names[:2] + options["selected_features"]
    tokens = {field: [str(token) for token in dataset.field2id_token[field]] for field in fields}
    return Data(stats, tokens, attributes, *parts)
