"""Models of RecBole: a case as the configuration and the data set that a `SequentialRecommender` is built with."""

import warnings
from types import SimpleNamespace

import numpy as np
import torch

from .judging import Error

# RecBole's defaults for the names of columns.
COLUMNS = {
    **{"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_"},
    **{"ITEM_LIST_LENGTH_FIELD": "item_length", "TIME_FIELD": "timestamp", "initializer_range": 0.02},
}


class Config(dict):
    """As RecBole's `Config`: a key that nobody has set is None."""

    def __missing__(self, key):
        return None

    @property
    def final_config_dict(self):
        return self


class Columns:
    """As RecBole's `Interaction`, for when RecBole cannot be imported."""

    def __init__(self, interaction):
        self.interaction = dict(interaction)

    def __getitem__(self, name):
        return self.interaction[name]

    def __contains__(self, name):
        return name in self.interaction

    def __iter__(self):
        return iter(self.interaction)

    def __len__(self):
        return len(next(iter(self.interaction.values())))

    @property
    def columns(self):
        return list(self.interaction)

    def to(self, device):
        return type(self)({name: value.to(device) for name, value in self.interaction.items()})


def parts():
    """RecBole's class of a batch, and its kinds of features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if not hasattr(np, "long"):  # RecBole 1.2.1 uses it for `token` attributes, NumPy 1.24 to 1.26 lack it
            np.long = np.int64
    try:
        from recbole.data.interaction import Interaction
        from recbole.utils import FeatureType

        return Interaction, FeatureType
    except ImportError:
        return Columns, lambda value: SimpleNamespace(value=value)


class Data:
    """What a model asks of RecBole's `SequentialDataset`."""

    def __init__(self, case, config, interaction, feature_type):
        kinds = {attribute["name"]: attribute for attribute in case.config["attributes"]}
        self.config, self.iid_field, self.uid_field = config, config["ITEM_ID_FIELD"], config["USER_ID_FIELD"]
        rows = len(case.tensors["in.item_seq"])
        self.item_num, self.user_num = case.config["n_items"], rows + 1
        self.sizes = {self.iid_field: self.item_num, self.uid_field: self.user_num}
        self.sizes |= {name: attribute["vocab"] for name, attribute in kinds.items()}
        self.field2type = {name: feature_type(attribute["type"]) for name, attribute in kinds.items()}
        self.field2type |= {self.iid_field: feature_type("token"), self.uid_field: feature_type("token")}
        self.field2token_id = {name: {str(i): i for i in range(size)} for name, size in self.sizes.items()}
        self.field2id_token = {name: np.array([str(i) for i in range(size)]) for name, size in self.sizes.items()}
        features = case.item_feat
        self.field2seqlen = {name: ids.shape[1] if ids.dim() == 2 else 1 for name, ids in features.items()}
        self.item_feat = interaction({self.iid_field: torch.arange(self.item_num)} | features)
        self.user_feat = None

    def num(self, field):
        return self.sizes[field]

    def fields(self, *_args, **_kwargs):
        return list(self.sizes)

    def get_item_feature(self):
        return self.item_feat

    def get_user_feature(self):
        return self.user_feat


def recbole(model_class, config=None):
    """What `parametrize` builds of a subclass of RecBole's `SequentialRecommender`, as RecBole would: from the case's
    configuration (with your own keys, `config`) and data set. The loss is `calculate_loss`, the scores `full_sort_predict`'s.
    """
    needed = ("calculate_loss", "full_sort_predict")
    if not isinstance(model_class, type) or not all(hasattr(model_class, name) for name in needed):
        found = getattr(model_class, "__name__", type(model_class).__name__)
        raise Error(
            f"recbole: expected a class with {' and '.join(needed)}, as RecBole's SequentialRecommender, found {found}"
        )

    def build(case):
        interaction, feature_type = parts()
        options = Config({**COLUMNS, **case.config, "device": torch.device("cpu"), **(config or {})})
        data = Data(case, options, interaction, feature_type)
        model = model_class(options, data)

        def rows(batch):
            """The batch as RecBole's loaders give it: with the features of the target."""
            item, list_suffix = options["ITEM_ID_FIELD"], options["LIST_SUFFIX"]
            columns = {
                options["USER_ID_FIELD"]: torch.arange(1, len(batch.item_seq) + 1, device=batch.item_seq.device),
                item + list_suffix: batch.item_seq,
                options["ITEM_LIST_LENGTH_FIELD"]: batch.item_seq_len,
                item: batch.pos_items,
            }
            if "neg_items" in batch:  # of BPR; other cases may lack them
                columns[options["NEG_PREFIX"] + item] = batch.neg_items
            for name, ids in batch.item_feat.items():
                columns |= {name: ids[batch.pos_items], name + list_suffix: ids[batch.item_seq]}
            return interaction(columns)

        def loss(batch):
            value = model.calculate_loss(rows(batch))
            return sum(value) if isinstance(value, tuple) else value

        return model, loss, {"scores": lambda batch: model.full_sort_predict(rows(batch))}

    build.__name__ = model_class.__name__
    return build
