"""The catalogue of faults and the tables of what they do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dif_sr_peer import case, faults, planted_faults, signatures
from dif_sr_peer.stages import judged

ROOT = Path(__file__).parents[3]
GOLDEN, CASES, CAUSES = ROOT / "golden", ROOT / "judge" / "cases", ROOT / "judge" / "causes"
NAMES = sorted(path.parent.name for path in CASES.glob("*/config.yaml"))

torch.set_num_threads(1)

FIRST = {
    "scale_by_attribute_head_size": "out.layer.0.attention_probs",
    "mask_before_fusion": "out.layer.0.fused_scores",
    "attribute_table_trained": "train.loss.2",
    "padding_row_zeroed": "param.item_embedding.weight",
    "position_added_to_input": "out.layer.0.fused_scores",
    "off_by_one_gather": "out.seq_output",
    "left_padding": "out.layer.0.fused_scores",
    "label_clipped_to_1": "out.loss.attribute.categories",
    "index_0_in_attribute_loss": "out.loss.attribute.categories",
    "tanh_gelu": "out.layer.0.output",
    "layer_norm_eps_1e_5": "out.layer.0.fused_scores",
    "gate_sigmoid": "out.layer.0.fused_scores",
    "values_with_position": "out.layer.0.attention_output",
    "final_norm": "out.seq_output",
    "item_loss_summed": "out.loss.item",
    "predictor_input_detached": "grad.LayerNorm.bias",
    "adamw": "train.loss.2",
}


@pytest.mark.parametrize("fault", FIRST)
def test_a_planted_fault_shows_first_where_it_was_planted(fault, tmp_path):
    dump = planted_faults.faulty_dump(GOLDEN / "gate", fault)
    dump.save(tmp_path / "dump.safetensors")
    golden = load_file(GOLDEN / "gate" / "tensors.safetensors")
    added = dump.tensors.keys() - golden.keys()
    assert load_file(tmp_path / "dump.safetensors").keys() == dump.tensors.keys()
    assert all("feature_embed_layer_list" in key for key in added) and bool(added) == (fault == "attribute_table_trained")
    assert planted_faults.compare(GOLDEN / "gate", dump)[0] == FIRST[fault]


def table(name):
    tensors, metadata = signatures.read(CAUSES / f"{name}.safetensors")
    return tensors, {key: json.loads(value) for key, value in metadata.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_fault_of_a_table_is_in_the_catalogue_with_one_sentence(name):
    tensors, metadata = table(name)
    listed = faults.of(case.configuration(CASES / name))
    ids = [identifier for entry in metadata["faults"] for identifier in (entry["id"], *entry.get("twins", ()))]
    assert len(ids) == len(set(ids)) and set(ids) <= listed.keys()
    for fault in listed.values():
        assert "\n" not in fault.text and "{" not in fault.text and not fault.text.endswith(".")
    assert tensors["single"].shape == (len(metadata["faults"]), len(metadata["keys"]), 3)
    assert tensors["pair"].shape == (len(tensors["pairs"]), len(metadata["pair_keys"]))
    assert tensors["single"].dtype == tensors["pair"].dtype == torch.float64
    assert tensors["pairs"].numel() == 0 or tensors["pairs"].max() < len(metadata["faults"])


@pytest.mark.parametrize("name", NAMES)
def test_a_table_s_golden_signatures_are_those_of_the_case_s_file(name):
    tensors, metadata = table(name)
    golden = load_file(CASES / name / "tensors.safetensors")
    golden |= {key.removeprefix("stage."): tensor for key, tensor in tensors.items() if key.startswith("stage.")}
    fusion = case.configuration(CASES / name)["fusion_type"]
    assert all(judged(key, name, fusion) for key in metadata["keys"])
    for row, key in zip(tensors["golden"], metadata["keys"]):
        close = pytest.approx(signatures.signature(golden[key]), rel=1e-7, abs=1e-9 * golden[key].numel() ** 0.5)
        assert row.tolist() == close, key


@pytest.mark.parametrize("fault", [*FIRST, "fusion_sum", "gate_without_position", "pre_norm", "sgd"])
def test_a_dump_agrees_with_its_fault_s_row_and_with_no_other(fault):
    tensors, metadata = table("gate")
    dump = planted_faults.faulty_dump(GOLDEN / "gate", fault, further=True).tensors
    found = torch.tensor([signatures.signature(dump.get(key)) for key in metadata["keys"]], dtype=torch.float64)
    bound = (1e-6 * found[:, 2:].nan_to_num(0.0) + 1e-9) * 30
    both_absent = found.isnan() & tensors["single"].isnan()
    agrees = ((tensors["single"] - found).abs() <= bound) | both_absent | tensors["unstable"].bool().unsqueeze(-1)
    rows = [entry["id"] for entry, row in zip(metadata["faults"], agrees) if bool(row.all())]
    assert rows == [fault]


def test_a_pair_of_a_table_is_recomputed():
    tensors, metadata = table("gate")
    own = signatures.Case(CASES / "gate")
    listed = faults.of(own.config)
    for row in range(0, len(tensors["pairs"]), 97):
        pair = [metadata["faults"][i]["id"] for i in tensors["pairs"][row].tolist()]
        dump = own.compute([listed[name] for name in pair], train=False).tensors
        for key, value in zip(metadata["pair_keys"], tensors["pair"][row].tolist()):
            assert signatures.project(0, dump[key]) == pytest.approx(value, rel=1e-6, abs=1e-7), (pair, key)


def test_the_projection_is_splitmix64_s():
    """By Python's own integers."""
    mask = 2**64 - 1

    def w(k, i):
        z = (k * 2**40 + i + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return ((z ^ z >> 31) >> 11) * 2.0**-53 * 2 - 1

    for k in (0, 1):
        assert signatures.weights(k, 50).tolist() == [w(k, i) for i in range(50)]


def test_every_fault_of_the_catalogue_shows_in_some_case():
    shown = {identifier for found in planted_faults.tables(CAUSES).values() for identifier in found}
    assert {identifier for name in NAMES for identifier in faults.of(case.configuration(CASES / name))} == shown


def test_the_page_of_faults_is_what_the_tables_say():
    assert (ROOT / "docs" / "faults.md").read_text() == planted_faults.markdown(CASES, CAUSES)


def test_a_misspelt_fault_is_answered_with_the_nearest():
    known = faults.of(case.configuration(GOLDEN / "gate"))
    assert faults.nearest("tanhgelu", known) == "did you mean tanh_gelu?"
