"""Builds each port for a case: all that its author writes to have it held. The lines of a function's body are counted."""

import torch
from dif_sr import recbole

from . import encoder, flat, functional, fused, nested
from .recbole_style import MySASRecD


def fused_port(case):
    model = fused.Rec(case.config, case.item_feat)
    return model, lambda batch: model.loss(batch.item_seq, batch.item_seq_len, batch.pos_items)["total"]


def encoder_port(case):
    c, sides = case.config, case.config["attributes"]
    sizes = (c["n_items"], c["hidden_size"], c["n_layers"], c["n_heads"], c["inner_size"], c["MAX_ITEM_LIST_LENGTH"])
    named = (dict(zip(case.attributes, v)) for v in ([a["vocab"] for a in sides], c["attribute_hidden_size"], c["lamdas"]))
    model = encoder.RecForNextItem(encoder.RecConfig(*sizes, c["fusion_type"], *named), case.item_feat)
    return model, lambda batch: model(batch.item_seq, batch.pos_items)["loss"]


def functional_port(case):
    c = case.config
    p = {name: torch.randn(shape).requires_grad_() for name, shape in functional.shapes(c).items()}
    tables = {a["name"]: torch.randn(a["vocab"], size) for a, size in zip(c["attributes"], c["attribute_hidden_size"])}
    return {"trained": p, "tables": tables}, lambda batch: functional.losses(c, p, tables, batch.item_feat, batch)["total"]


def nested_port(case):
    model = nested.LitRec(nested.hparams_of(case.config), case.item_feat)
    own = {"optimizer": lambda _parameters: model.configure_optimizers()}
    return model, lambda batch: model.training_step(batch, 0), own


def flat_port(case):
    c, theta, tokens = case.config, flat.new(case.config), list(case.item_feat.values())
    tables = [torch.randn(a["vocab"], size) for a, size in zip(c["attributes"], c["attribute_hidden_size"])]
    loss = lambda b: flat.loss(theta, tables, c, tokens, b.item_seq, b.item_seq_len, b.pos_items)
    return {"theta": theta, "tables": tables}, loss


recbole_port = recbole(MySASRecD)

PORTS = {
    "recbole": recbole_port,
    "fused": fused_port,
    "encoder": encoder_port,
    "functional": functional_port,
    "nested": nested_port,
    "flat": flat_port,
}
