"""What the wheel says of itself."""

import json
import re
from importlib import metadata

import dif_sr
import pytest
import torch
from ports.glue import PORTS
from safetensors.numpy import save_file


def test_the_program_of_the_extra_is_of_the_same_version():
    needed = metadata.requires("dif-sr")
    version = metadata.version("dif-sr")
    assert f"dif-sr-train=={version} ; extra == 'train'" in [
        need.replace('"', "'").replace(";", " ;").replace("  ;", " ;") for need in needed
    ]
    assert {need.split(">")[0].split("[")[0] for need in needed if "extra" not in need} == {"numpy", "safetensors"}


def test_its_page_has_no_link_that_only_the_source_can_follow():
    page = metadata.metadata("dif-sr").get_payload()
    assert "# dif-sr for PyTorch" in page
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert [target for target in targets if not target.startswith("https://")] == []


def test_every_case_is_in_the_wheel_with_its_configuration():
    names = dif_sr.cases()
    assert {"gate", "concat", "sum", "gate_token", "bpr"} <= set(names)
    for name in names:
        case = dif_sr.Case(name)
        assert case.config["n_items"] == len(case.tensors["param.item_embedding.weight"])
        assert case.tensors["in.item_seq"].dtype == "int64" and case.stages[-1] == ("optimizer_steps", "optimizer steps")


def test_tensors_of_a_dump_may_share_memory():
    case = dif_sr.Case("gate")
    dump = {key: torch.tensor(value) for key, value in case.tensors.items() if not key.startswith("in.")}
    dump["train.loss.1"] = dump["out.loss.total"]
    assert dif_sr.judge(dump, case).holds


def test_a_case_of_ones_own_needs_no_negative_items(tmp_path):
    case = dif_sr.Case("gate")
    (tmp_path / "config.yaml").write_text(json.dumps(case.config))
    tensors = {key: value for key, value in case.tensors.items() if key != "in.neg_items"}
    assert len(tensors) < len(case.tensors)
    save_file(tensors, tmp_path / "tensors.safetensors")
    own = dif_sr.Case(tmp_path)
    _, loss, _ = PORTS["recbole"](own)
    assert loss(own.batch()).item() == loss(case.batch()).item()


def test_a_case_may_have_no_attributes_and_those_that_it_has_need_their_ids(tmp_path):
    case = dif_sr.Case("gate")
    tensors = {key: value for key, value in case.tensors.items() if not key.startswith("in.item_feat.")}
    save_file(tensors, tmp_path / "tensors.safetensors")
    (tmp_path / "config.yaml").write_text(json.dumps(case.config))
    with pytest.raises(dif_sr.Error, match="expected a tensor `in.item_feat.categories` of the items' ids, found none"):
        dif_sr.Case(tmp_path).batch()
    (tmp_path / "config.yaml").write_text(json.dumps({k: v for k, v in case.config.items() if k != "attributes"}))
    own = dif_sr.Case(tmp_path)
    assert own.attributes == [] and own.item_feat == {}


def test_a_case_s_own_tensors_pass_and_a_part_of_them_is_incomplete():
    case = dif_sr.Case("gate")
    own = {key: value for key, value in case.tensors.items() if not key.startswith("in.")}
    assert dif_sr.judge(own, case).holds
    scores = {"out.scores": case.tensors["out.scores"]}
    report = dif_sr.judge(scores, "gate")
    assert not report.holds and report.stage is None and "incomplete" in str(report)
    assert dif_sr.judge(scores, "gate", require=["scores"]).holds
