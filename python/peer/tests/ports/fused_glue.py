"""Holds `fused` to a case by the exporter."""

import torch
import yaml

from dif_sr_peer.export import Dump, Method, Output, load_case

from .fused import Rec


def dump(case_dir):
    cfg = yaml.safe_load((case_dir / "config.yaml").read_text())
    inputs, golden = load_case(case_dir / "tensors.safetensors")
    model = Rec(cfg, {a["name"]: inputs[f"item_feat.{a['name']}"] for a in cfg["attributes"]}).double()

    def part(name, k, n):
        return lambda own: own[name].chunk(n)[k]

    names = {"item_embedding.weight": "wte.weight", "position_embedding.weight": "wpe.weight"}
    pairs = [("LayerNorm", "ln_in")] + [(f"ap.{i}", f"heads.{i}") for i in range(len(model.heads))]
    for i, a in enumerate(cfg["attributes"]):
        names[f"feature_embed_layer_list.{i}.{a['type']}_embedding"] = f"wse.{i}"
    stages = {"out.seq_output": Method("", "encode")}
    for k in range(cfg["n_layers"]):
        theirs, own = f"trm_encoder.layer.{k}.multi_head_attention", f"blocks.{k}"
        pairs += [(f"{theirs}.dense", f"{own}.attn.c_proj"), (f"{theirs}.LayerNorm", f"{own}.ln_1")]
        forward = f"trm_encoder.layer.{k}.feed_forward"
        pairs += [(f"{forward}.dense_1", f"{own}.mlp.0"), (f"{forward}.dense_2", f"{own}.mlp.2")]
        pairs += [(f"{forward}.LayerNorm", f"{own}.ln_2"), (f"{theirs}.fusion_layer", f"{own}.attn.mix")]
        pairs += [(f"{theirs}.fusion_layer.projection.0", f"{own}.attn.gate_fc")]
        pairs += [(f"{theirs}.fusion_layer.projection.2", f"{own}.attn.gate_out")]
        for kind in ("weight", "bias"):
            for j, name in enumerate(("query", "key", "value")):
                names[f"{theirs}.{name}.{kind}"] = part(f"{own}.attn.c_attn.{kind}", j, 3)
            for j, name in enumerate(("query", "key")):
                names[f"{theirs}.{name}_p.{kind}"] = part(f"{own}.attn.c_pos.{kind}", j, 2)
                for i in range(len(cfg["attributes"])):
                    names[f"{theirs}.{name}_layers.{i}.{kind}"] = part(f"{own}.attn.c_side.{i}.{kind}", j, 2)
        stages[f"out.layer.{k}.attention_probs"] = Output(f"{own}.attn", lambda out: out[1])
        stages[f"out.layer.{k}.attention_output"] = Output(f"{own}.ln_1")
        stages[f"out.layer.{k}.output"] = Output(own)
        if cfg["fusion_type"] != "sum":
            stages[f"out.layer.{k}.fused_scores"] = Method(f"{own}.attn", "fuse")
    state = model.state_dict(keep_vars=True)
    names |= {f"{a}.{kind}": f"{b}.{kind}" for a, b in pairs for kind in ("weight", "bias") if f"{b}.{kind}" in state}
    with torch.no_grad():
        for name, find in names.items():
            (find(state) if callable(find) else state[find]).copy_(golden[name])
    losses = lambda: model.loss(inputs["item_seq"], inputs["item_seq_len"], inputs["pos_items"])
    dump = Dump(model, names, stages)
    with dump.forward():
        found = losses()
    dump.losses(found)
    found["total"].backward()
    dump.gradients()
    dump.train(lambda: losses()["total"], torch.optim.Adam(model.parameters(), lr=cfg["learning_rate"]))
    return dump
