"""RecBole's keys: defaults, YAML files (later ones win), `--key=value`."""

import json
import re
import sys
from pathlib import Path

import yaml

# What the reference uses where a file says nothing: the notebook's general settings.
DEFAULTS = {
    "seed": 212,
    "data_path": "dataset",
    "field_separator": "\t",
    "seq_separator": " ",
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "normalize_all": None,
    "epochs": 200,
    "learner": "adam",
    "weight_decay": 0.0,
    "clip_grad_norm": None,
    "eval_step": 1,
    "stopping_step": 10,
    "metrics": ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP"],
    "topk": [5, 10, 20],
    "valid_metric": "Recall@10",
    "metric_decimal_place": 4,
    "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
    "repeatable": True,
    "loss_type": "CE",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}

REQUIRED = (
    *("dataset", "selected_features", "MAX_ITEM_LIST_LENGTH", "train_batch_size", "eval_batch_size", "learning_rate"),
    *("n_layers", "n_heads", "hidden_size", "inner_size", "attribute_hidden_size", "hidden_dropout_prob"),
    *("attn_dropout_prob", "fusion_type", "pooling_mode", "attribute_predictor", "lamdas"),
)

# What a baseline does not read; an overlay writes `null` there.
UNREAD = {
    "SASRecD": (),
    "SASRec": ("selected_features", "pooling_mode", "attribute_hidden_size", "fusion_type", "attribute_predictor", "lamdas"),
    "SASRecF": ("attribute_hidden_size", "fusion_type", "attribute_predictor", "lamdas"),
}


def stop(message):
    """Could not run."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


class Loader(yaml.SafeLoader):
    """YAML with numbers as RecBole reads them: `1e-12` is a float."""


Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read(path):
    """One configuration file: RecBole YAML, or a golden `.json` with its `resolved_config` or `config`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        stop(f"{path}: {error.strerror}")
    if str(path).endswith(".json"):
        golden = json.loads(text)
        return golden.get("resolved_config", golden["config"])
    read = yaml.load(text, Loader) or {}
    if not isinstance(read, dict):
        stop(f"{path}: expected `key: value` lines")
    return read


def load(paths, overrides=()):
    """`overrides` are `key=value` with the value in YAML."""
    config = dict(DEFAULTS)
    for path in paths:
        config |= read(path)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            stop(f"{override}: expected --key=value")
        config[key] = yaml.load(value, Loader)
    unread = UNREAD.get(config.get("model", "SASRecD"), ())
    missing = [key for key in REQUIRED if key not in config and key not in unread]
    if missing:
        stop(f"not in the configuration: {', '.join(missing)}")
    if config.get("time_precision", "float32") != "float32":
        stop("time_precision: the peer casts times to float32 as the reference does")
    config |= dict.fromkeys(unread)
    config["selected_features"] = config["selected_features"] or []
    config.setdefault("load_col", {})
    config["load_col"] = {
        "inter": [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"]],
        "item": [config["ITEM_ID_FIELD"], *config["selected_features"]],
    } | (config["load_col"] or {})
    return config


def of_command(parser):
    """Parses a command with `--config`, `--data_path` and `--key=value`: its arguments, and the configuration."""
    arguments, rest = parser.parse_known_args()
    unknown = [option for option in rest if not option.startswith("--") or "=" not in option]
    if unknown:
        parser.error(f"expected --key=value, found {' '.join(unknown)}")
    options = load(arguments.config, [option[2:] for option in rest])
    if arguments.data_path:
        options["data_path"] = arguments.data_path
    return arguments, options
