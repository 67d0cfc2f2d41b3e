"""`dif_sr.dump`, on a module of someone else and on the peer."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dif_sr.dump import Dump, Input, Method, Output
from dif_sr_peer.model import Attribute, SASRecD


class Foreign(nn.Module):
    """Query and key in one matrix, the fusion in a method: names and layout of someone else."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.norm = nn.Linear(4, 8), nn.LayerNorm(4)

    def mix(self, x):
        return x * 2

    def forward(self, x):
        query, key = self.in_proj(x).chunk(2, -1)
        return self.norm(self.mix(query) + key)


def test_a_dump_maps_a_foreign_module(tmp_path):
    torch.manual_seed(0)
    model, x = Foreign(), torch.randn(3, 4)
    dump = Dump(
        model,
        {"LayerNorm.bias": "norm.bias", "query.weight": lambda own: own["in_proj.weight"][:4]},
        {
            "out.layer.0.fused_scores": Method("", "mix"),
            "out.layer.0.attention_output": Input("norm"),
            "out.layer.0.output": Output("norm", lambda value: value + 1),
        },
    )
    with dump.forward():
        loss = model(x).pow(3).sum()
    dump.losses({"total": loss})
    loss.backward()
    dump.gradients()
    optimizer = torch.optim.Adam(model.parameters())
    dump.train(lambda: model(x).pow(3).sum(), optimizer)
    dump.save(tmp_path / "dump.safetensors")
    tensors = load_file(tmp_path / "dump.safetensors")
    names = ("LayerNorm.bias", "query.weight")
    expected = {f"{prefix}.{name}" for prefix in ("param", "grad", "after5") for name in names} | set(dump.stages)
    assert tensors.keys() == expected | {"out.loss.total"} | {f"train.loss.{step}" for step in range(1, 6)}
    assert tensors["grad.query.weight"].shape == (4, 4)
    assert not torch.equal(tensors["param.query.weight"], tensors["after5.query.weight"])
    assert "mix" not in model.__dict__


def test_a_dump_names_a_stage_that_never_came():
    model = Foreign()
    dump = Dump(model, {}, {"out.layer.0.output": Output("in_proj"), "out.scores": Method("", "mix")})
    with pytest.raises(RuntimeError, match="out.layer.0.output, out.scores"), dump.forward():
        pass
    with pytest.raises(KeyError, match="param.query.weight"):
        Dump(model, {"query.weight": "query.weight"}, {})


def test_a_missing_gradient_is_kept_as_evidence(tmp_path):
    model = Foreign()
    model.in_proj.bias.requires_grad_(False)
    dump = Dump(model, {"query.weight": "in_proj.weight", "query.bias": lambda own: own["in_proj.bias"][:4]}, {})
    model(torch.ones(3, 4)).pow(3).sum().backward()
    dump.gradients()
    dump.save(tmp_path / "dump.safetensors")
    with safe_open(tmp_path / "dump.safetensors", "pt") as file:
        assert json.loads(file.metadata()["missing_gradients"]) == ["query.bias"]
        assert "grad.query.weight" in file.keys() and "grad.query.bias" not in file.keys()


def test_a_dump_keeps_the_optimizer_s_settings_and_what_it_does_not_hold():
    model = Foreign()
    dump = Dump(model, {}, {}, outside={"table": torch.ones(2, 3)})
    optimizer = torch.optim.AdamW([model.in_proj.weight, model.in_proj.bias], lr=0.01, weight_decay=0.1)
    dump.train(lambda: model(torch.ones(3, 4)).pow(3).sum(), optimizer)
    settings = dump.metadata["optimizer"]
    assert settings["class"] == "AdamW"
    assert settings["groups"][0]["parameters"] == ["in_proj.weight", "in_proj.bias"]
    assert (settings["groups"][0]["lr"], settings["groups"][0]["weight_decay"]) == (0.01, 0.1)
    assert settings["not_held"] == ["norm.bias", "norm.weight", "table"]
    assert "after5.table" not in dump.tensors


def peer(attn=0.3, hidden=0.5):
    config = {
        **{"n_layers": 2, "n_heads": 2, "hidden_size": 8, "inner_size": 12, "attribute_hidden_size": [4]},
        **{"MAX_ITEM_LIST_LENGTH": 5, "hidden_dropout_prob": hidden, "attn_dropout_prob": attn, "hidden_act": "gelu"},
        **{"layer_norm_eps": 1e-12, "pooling_mode": "sum", "loss_type": "CE", "fusion_type": "gate", "lamdas": [10]},
        **{"attribute_predictor": "linear"},
    }
    return SASRecD(config, 900, [Attribute("categories", "token_seq", 700, torch.ones(900, 2, dtype=torch.long))])


BATCH = torch.tensor([[3, 4, 0, 0, 0], [5, 6, 7, 8, 9], [1, 0, 0, 0, 0]]), torch.tensor([2, 5, 1])


def test_a_dump_sees_every_dropout_with_its_shape_and_rate():
    model = peer()
    dump = Dump(model, {}, {})
    dump.dropout_sites(lambda: model(*BATCH))
    block = [([3, 2, 5, 5], 0.3), ([3, 5, 8], 0.5), ([3, 5, 8], 0.5)]
    expected = [([3, 5, 8], 0.5), *block, *block]
    assert [(site["shape"], site["rate"]) for site in dump.metadata["dropout_sites"]] == expected

    def functional():
        x = torch.ones(2, 3)
        nn.functional.dropout(x, 0.2)
        nn.functional.dropout(x, p=0.7, training=False)
        nn.Dropout(0.1)(x)
        nn.Dropout(0.1).eval()(x)

    dump.dropout_sites(functional)
    assert [site["rate"] for site in dump.metadata["dropout_sites"]] == [0.2, 0.1]


def test_a_dump_tells_determinism_from_dropout():
    model = peer()
    dump = Dump(model, {}, {})
    dump.determinism(lambda: model(*BATCH))
    assert dump.metadata["determinism"]["largest_difference"] > 0
    model.eval()
    dump.determinism(lambda: model(*BATCH))
    assert dump.metadata["determinism"]["largest_difference"] == 0


def test_initial_values_have_the_reference_s_deviations():
    torch.manual_seed(0)
    model, fresh = peer(), peer()
    dump = Dump(model, {"item_embedding.weight": "item_embedding.weight"}, {})
    dump.initial_values(fresh, outside=fresh.attribute_tables())
    assert dump.tensors["init.item_embedding.weight"].std() == pytest.approx(0.02, rel=0.05)
    table = dump.tensors["init.feature_embed_layer_list.0.token_seq_embedding"]
    assert table.std() == pytest.approx(1.0, rel=0.05)
