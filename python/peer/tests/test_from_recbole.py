"""Conversion of RecBole's files: the parameters are taken over, and nothing in the file runs."""

import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dif_sr_peer.from_recbole import Refused, convert
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROGRAM = os.environ.get("DIF_SR", "target/debug/dif-sr")
ML_100K = ["--config_files", "configs/ml-100k.yaml", "--threads=1", "--n_layers=1", "--epochs=1", "--train_batch_size=8192"]


class Touch:
    """What a hostile file would hold: unpickled by Python, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Config:
    """As RecBole's: attributes of every kind, with a class that is not there when the file is read."""

    def __init__(self) -> None:
        self.final_config_dict = {"seed": 212, "device": torch.device("cpu"), "numbers": np.arange(3)}
        self.sets = ({1, 2}, frozenset({3}), [self], "text".encode())


def state(**more) -> dict:
    parameters = {
        "item_embedding.weight": torch.randn(5, 4),
        "a.view": torch.randn(6, 4).t()[1:3],
        "a.parameter": torch.nn.Parameter(torch.randn(3)),
        "counts": torch.arange(4),
    }
    return {"config": Config(), "epoch": 7, "state_dict": parameters, "optimizer": {"state": [torch.ones(2)]}, **more}


def test_parameters_are_taken_over_and_nothing_runs(tmp_path):
    saved = state(other_parameter=Touch(tmp_path / "touched"))
    torch.save(saved, tmp_path / "model.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "model.pth", weights_only=True)
    convert(tmp_path / "model.pth", tmp_path / "model.safetensors")
    assert not (tmp_path / "touched").exists()
    converted = load_file(tmp_path / "model.safetensors")
    assert converted.keys() == saved["state_dict"].keys()
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(converted[name], tensor.detach()), name
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "touched").exists(), "the file was hostile indeed"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_become_float32_without_a_change(dtype, tmp_path):
    numbers = torch.cat([torch.randn(20), torch.tensor([0.0, -0.0, float("inf"), 1e-7, 65504.0])]).to(dtype)
    torch.save(state(state_dict={"a": numbers, "b.view": numbers[:24].reshape(6, 4).t()[1:3]}), tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.safetensors")
    converted = load_file(tmp_path / "model.safetensors")
    assert torch.equal(converted["a"], numbers.float()) and converted["a"].dtype == torch.float32
    assert torch.equal(converted["b.view"], numbers[:24].reshape(6, 4).t()[1:3].float())


def test_what_cannot_be_converted_is_told_in_a_sentence(tmp_path):
    (tmp_path / "text.pth").write_text("no archive")
    with pytest.raises(Refused, match="expected a file that PyTorch 1.6 or newer saved"):
        convert(tmp_path / "text.pth", tmp_path / "out")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(Refused, match="expected RecBole's dictionary with a `state_dict`"):
        convert(tmp_path / "empty.pth", tmp_path / "out")
    torch.save({"state_dict": {"a": Config()}}, tmp_path / "object.pth")
    with pytest.raises(Refused, match="expected tensors in `state_dict`, found a"):
        convert(tmp_path / "object.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("mine")
    torch.save(state(), tmp_path / "model.pth")
    with pytest.raises(Refused, match="expected no file, found one"):
        convert(tmp_path / "model.pth", tmp_path / "out")


def dif_sr(*arguments: str) -> str:
    run = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training of ml-100k by `dif-sr`."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    dif_sr("train", f"--out={folder}", *ML_100K)
    return folder


def test_a_checkpoint_opens_under_recbole_s_names_and_comes_back_from_a_pth(run, tmp_path):
    with safe_open(run / "best.safetensors", "pt") as file:
        names = {name for name in file.keys() if not name.startswith(("item_feat.", "feature_embed_layer_list."))}
    tensors = load_file(run / "best.safetensors")
    assert {"item_embedding.weight", "trm_encoder.layer.0.multi_head_attention.query.weight", "LayerNorm.bias"} <= names
    torch.save(state(state_dict={name: tensors[name] for name in names}), tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "model.safetensors")
    dif_sr("import", str(tmp_path / "model.safetensors"), f"--out={tmp_path / 'back.safetensors'}", *ML_100K)
    back = load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items()), "the attribute tables too"
    assert back.keys() == tensors.keys()
    halves = {name: tensors[name].half() for name in names}
    save_file(halves, tmp_path / "half.safetensors")
    dif_sr("import", str(tmp_path / "half.safetensors"), f"--out={tmp_path / 'of_half.safetensors'}", *ML_100K)
    of_half = load_file(tmp_path / "of_half.safetensors")
    assert all(torch.equal(of_half[name], half.float()) for name, half in halves.items())
    tensors["unknown"] = torch.zeros(1)
    save_file(tensors, tmp_path / "unknown.safetensors")
    arguments = [PROGRAM, "import", str(tmp_path / "unknown.safetensors"), f"--out={tmp_path / 'no.safetensors'}", *ML_100K]
    refused = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "`unknown`" in refused.stderr and not (tmp_path / "no.safetensors").exists()


def test_tensorboard_reads_the_events(run):
    events = EventAccumulator(str(run)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/total", "loss/item", "loss/class", "valid/recall@10", "seconds/epoch"} <= tags
    import json

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (loss,) = events.Scalars("loss/total")
    assert loss.step == 0 and loss.value == np.float32(lines[0]["train_loss"])
    (recall,) = events.Scalars("valid/recall@10")
    assert recall.value == np.float32(lines[1]["valid"]["recall@10"])
