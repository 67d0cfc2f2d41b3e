"""Quick checks of the peer: `PYTHONPATH=python/peer pytest python/peer/tests` from the repository root (about a minute)."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from dif_sr_peer import baseline_cases, case, config, data, faults, goldens, recbole_training, train
from dif_sr_peer.encoder import PortableDropout
from dif_sr_peer.model import Attribute, SASRecD

GOLDEN = Path(__file__).parents[3] / "golden"
BASELINES = Path(__file__).parents[3] / "fixtures" / "baselines"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.yaml"))
NOTEBOOK = {
    **{"n_layers": 4, "n_heads": 4, "hidden_size": 256, "inner_size": 256, "attribute_hidden_size": [256]},
    **{"MAX_ITEM_LIST_LENGTH": 7, "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.3, "hidden_act": "gelu"},
    **{"layer_norm_eps": 1e-12, "pooling_mode": "sum", "loss_type": "CE", "fusion_type": "gate", "lamdas": [10]},
    **{"attribute_predictor": "linear"},
}

torch.set_num_threads(1)


@pytest.mark.parametrize("name", CASES)
def test_a_model_case_is_recomputed(name):
    report = goldens.Report()
    goldens.model_case(report, GOLDEN / name, write=None)
    assert not report.failed


def test_there_are_15_model_cases():
    assert len(CASES) == 15


@pytest.mark.parametrize("name", baseline_cases.CASES)
def test_a_case_of_the_baselines_is_recomputed(name):
    report = goldens.Report()
    goldens.model_case(report, BASELINES / name, write=None)
    assert not report.failed


@pytest.mark.parametrize("name", ["metrics_single", "metrics_multi"])
def test_metrics_are_recbole_s(name):
    report = goldens.Report()
    goldens.metric_case(report, GOLDEN / f"{name}.json", write=None)
    assert not report.failed


def test_a_seeded_run_starts_as_the_golden_one():
    path = GOLDEN / "ml-100k_dropout.json"
    golden, options = json.loads(path.read_text()), config.load([path])
    loaded = data.load(options)
    assert loaded.train.sha256() == golden["train_sha256"]
    model = train.build(options, loaded)
    table = train.init_summary(model)[1]
    assert table["first"] == pytest.approx(golden["init_attribute_table"]["first"])
    run = train.train(options, loaded, model, max_batches=3)
    for ours, theirs in zip(run["batches"], golden["batches"]):
        assert ours["pos_first"] == theirs["pos_first"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        # The parts that the Amazon_Beauty golden keeps beside the total, by the attribute's name.
        assert ours["loss"] == pytest.approx(ours["item"] + options["lamdas"][0] * ours["class"], rel=1e-6)


PROGRAM = os.environ.get("DIF_SR", "target/debug/dif-sr")
SHORT = ["configs/ml-100k.yaml", "fixtures/verdict/short.yaml"]


def test_a_training_becomes_a_record_that_the_gate_judges(tmp_path, monkeypatch):
    out = tmp_path / "faulty.json"
    arguments = ["--seed=31", "--fault", "position_added_to_input", "--record", str(out)]
    monkeypatch.setattr("sys.argv", ["train", "--config", *SHORT, *arguments])
    train.main()
    gate = [PROGRAM, "gate", str(out), "--expect", "fixtures/verdict/ml-100k_short.yaml", "--json"]
    judged = subprocess.run(gate, capture_output=True, text=True)
    # The gate reads it, finds the same targets, and holds the metrics to the ranks.
    assert judged.returncode in (0, 1, 3), judged.stderr
    rows = json.loads(judged.stdout)["verdict"]["findings"][0]["rows"]
    assert [row["name"] for row in rows] == ["recall@20", "ndcg@20"]
    assert json.loads(out.read_text())["environment"]["fault"] == "position_added_to_input"


def test_recbole_s_own_training_becomes_a_record(tmp_path, monkeypatch):
    out = tmp_path / "recbole.json"
    arguments = ["configs/baselines/sasrec.yaml", "--epochs=1", "--record", str(out)]
    monkeypatch.setattr("sys.argv", ["recbole_training", "--config", *SHORT, *arguments])
    recbole_training.main()
    # The gate refuses other targets, and ranks that do not give RecBole's metrics.
    gate = [PROGRAM, "gate", str(out), "--expect", "fixtures/verdict/ml-100k_short.yaml"]
    judged = subprocess.run(gate, capture_output=True, text=True)
    assert judged.returncode in (0, 1, 3), judged.stderr
    assert json.loads(out.read_text())["epochs"] == 1


@pytest.mark.parametrize("trained", [False, True])
def test_a_fault_trains_what_it_says(trained):
    options = config.load(SHORT)
    splits = data.load(options)
    model = train.build(options, splits)
    (table,) = model.attribute_tables().values()
    before = table.detach().clone()
    if trained:
        faults.of(options)["attribute_table_trained"].plant(model)
    train.train(options, splits, model, max_batches=1)
    assert torch.equal(before, table) != trained


def test_the_module_tree_is_the_notebook_s():
    attribute = Attribute("categories", "token_seq", 355, torch.zeros(12102, 1, dtype=torch.long))
    model = SASRecD(NOTEBOOK, 12102, [attribute])
    assert train.trainable(model) == 5_827_683
    tree = str(model).splitlines()
    assert len(tree) == 146
    assert [line for line in tree if "DeTransformerLayer" in line] == [f"      ({k}): DeTransformerLayer(" for k in range(4)]
    assert "    (0): FeatureSeqEmbLayer()" in tree
    assert tree[-2:] == ["  (attribute_loss_fct): BCEWithLogitsLoss()", ")"]


def test_portable_dropout_draws_float64_and_nothing_when_off():
    x = torch.ones(4, 5)
    torch.manual_seed(3)
    dropped = PortableDropout(0.25)(x)
    torch.manual_seed(3)
    assert torch.equal(dropped, (torch.rand(4, 5, dtype=torch.float64) < 0.75).float() / 0.75)
    state = torch.get_rng_state()
    PortableDropout(0.0)(x)
    PortableDropout(0.25).eval()(x)
    assert torch.equal(state, torch.get_rng_state())


def test_max_pooling_is_chaotic_as_documented():
    """One unit in the last place of a parameter moves the golden gradients by far more than rounding."""
    folder = GOLDEN / "max_pooling"
    plain = case.compute(*case.build(folder)).tensors
    model, inputs, options = case.build(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "feed_forward" in name:
                parameter.copy_(torch.nextafter(parameter, parameter + 1))
    nudged = case.compute(model, inputs, options).tensors
    key = "grad.trm_encoder.layer.1.multi_head_attention.query_layers.0.bias"
    assert (nudged[key] - plain[key]).abs().max() > 1e-8 * plain[key].abs().max()
