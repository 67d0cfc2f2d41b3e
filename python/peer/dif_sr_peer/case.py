"""One golden model case: the peer built from it, and everything that it computes on it.

python -m dif_sr_peer.case CASE_DIR OUT.safetensors [--further]     # the peer's dump, by `dif_sr.dump`
"""

import argparse
from pathlib import Path

import torch
import yaml
from dif_sr.dump import Dump, Input, Method, Output, load_case

from .config import stop
from .model import Attribute
from .train import model_of, parameters


def configuration(case_dir):
    return yaml.safe_load((Path(case_dir) / "config.yaml").read_text())


def build(case_dir):
    """-> the model in float64 with the case's parameters, its inputs, its configuration."""
    case_dir, config = Path(case_dir), configuration(case_dir)
    inputs, values = load_case(case_dir / "tensors.safetensors")
    attributes = [Attribute(a["name"], a["type"], a["vocab"], inputs[f"item_feat.{a['name']}"]) for a in config["attributes"]]
    model = model_of(config, config["n_items"], attributes).double()
    own = parameters(model)
    if own.keys() != values.keys():
        stop(f"{case_dir}: parameters differ from the peer's: {sorted(own.keys() ^ values.keys())}")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return model.train(), inputs, config


def stages(config):
    """Where the peer computes what the golden cases hold: the map of `Dump`."""
    where = {"out.seq_output": Method("", "last_position"), "out.scores": Method("", "full_sort_scores")}
    for k in range(config["n_layers"]):
        layer = f"trm_encoder.layer.{k}"
        attention = f"{layer}.multi_head_attention"
        where |= {
            f"out.layer.{k}.attention_probs": Input(f"{attention}.attn_dropout"),
            f"out.layer.{k}.attention_output": Output(attention),
            f"out.layer.{k}.output": Output(layer),
        }
        if config.get("fusion_type", "sum") != "sum":  # the goldens hold them for `gate` and `concat`
            where[f"out.layer.{k}.fused_scores"] = Method(attention, "fuse")
    return where


def further_stages(config):
    """Where the peer computes what no golden case holds: with them the first departure is found more closely."""
    names = [attribute["name"] for attribute in config["attributes"]]
    where = {"out.input": Input("trm_encoder")}
    where |= {f"out.pooled.{name}": Output(f"feature_embed_layer_list.{i}") for i, name in enumerate(names)}
    for k in range(config["n_layers"]):
        attention, streams = f"trm_encoder.layer.{k}.multi_head_attention", f"out.layer.{k}.stream_scores"
        where |= {
            f"{streams}.item": Method(attention, "item_scores"),
            f"{streams}.position": Method(attention, "position_scores"),
        }
        for i, name in enumerate(names):
            where[f"{streams}.{name}"] = Method(attention, "attribute_scores", lambda scores, i=i: scores[i])
    return where


def exact_attribute_losses(model, seq_output, items):
    """`attribute.<name>` as the golden cases hold it: with labels in float64.

    The authors' labels are float32, and `BCEWithLogitsLoss` returns the type of its labels. In a float64 case the total
    loss and its gradients therefore carry an attribute loss rounded to float32 (1e-8 relative), which is not this one.
    """
    if getattr(model, "attribute_predictor", None) != "linear":
        return {}
    return {
        f"attribute.{attribute.name}": model.attribute_loss(i, seq_output, items, exact=True)
        for i, attribute in enumerate(model.attributes)
    }


def compute(model, inputs, config, further=False, train=True):
    """Forward, losses, gradients and optimizer steps -> a `Dump` with all keys of the case but the inputs.

    `further` adds the stages that no golden case holds; without `train` it ends with the losses.
    """
    where = stages(config) | (further_stages(config) if further else {})
    names = {name: name for name, _ in model.named_parameters()}
    tables = {name: table for name, table in model.attribute_tables().items() if name not in names}
    dump = Dump(model, names, where, outside=tables)

    def losses():
        seq_output = model(inputs["item_seq"], inputs["item_seq_len"])
        return model.losses(seq_output, inputs["pos_items"], inputs["neg_items"]), seq_output

    with dump.forward():
        values, seq_output = losses()
        model.full_sort_scores(seq_output)  # BPR's loss has no use for it
    dump.losses(values | exact_attribute_losses(model, seq_output, inputs["pos_items"]))
    if not train:
        return dump
    values["total"].backward()
    dump.gradients()
    dump.train(lambda: losses()[0]["total"], model.optimizer(config["learning_rate"]), config["train_steps"])
    return dump


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.case", description="write the peer's dump of a golden case")
    parser.add_argument("case_dir")
    parser.add_argument("out")
    parser.add_argument("--further", action="store_true", help="with the stages that the case itself does not hold")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dump = compute(*build(arguments.case_dir), further=arguments.further)
    dump.save(arguments.out)
    print(f"{arguments.out}: {len(dump.tensors)} tensors")


if __name__ == "__main__":
    main()
