"""What `check` does with a model: finds its parameters, holds it, and leaves it as it was."""

import copy
import pickle

import pytest
import torch
from dif_sr import Case, Departs, Error, Method, check
from ports import functional, fused
from ports.glue import PORTS, fused_port, nested_port
from torch import nn


def rec(case):
    return fused_port(Case(case) if isinstance(case, str) else case)


def test_the_model_is_left_as_it_was():
    model, loss, options = nested_port(Case("gate"))
    model.eval()
    before = copy.deepcopy(model.state_dict())
    model.items.weight.grad = torch.ones_like(model.items.weight)
    check(model, loss, show=None, **options)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == torch.float32 for name, tensor in before.items())
    assert not model.training and torch.equal(model.items.weight.grad, torch.ones_like(model.items.weight))
    assert torch.get_default_dtype() == torch.float32


def test_the_model_is_left_as_it_was_when_its_loss_fails():
    model, _ = rec("gate")
    before = copy.deepcopy(model.state_dict())

    def loss(_batch):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        check(model, loss, show=None)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_departure_says_stage_element_and_values():
    model, loss = rec("gate")
    model.blocks[0].mlp[1] = nn.GELU("tanh")
    with pytest.raises(AssertionError) as departs:
        check(model, loss, show=None)
    text = str(departs.value)
    assert text.startswith("departs first at ") and str(pickle.loads(pickle.dumps(departs.value))) == text
    assert "departs first at layer 0: output (`out.layer.0.output` at [" in text and "expected" in text and "found" in text


def test_swapped_parameters_depart_and_never_pass():
    """A wrong assignment, given as a map: every pair of parameters of one shape that play different parts."""
    attention, feed_forward = "trm_encoder.layer.0.multi_head_attention", "trm_encoder.layer.0.feed_forward"
    c_attn = lambda k: lambda own: own["blocks.0.attn.c_attn.weight"][32 * k : 32 * k + 32]
    pairs = [
        {f"{attention}.query.weight": c_attn(1), f"{attention}.key.weight": c_attn(0)},
        {f"{attention}.query.weight": c_attn(2), f"{attention}.value.weight": c_attn(0)},
        {f"{attention}.value.weight": lambda own: c_attn(2)(own).T},
        {
            f"{attention}.LayerNorm.weight": "blocks.0.ln_2.weight",
            f"{feed_forward}.LayerNorm.weight": "blocks.0.ln_1.weight",
        },
        {
            "LayerNorm.weight": "blocks.1.ln_1.weight",
            "trm_encoder.layer.1.multi_head_attention.LayerNorm.weight": "ln_in.weight",
        },
        {
            f"{attention}.dense.weight": "blocks.1.attn.c_proj.weight",
            "trm_encoder.layer.1.multi_head_attention.dense.weight": "blocks.0.attn.c_proj.weight",
        },
    ]
    for swapped in pairs:
        model, loss = rec("gate")
        with pytest.raises(Departs):
            check(model, loss, parameters=swapped, show=None)


def test_a_map_and_a_stage_of_ones_own_are_taken():
    model, loss = rec("gate")
    own = {"trm_encoder.layer.0.multi_head_attention.query.weight": lambda own: own["blocks.0.attn.c_attn.weight"][:32]}
    where = {"out.layer.0.fused_scores": Method("blocks.0.attn", "fuse")}
    shown = []
    report = check(
        model, loss, parameters=own, stages=where, require=["complete", "layer.0.fused_scores"], show=shown.append
    )
    assert report.holds and any("blocks.*.attn.c_attn" in line for line in shown)
    with pytest.raises(Departs) as departs:
        check(model, loss, stages={"out.layer.0.fused_scores": Method("blocks.1.attn", "fuse")}, show=None)
    assert departs.value.report.stage == "layer 0: fused scores"


def test_a_deviation_can_be_accepted():
    model, loss = rec("gate")
    model.wse.requires_grad_(True)
    with pytest.raises(Departs):
        check(model, loss, show=None)
    report = check(model, loss, accept={"attribute_table_trained": "as in RecBole 1.2"}, show=None)
    assert report.holds and "as in RecBole 1.2" in str(report)


def test_rates_of_dropout_do_not_disturb_and_their_places_are_held():
    model, loss, options = nested_port(Case("gate"))
    report = check(model, loss, require=["complete", "dropout"], show=None, **options)
    assert "dropout_sites: 7 calls, as expected: pass" in str(report)
    model.norm = nn.Sequential(model.norm, nn.Dropout(0.2))
    with pytest.raises(Departs, match="dropout_sites: 8 calls"):
        check(model, loss, show=None, **options)


DROPPED = "self.drop(scores.masked_fill(unseen, -10000.0).softmax(dim=-1), self.rates.probabilities)"
WAYS = {
    "batch * heads, L, L": ("nested", DROPPED, DROPPED.replace("=-1)", "=-1).flatten(0, 1)") + ".view_as(scores)"),
    "batch, L, heads, L": ("nested", DROPPED, DROPPED.replace("=-1)", "=-1).transpose(1, 2)") + ".transpose(1, 2)"),
    "function of torch": ("nested", "F.dropout(x, rate, self.training)", "torch.dropout(x, rate, train=self.training)"),
    "argument by name": ("recbole_style", "self.dropout(self.LayerNorm(", "self.dropout(input=self.LayerNorm("),
}


@pytest.mark.parametrize("port, old, new", WAYS.values(), ids=list(WAYS))
def test_dropout_may_be_called_in_any_way_and_layout(port, old, new, changed):
    case = Case("gate")
    model, loss, options = changed(port, old, new).PORTS[port.removesuffix("_style")](case)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    report = check(model, loss, case, require=["complete", "dropout"], show=None, **options)
    assert "dropout_sites: 7 calls, as expected: pass" in str(report)


def test_dropout_at_another_place_departs(changed):
    inner = "self.down(self.drop(F.gelu(self.up(x)), self.rates.vectors))"
    glue = changed("nested", "self.drop(self.down(F.gelu(self.up(x))), self.rates.vectors)", inner)
    model, loss, options = glue.PORTS["nested"](Case("gate"))
    with pytest.raises(Departs, match=r"dropout_sites: 0.5 of \[6, 7, 48\], expected \[6, 4, 7, 7\] or \[6, 7, 32\]"):
        check(model, loss, show=None, **options)


def test_initial_values_are_held_if_asked_for():
    model, loss, options = PORTS["recbole"](Case("gate"))
    check(model, loss, require=["complete", "initial_values"], show=None, **options)
    with torch.no_grad():
        model.item_embedding.weight.normal_(0, 1)
    with pytest.raises(Departs, match="init.item_embedding.weight: mean .* deviation .* expected 0 and 0.02: departs"):
        check(model, loss, require=["complete", "initial_values"], show=None, **options)


def test_a_model_that_draws_something_is_told():
    model, loss = rec("gate")
    noisy = lambda batch: loss(batch) + 1e-3 * torch.rand(())
    with pytest.raises(Departs, match="determinism: two passes differ"):
        check(model, noisy, show=None)


def test_a_model_that_computes_in_float32_alone_is_held_in_float32():
    class Single(nn.Module):
        def __init__(self, case):
            super().__init__()
            self.inner, self.inner_loss = rec(case)

        def loss(self, batch):
            last = self.inner.encode(batch.item_seq, batch.item_seq_len).float()
            rows = last @ torch.eye(32, dtype=torch.float32)
            return self.inner_loss(batch) + 0 * rows.sum().to(self.inner.wte.weight.dtype)

    model, shown = Single(Case("gate")), []
    assert "held to gate in float32" in str(check(model, model.loss, show=shown.append))
    assert "does not compute in float64" in shown[0]

    class Stubborn(Single):
        def loss(self, batch):
            torch.ones(2, 7, dtype=torch.float32) @ self.inner.wpe.weight
            return self.inner_loss(batch)

    model = Stubborn(Case("gate"))
    assert "held to gate in float32" in str(check(model, model.loss, show=None))
    with pytest.raises(RuntimeError):
        check(model, model.loss, dtype=torch.float64, show=None)


def test_scores_that_the_loss_does_not_compute_are_asked_for_and_given():
    model, loss, options = PORTS["recbole"](Case("bpr"))
    with pytest.raises(Departs, match="missing: item scores|scores \\(`out.scores`\\)"):
        check(model, loss, "bpr", show=None)
    assert check(model, loss, "bpr", show=None, **options).holds


def test_tied_parameters_are_one():
    model, loss = rec("gate")
    model.decoder = nn.Linear(32, 40, bias=False)
    model.decoder.weight = model.wte.weight
    assert check(model, loss, show=None).holds


def test_a_module_of_flax_style_functions_is_held_as_a_dictionary():
    case = Case("sum")
    p = {name: nn.Parameter(torch.randn(shape)) for name, shape in functional.shapes(case.config).items()}
    table = torch.randn(12, 16)
    loss = lambda batch: functional.losses(case.config, p, {"categories": table}, batch.item_feat, batch)["total"]
    assert check({"p": p, "table": table}, loss, case, show=None).holds


def test_an_optimizer_of_ones_own_is_held():
    model, loss = rec("gate")
    with pytest.raises(Departs, match="SGD, expected Adam"):
        check(model, loss, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.001), show=None)
    with pytest.raises(Error, match="optimizer: expected a function of the parameters"):
        check(model, loss, optimizer=lambda parameters: None, show=None)


def test_what_was_mapped_is_printed(capsys):
    check(*rec("gate"))
    printed = capsys.readouterr().out
    assert "item_embedding.*" in printed and "wte.*" in printed and "stages found by their values" in printed
    assert printed.endswith("\npass: every tensor of the dump is within tolerance\n") and fused.__name__ not in printed
