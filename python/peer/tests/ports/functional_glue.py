"""Holds `functional` to a case by the exporter."""

import torch
import yaml
from torch import nn

from dif_sr_peer.export import Dump, load_case

from . import functional


def dump(case_dir):
    c = yaml.safe_load((case_dir / "config.yaml").read_text())
    inputs, golden = load_case(case_dir / "tensors.safetensors")
    shapes = functional.shapes(c)
    p = nn.ParameterDict({name: nn.Parameter(torch.empty(shape, dtype=torch.float64)) for name, shape in shapes.items()})
    names = {"item_embedding.weight": "item_table", "position_embedding.weight": "position_table"}
    names |= {"LayerNorm.weight": "ln_scale", "LayerNorm.bias": "ln_shift"}

    def matrix(name, k=None, rows=None):
        """[in..., out...] of a stack -> [out, in]"""
        return lambda own: (own[name] if k is None else own[name][k]).reshape(rows or shapes[name][1 - (k is None)], -1).T

    def vector(name, k):
        return lambda own: own[name][k].reshape(-1)

    for i, a in enumerate(c["attributes"]):
        names |= {f"ap.{i}.weight": matrix(f"w_{a['name']}"), f"ap.{i}.bias": f"b_{a['name']}"}
    for k in range(c["n_layers"]):
        attention, forward = (f"trm_encoder.layer.{k}.{part}." for part in ("multi_head_attention", "feed_forward"))
        own = {"query": "q", "key": "k", "value": "v", "query_p": "qp", "key_p": "kp"}
        for i, a in enumerate(c["attributes"]):
            own |= {f"query_layers.{i}": f"q_{a['name']}", f"key_layers.{i}": f"k_{a['name']}"}
        for theirs, name in own.items():
            names |= {
                f"{attention}{theirs}.weight": matrix(f"w_{name}", k),
                f"{attention}{theirs}.bias": vector(f"b_{name}", k),
            }
        names[f"{attention}dense.weight"] = matrix("w_o", k, c["hidden_size"])
        names[f"{attention}dense.bias"] = vector("b_o", k)
        for j in (1, 2):
            names |= {f"{forward}dense_{j}.weight": matrix(f"w_{j}", k), f"{forward}dense_{j}.bias": vector(f"b_{j}", k)}
        for place, name in ((attention, "ln1"), (forward, "ln2")):
            names |= {
                f"{place}LayerNorm.weight": vector(f"{name}_scale", k),
                f"{place}LayerNorm.bias": vector(f"{name}_shift", k),
            }
        if c["fusion_type"] == "gate":
            gate = f"{attention}fusion_layer.projection."
            names |= {f"{gate}0.weight": lambda own, k=k: own["gate_1"][k], f"{gate}0.bias": vector("gate_1_b", k)}
            names |= {f"{gate}2.weight": lambda own, k=k: own["gate_2"][k : k + 1], f"{gate}2.bias": vector("gate_2_b", k)}
        elif c["fusion_type"] == "concat":
            fusion = f"{attention}fusion_layer."
            names |= {f"{fusion}weight": lambda own, k=k: own["mix"][k].flatten(0, 1).T, f"{fusion}bias": vector("mix_b", k)}
    with torch.no_grad():
        for name, find in names.items():
            (find(p) if callable(find) else p[find]).copy_(golden[name])
    tokens = {a["name"]: inputs[f"item_feat.{a['name']}"] for a in c["attributes"]}
    keys = [f"feature_embed_layer_list.{i}.{a['type']}_embedding" for i, a in enumerate(c["attributes"])]
    tables = dict(zip(tokens, (golden[key] for key in keys)))
    dump = Dump(p, names, {}, outside=dict(zip(keys, tables.values())))
    keep = lambda key, tensor: None if "fused" in key and c["fusion_type"] == "sum" else dump.record(key, tensor)
    losses = lambda keep=lambda *_: None: functional.losses(c, p, tables, tokens, inputs, keep)
    found = losses(keep)
    dump.losses(found)
    found["total"].backward()
    dump.gradients()
    dump.train(lambda: losses()["total"], torch.optim.Adam(p.parameters(), lr=c["learning_rate"]))
    return dump
