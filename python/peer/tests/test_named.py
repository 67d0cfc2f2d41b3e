"""How many faults the judge names, and whether any by a wrong name."""

import argparse
import json
from pathlib import Path

import pytest

from dif_sr_peer import named
from dif_sr_peer.stages import order

ROOT = Path(__file__).parents[3]
CASES, CAUSES = ROOT / "judge" / "cases", ROOT / "judge" / "causes"
JUDGE = ROOT / "target" / "debug" / "examples" / "against"

# Of every part of the model; the last of each pair differ by rounding alone.
FAULTS = ["tanh_gelu", "gate_sigmoid", "final_norm", "item_loss_summed", "values_detached", "amsgrad", "softmax_in_float32"]


@pytest.mark.parametrize("precision", named.TOLERANCES)
def test_a_planted_fault_is_found_at_its_stage_and_has_no_wrong_name(precision):
    arguments = argparse.Namespace(judge=JUDGE, cases=CASES, causes=CAUSES, fault=FAULTS)
    rows = [row for row in named.case_rows(arguments, "gate") if row["precision"] == precision]
    assert [row["dump"] for row in rows] == list(named.PARTS)
    for row in rows:
        assert row["right_stage"] == row["shown"] > 0
        assert row["misnamed"] == row["refused"] == 0
    assert rows[0]["named"] + rows[0]["among_others"] == rows[0]["shown"]


def test_the_counts_that_are_published_have_every_stage_right_and_no_wrong_name():
    rows = json.loads((CAUSES / "named.json").read_text())
    for row in rows:
        assert row["right_stage"] == row["shown"] and row["misnamed"] == 0, row
    of_tables = [row for row in rows if row["faults"] == "listed" and row["dump"] == "everything"]
    for precision in named.TOLERANCES:
        own = [row for row in of_tables if row["precision"] == precision]
        assert sum(row["unnamed"] for row in own) <= 0.05 * sum(row["shown"] for row in own)


def test_stages_are_in_the_order_of_the_computation():
    keys = ["out.loss.total", "after5.ap.0.weight", "out.input", "grad.ap.0.bias", "param.LayerNorm.bias", "out.scores"]
    keys += ["out.layer.1.output", "out.layer.0.fused_scores", "out.layer.0.stream_scores.item", "param.item_embedding.weight"]
    assert [named.stage(key) for key in sorted(keys, key=order)[2:]] == sorted(map(named.stage, keys))[2:]
    assert named.stage("train.loss.1") == named.stage("out.loss.item") < named.stage("train.loss.2")
