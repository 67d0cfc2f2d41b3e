"""The ports agree with the cases."""

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dif_sr_peer import case
from dif_sr_peer.goldens import null_gradient
from dif_sr_peer.stages import allowed

CASES = Path(__file__).parents[3] / "judge" / "cases"
PORTS = ("fused", "encoder", "functional")

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["gate", "concat", "sum", "gate_two_attributes", "gate_token"])
@pytest.mark.parametrize("port", PORTS)
def test_a_port_holds_the_case(port, name):
    dump = importlib.import_module(f"ports.{port}_glue").dump(CASES / name)
    golden = load_file(CASES / name / "tensors.safetensors")
    fusion = case.configuration(CASES / name)["fusion_type"]
    missing = {key for key in golden if not key.startswith("in.")} - dump.tensors.keys()
    assert missing <= {"out.scores"}
    for key in golden.keys() & dump.tensors.keys():
        if null_gradient(key, fusion) and not key.startswith("param."):
            continue
        error = (dump.tensors[key] - golden[key]).abs().max().item()
        assert error <= allowed(key, golden[key], float32_labels=True), key
