"""SASRec and SASRecF, the models that DIF-SR is compared with: RecBole's own classes, and round them no more than what
the seeded run and the model cases ask of a model.
"""

import warnings

import numpy as np
import torch
from torch import nn

from .config import stop
from .encoder import PortableDropout
from .model import Trained

COLUMNS = {
    **{"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LIST_SUFFIX": "_list", "NEG_PREFIX": "neg_"},
    "ITEM_LIST_LENGTH_FIELD": "item_length",
}


class Items:
    """What the classes ask of a data set: sizes, and the attributes of every item."""

    def __init__(self, n_items, attributes):
        from recbole.data.interaction import Interaction
        from recbole.utils import FeatureType

        self.sizes = {"item_id": n_items} | {attribute.name: attribute.vocab for attribute in attributes}
        self.field2type = {attribute.name: FeatureType(attribute.type) for attribute in attributes}
        self.features = Interaction({attribute.name: attribute.ids for attribute in attributes})

    def num(self, field):
        return self.sizes[field]

    def get_item_feature(self):
        return self.features


def class_of(name):
    """RecBole's class."""
    from recbole.model.sequential_recommender import SASRec, SASRecF

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if not hasattr(np, "long"):  # RecBole 1.2.1 uses it for `token` attributes, NumPy 1.24 to 1.26 lack it
            np.long = np.int64
    classes = {"SASRec": SASRec, "SASRecF": SASRecF}
    return classes[name] if name in classes else stop(f"model: expected SASRecD, SASRec or SASRecF, found {name}")


def build(options, n_items, attributes, portable_dropout=True):
    """RecBole's model, with its own initial values, drawn from the global generator."""
    recbole = class_of(options["model"])

    class Baseline(Trained, recbole):
        def attribute_tables(self):
            """None that are not trained."""
            return {}

        def encoded(self, seq_output, compute, **columns):
            """A result of RecBole's that begins by encoding the batch, for one that is encoded already."""
            self.forward = lambda *_: seq_output
            try:
                return compute({self.ITEM_SEQ: None, self.ITEM_SEQ_LEN: None} | columns)
            finally:
                del self.forward

        def full_sort_scores(self, seq_output):
            return self.encoded(seq_output, self.full_sort_predict)

        def losses(self, seq_output, pos_items, neg_items=None):
            columns = {self.POS_ITEM_ID: pos_items, self.NEG_ITEM_ID: neg_items}
            loss = self.encoded(seq_output, self.calculate_loss, **columns)
            return {"total": loss, "item": loss}

        def gather_indexes(self, output, gather_index):
            return self.last_position(output, gather_index)

        def last_position(self, output, gather_index):
            """The peer's name for it."""
            return super().gather_indexes(output, gather_index)

        __str__ = nn.Module.__repr__

    Baseline.__name__ = recbole.__name__
    keys = dict.fromkeys(["selected_features", "pooling_mode"]) | options | COLUMNS | {"device": torch.device("cpu")}
    model = Baseline(keys, Items(n_items, attributes))
    model.attributes = attributes
    if portable_dropout:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, PortableDropout(child.p))
    return model
