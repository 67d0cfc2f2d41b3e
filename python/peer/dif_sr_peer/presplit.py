"""What RecBole makes of a data set whose splits are files (`benchmark_filename`), as JSON.

    python -m dif_sr_peer.presplit FOLDER > FOLDER/recbole.json

FOLDER holds FOLDER.train.inter, .valid.inter and .test.inter, each row with its `item_id_list`, and FOLDER.item with
`class`. RecBole 1.2.1 reads them with `alias_of_item_id: [item_id_list]`; without that it gives the histories' items
numbers of their own, and without the column it stops with a KeyError.
"""

import json
import sys
import warnings
from pathlib import Path


def rows(interactions):
    """User, history without padding and target of every row, as ids."""
    columns = [interactions[name].tolist() for name in ("user_id", "item_id_list", "item_length", "item_id")]
    return [[user, history[:length], target] for user, history, length, target in zip(*columns)]


def describe(folder):
    from recbole.config import Config
    from recbole.data.dataset import SequentialDataset

    options = {
        "data_path": str(folder.parent),
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id", "timestamp"], "item": ["item_id", "class"]},
        "train_neg_sample_args": None,
        "eval_args": {"order": "TO"},
    }
    dataset = SequentialDataset(Config(model="SASRec", dataset=folder.name, config_dict=options))
    splits = dict(zip(("train", "valid", "test"), dataset.build()))
    features = dataset.get_item_feature()
    return {
        "users": list(dataset.field2id_token["user_id"]),
        "items": list(dataset.field2id_token["item_id"]),
        "class_tokens": list(dataset.field2id_token["class"]),
        "class": features["class"].tolist(),
        "inters": dataset.inter_num,
        **{name: rows(split.inter_feat) for name, split in splits.items()},
    }


def main():
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1]).resolve()
    sys.argv = sys.argv[:1]  # `Config` reads the command line
    described = describe(folder)
    print("{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in described.items()) + "\n}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
