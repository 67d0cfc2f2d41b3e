"""Writes a finished training as a record, which `dif-sr gate` judges like a run of its own.

Another implementation needs no more than this: a rank for every test target, and the metrics of its evaluations.
"""

import hashlib
import json

# Keys that a record of `dif-sr` does not have: where and how a run is done, and what has one value here.
NOT_THE_EXPERIMENT = {
    *("seed", "data_path", "eval_batch_size", "device", "gpu_id", "use_gpu", "state", "checkpoint_dir", "threads"),
    *("RATING_FIELD", "eval_args", "learner", "loss_decimal_place", "normalize_all", "repeatable"),
}
# Keys that it has, and the peer does not.
REFERENCE = {"compute_path": "reference", "precision": "float32", "val_interval": None}


def write(path, options, data, run, environment):
    """`run` is what `train.train` gives, `data` the splits with their tokens."""
    users, items = data.tokens[options["USER_ID_FIELD"]], data.tokens[options["ITEM_ID_FIELD"]]
    rows = zip(data.test.columns["user_id"].tolist(), data.test.columns["item_id"].tolist())
    targets = "".join(f"{users[user]}\t{items[item]}\n" for user, item in rows)
    valid_metric = options["valid_metric"].lower()
    record = {
        "dataset": options["dataset"],
        "seed": options["seed"],
        "epochs": len(run["epoch_losses"]),
        "best_epoch": run["best_epoch"],
        "best_valid": run["best_valid"],
        "test": run["test"],
        "valid_metric": valid_metric,
        "evaluated": line(run["evaluated"]),
        "valid": line(metrics[valid_metric] for metrics in run["valid"]),
        "epoch_seconds": line(run["epoch_seconds"]),
        "evaluation_seconds": line(run["valid_seconds"]),
        "calibration_seconds": "",
        "environment": environment,
        "config": REFERENCE | {key: value for key, value in options.items() if key not in NOT_THE_EXPERIMENT},
        "targets_sha256": hashlib.sha256(targets.encode()).hexdigest(),
        "ranks": line(run["ranks"]),
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
        file.write("\n")


def line(numbers):
    return " ".join(str(number) for number in numbers)
