"""Faults that re-implementations of DIF-SR have or may have: the catalogue.

One decision of the model, the losses or the training is one method of the peer; a fault puts another decision in its
place. The modules follow the computation.
Which faults show in a case is measured, not declared: `signatures` leaves out those that change nothing there.
"""

import difflib

# In the order of the computation: each adds its faults to the catalogue.
from . import inputs, pooling, scores, masks, fusion, layers, output, losses, attribute_losses, training  # noqa: F401,I001
from .registry import CATALOGUE, Fault

__all__ = ["Fault", "nearest", "of"]


def of(config):
    """The faults that a configuration can have, by id, in the order of the computation."""
    names = [{"name": name, "type": "token_seq"} for name in config.get("selected_features") or []]
    config = {"attributes": names} | config
    listed = [fault for faults in CATALOGUE for fault in faults(config)]
    by_id = {fault.id: fault for fault in listed}
    assert len(by_id) == len(listed), "two faults of one id"
    return by_id


def nearest(name, known):
    """A sentence for a misspelt id."""
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are {len(known)}, from {next(iter(known))} on"
