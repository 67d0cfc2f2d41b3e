"""What the wheel says of itself."""

from importlib import metadata

import dif_sr


def test_the_program_of_the_extra_is_of_the_same_version():
    needed = metadata.requires("dif-sr")
    version = metadata.version("dif-sr")
    assert f"dif-sr-train=={version} ; extra == 'train'" in [
        need.replace('"', "'").replace(";", " ;").replace("  ;", " ;") for need in needed
    ]
    assert {need.split(">")[0].split("[")[0] for need in needed if "extra" not in need} == {"numpy", "safetensors"}


def test_every_case_is_in_the_wheel_with_its_configuration():
    names = dif_sr.cases()
    assert {"gate", "concat", "sum", "gate_token", "bpr"} <= set(names)
    for name in names:
        case = dif_sr.Case(name)
        assert case.config["n_items"] == len(case.tensors["param.item_embedding.weight"])
        assert case.tensors["in.item_seq"].dtype == "int64" and case.stages[-1] == ("optimizer_steps", "optimizer steps")


def test_a_case_s_own_tensors_pass_and_a_part_of_them_is_incomplete():
    case = dif_sr.Case("gate")
    own = {key: value for key, value in case.tensors.items() if not key.startswith("in.")}
    assert dif_sr.judge(own, case).holds
    scores = {"out.scores": case.tensors["out.scores"]}
    report = dif_sr.judge(scores, "gate")
    assert not report.holds and report.stage is None and "incomplete" in str(report)
    assert dif_sr.judge(scores, "gate", require=["scores"]).holds
