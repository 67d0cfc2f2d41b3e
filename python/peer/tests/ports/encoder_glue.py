"""Holds `encoder` to a case by the exporter."""

import torch
import yaml

from dif_sr_peer.export import Dump, Method, Output, load_case

from .encoder import RecConfig, RecForNextItem


def dump(case_dir):
    c = yaml.safe_load((case_dir / "config.yaml").read_text())
    inputs, golden = load_case(case_dir / "tensors.safetensors")
    sides = [a["name"] for a in c["attributes"]]
    config = RecConfig(
        *(c["n_items"], c["hidden_size"], c["n_layers"], c["n_heads"], c["inner_size"], c["MAX_ITEM_LIST_LENGTH"]),
        c["fusion_type"],
        {a["name"]: a["vocab"] for a in c["attributes"]},
        dict(zip(sides, c["attribute_hidden_size"])),
        dict(zip(sides, c["lamdas"])),
    )
    model = RecForNextItem(config, {name: inputs[f"item_feat.{name}"] for name in sides}).double()
    pairs = [("LayerNorm", "embeddings.LayerNorm")]
    pairs += [(f"{where}_embedding", f"embeddings.{own}_embeddings") for where, own in (("item", "word"), ("position",) * 2)]
    pairs += [(f"ap.{i}", f"cls.{name}") for i, name in enumerate(sides)]
    stages = {}
    for k in range(c["n_layers"]):
        attention, forward = (f"trm_encoder.layer.{k}.{part}" for part in ("multi_head_attention", "feed_forward"))
        layer, own = f"encoder.layer.{k}", f"encoder.layer.{k}.attention.self"
        pairs += [(f"{attention}.{name}", f"{own}.{name}") for name in ("query", "key", "value")]
        pairs += [(f"{attention}.{name}_p", f"{own}.position_{name}") for name in ("query", "key")]
        for i, side in enumerate(sides):
            pairs += [(f"{attention}.{name}_layers.{i}", f"{own}.side_{name}.{side}") for name in ("query", "key")]
        pairs += [(f"{attention}.fusion_layer.projection.{j}", f"{own}.gate.{j}") for j in (0, 2)]
        pairs += [(f"{attention}.fusion_layer", f"{own}.merge_scores")]
        pairs += [(f"{attention}.{name}", f"{layer}.attention.output.{name}") for name in ("dense", "LayerNorm")]
        pairs += [(f"{forward}.dense_1", f"{layer}.intermediate"), (f"{forward}.dense_2", f"{layer}.output.dense")]
        pairs += [(f"{forward}.LayerNorm", f"{layer}.output.LayerNorm")]
        stages[f"out.layer.{k}.attention_probs"] = Output(own, lambda out: out[1])
        stages[f"out.layer.{k}.attention_output"] = Output(f"{layer}.attention.output")
        stages[f"out.layer.{k}.output"] = Output(layer)
        if c["fusion_type"] != "sum":
            stages[f"out.layer.{k}.fused_scores"] = Method(own, "combine")
    state = model.state_dict(keep_vars=True)
    names = {f"{a}.{kind}": f"{b}.{kind}" for a, b in pairs for kind in ("weight", "bias") if f"{b}.{kind}" in state}
    tables = {
        f"feature_embed_layer_list.{i}.{a['type']}_embedding": state[f"embeddings.side.{a['name']}_table"]
        for i, a in enumerate(c["attributes"])
    }
    with torch.no_grad():
        for name, tensor in ({name: state[own] for name, own in names.items()} | tables).items():
            tensor.copy_(golden[name])
    dump = Dump(model, names, stages, outside=tables)
    with dump.forward():
        out = model(inputs["item_seq"], inputs["pos_items"])
    dump.record("out.seq_output", out["pooled"])
    dump.record("out.scores", out["logits"])
    dump.losses({"total": out["loss"], "item": out["item_loss"]} | {f"attribute.{s}": out[f"{s}_loss"] for s in sides})
    out["loss"].backward()
    dump.gradients()
    optimizer = torch.optim.Adam(model.parameters(), lr=c["learning_rate"])
    dump.train(lambda: model(inputs["item_seq"], inputs["pos_items"])["loss"], optimizer)
    return dump
