"""What a fault is, the catalogue, and the means to plant one."""

import functools
from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Fault:
    """One way to get one decision wrong.

    `text` is one sentence for people: what is wrong, beside what is right. `plant(model)` changes a peer. Two faults of
    one `family` exclude each other; a `common` one has been seen in re-implementations, or is an easy slip.
    """

    id: str
    text: str
    plant: Callable
    family: str
    common: bool = False


CATALOGUE = []  # functions: a configuration -> its faults of one decision


def words(c):
    """What a sentence may name of a configuration."""
    return {
        "head": c["hidden_size"] // c["n_heads"],
        "hidden": c["hidden_size"],
        "pooling": c["pooling_mode"],
        "activation": c.get("hidden_act", "gelu"),
        "lr": f"{c['learning_rate']:g}",
        "eps": f"{c.get('layer_norm_eps', 1e-12):g}",
        "lamdas": ", ".join(f"{lamda:g}" for lamda in c["lamdas"]),
    }


def fault(text, when=lambda c: True, family=None, common=False):
    """Registers one fault: the decorated function plants it, and its name is the id."""

    def register(plant):
        def catalogued(c):
            if when(c):
                yield Fault(plant.__name__, text.format(**words(c)), plant, family or plant.__name__, common)

        CATALOGUE.append(catalogued)
        return plant

    return register


def faults(common=()):
    """Registers a family: the decorated generator gives (id, text, plant) for each value that the configuration does not
    have. `common` lists the ids that are."""

    def register(generator):
        def catalogued(c):
            for identifier, text, plant in generator(c):
                text = text.format(**words(c))
                yield Fault(identifier, text, plant, generator.__name__, identifier in common)

        CATALOGUE.append(catalogued)
        return generator

    return register


def replace(owner, name, new):
    """Puts `new(original, *arguments)` in the place of a method, so that faults can be planted on one another."""
    setattr(owner, name, functools.partial(new, getattr(owner, name)))


def everywhere(where, name, new):
    """Plants `new(original, *arguments)` in the place of a method of every module that `where(model)` gives."""

    def plant(model):
        for module in where(model):
            replace(module, name, new)

    return plant


def remember(module, name, pick):
    """A list that holds `pick(*arguments)` of a method's latest call, once there was one."""
    latest = []

    def remembering(original, *arguments):
        latest[:] = [pick(*arguments)]
        return original(*arguments)

    replace(module, name, remembering)
    return latest


def drop(module, *names):
    """Takes parameters and sub-modules out of a module: an implementation that has none."""
    for name in names:
        if name in module._parameters:
            module.register_parameter(name, None)
        else:
            del module._modules[name]


def number(value):
    """As part of an id: 0.0001 is 1e_4."""
    text = f"{value:g}" if value >= 0.01 else f"{value:e}".replace(".000000", "").replace("e-0", "e_").replace("e-", "e_")
    return text.replace(".", "_")


def attentions(model):
    return [layer.multi_head_attention for layer in model.trm_encoder.layer]


def feed_forwards(model):
    return [layer.feed_forward for layer in model.trm_encoder.layer]


def gates(model):
    return [attention.fusion_layer for attention in attentions(model)]


def learned_fusion(c):
    return c["fusion_type"] != "sum"


def two_attributes(c):
    return len(c["attributes"]) > 1


def token_seq(c):
    return any(attribute["type"] == "token_seq" for attribute in c["attributes"])


def cross_entropy(c):
    return c["loss_type"] == "CE"


def bpr(c):
    return c["loss_type"] == "BPR"


def predictor(c):
    return cross_entropy(c) and c["attribute_predictor"] == "linear"
