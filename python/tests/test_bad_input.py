"""Whatever is wrong with what is given is one sentence."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from dif_sr import Case, Error, Method, Output, check, judge, parametrize, recbole
from ports.glue import fused_port
from torch import nn


@pytest.fixture
def rec():
    return fused_port(Case("gate"))


def refused(run, *arguments, **keywords):
    with pytest.raises(Error) as error:
        run(*arguments, **keywords)
    assert error.value.__cause__ is None and (error.value.__context__ is None or error.value.__suppress_context__)
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text
    return text


def test_a_case_that_is_none_is_answered_with_the_nearest(rec):
    assert "expected a bundled case, found `gaet`; `gate`?" in refused(check, *rec, case="gaet")
    assert "gate" in refused(parametrize, fused_port, cases=["gate", "gat"])
    model, loss = rec
    assert refused(check, model, Case("gate"), loss).endswith("found a function: the order is model, loss, case")
    assert "config.yaml" in refused(Case, "/")


def test_a_model_that_is_no_module(rec):
    _, loss = rec
    assert refused(check, 42, loss) == "model: expected a torch.nn.Module or a dictionary of tensors, found a int"
    assert "found the class Linear: build it" in refused(check, nn.Linear, loss)
    assert "found none" in refused(check, nn.ReLU(), loss)
    assert "`meta`" in refused(check, nn.Linear(2, 3, device="meta"), loss)


def test_a_loss_that_is_no_single_number(rec):
    model, _ = rec
    assert "loss: expected a function" in refused(check, model, torch.zeros(()))
    assert "found a dict: return the total loss alone" in refused(check, model, lambda batch: {"loss": 1})
    assert "found the shape [3]: reduce it" in refused(check, model, lambda batch: torch.zeros(3))
    assert "without a gradient" in refused(check, model, lambda batch: torch.zeros(()))


def test_a_model_of_other_sizes(rec):
    small = nn.Linear(3, 1)
    assert "build it with the case's configuration" in refused(check, small, lambda batch: small(torch.ones(3)).sum())


def test_nan_is_a_departure_at_its_first_stage(rec):
    model, loss = rec
    fuse = model.blocks[1].attn.fuse
    model.blocks[1].attn.fuse = lambda streams: fuse(streams) * float("nan")
    with pytest.raises(AssertionError) as departs:
        check(model, loss, show=None)
    assert departs.value.report.stage in ("layer 1: fused scores", "layer 1: attention probabilities")
    assert "found NaN" in str(departs.value)


def test_maps_that_are_wrong(rec):
    model, loss = rec
    give = lambda parameters: refused(check, model, loss, parameters=parameters)
    assert "gate has no `item_embeding.weight`" in give({"item_embeding.weight": "wte.weight"})
    assert "the model has no tensor 'wtf.weight'" in give({"item_embedding.weight": "wtf.weight"})
    assert "expected a view of shape [40, 32], found [39, 32]" in give(
        {"item_embedding.weight": lambda own: own["wte.weight"][1:]}
    )
    computed = [lambda own: own * 1.0, lambda own: own * 2, lambda own: own + own, lambda own: own + 1]
    computed += [lambda own: own.abs(), lambda own: own + own.flip(0) - own.roll(1, 0)]
    for arithmetic in computed:
        told = give({"item_embedding.weight": lambda own, arithmetic=arithmetic: arithmetic(own["wte.weight"])})
        assert "slice, transpose or reshape alone" in told
    assert "`item_embedding.weight`: expected a name or a function, found a list" in give(
        {"item_embedding.weight": ["wte.weight"]}
    )
    stage = lambda key, stage: refused(check, model, loss, stages={key: stage}, show=None)
    assert "gate has no `out.layer.0.outptu`: is `out.layer.0.output` meant?" in stage(
        "out.layer.0.outptu", Output("blocks.0")
    )
    assert "the model has no module `block.0`" in stage("out.layer.0.output", Output("block.0"))
    assert "`blocks.0` has no method `fuze`" in stage("out.layer.0.output", Method("blocks.0", "fuze"))
    assert "never computed in this forward pass" in stage("out.layer.0.output", Method("", "state_dict"))
    assert "is `scores` meant?" in refused(check, model, loss, require=["score"], show=None)
    assert "expected a fault, a stage or a key to accept" in refused(
        check, model, loss, accept={"tanhgelu": "mine"}, show=None
    )
    assert "expected a reason" in refused(check, model, loss, accept={"scores": ""}, show=None)
    assert "scores: expected a tensor of shape [6, 40], found [1]" in refused(
        check, model, loss, scores=lambda b: torch.ones(1), show=None
    )


def test_dumps_that_are_none(tmp_path):
    path = tmp_path / "dump.safetensors"
    assert "cannot read the dump" in refused(judge, path)
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    assert f"{path}: expected a safetensors file, found" in refused(judge, path)
    assert "found `out.scoers`" in refused(judge, {"out.scoers": np.zeros((6, 40))})
    assert "expected shape [6, 40], found [40, 6]" in refused(judge, {"out.scores": np.zeros((40, 6))})
    assert "found float16" in refused(judge, {"out.scores": np.zeros((6, 40), np.float16)})
    assert "found bfloat16" in refused(judge, {"out.scores": torch.zeros(6, 40, dtype=torch.bfloat16)})
    assert "expected tensors named as in the case" in refused(judge, {})
    assert "expected tensors named as in the case" in refused(judge, {"mine": np.zeros(3)})


def test_a_class_that_is_none_of_recbole_s():
    assert "expected a class with calculate_loss and full_sort_predict" in refused(recbole, nn.Linear)
    assert "expected a function that builds a model" in refused(parametrize, 3, cases=["gate"])


def test_a_model_on_a_device_that_is_not_there_fails_in_its_own_words(rec):
    model, loss = rec
    with pytest.raises(Exception) as error:
        check(model, lambda batch: loss(batch) + torch.ones((), device="meta"), show=None)
    assert "meta" in str(error.value)


def test_without_pytorch_there_is_one_sentence():
    code = "import sys; sys.modules['torch'] = None; import dif_sr; print(dif_sr.cases()[0])\n"
    code += "try: dif_sr.check\nexcept dif_sr.Error as error: print(error)"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)  # not what lies here
    assert run.stdout.splitlines() == [
        "act_relu",
        "dif_sr.check needs PyTorch, and `import torch` finds none: install it (`pip install torch`)",
    ], run.stderr
