"""Ports in six styles hold the cases, with a few lines of glue and no map; a fault in any of them comes out."""

import inspect
import re
from pathlib import Path

import pytest
from dif_sr import Case, Departs, check
from ports.glue import PORTS

CASES = ("gate", "concat", "sum", "gate_two_attributes", "concat_two_attributes", "gate_token")
README = Path(__file__).parents[1] / "README.md"


def held(build, case, **options):
    model, loss, *more = build(case)
    return check(model, loss, case, **{**(more[0] if more else {}), **options})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("port", PORTS)
def test_a_port_holds_the_case(port, name):
    case, shown = Case(name), []
    report = held(PORTS[port], case, show=shown.append, require=["complete", "layer.1.output", "seq_output"])
    text = "\n".join(shown)
    total = len(case.part("param."))
    assert f"{total} of {total} parameters found" in text
    assert "not found in the model" not in text and "by their role" not in text, text
    assert report.holds


def glue_lines(port):
    """The lines of the function's body; a class that `recbole` is given needs none."""
    source = inspect.getsource(PORTS[port]).splitlines()
    return 0 if PORTS[port].__module__ != "ports.glue" else len(source) - 1


def test_glue_is_at_most_five_lines_and_the_table_counts_them():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|", README.read_text(), re.MULTILINE)
    assert {name: int(lines) for name, lines in rows} == {name: glue_lines(name) for name in PORTS}
    assert all(glue_lines(name) <= 5 for name in PORTS)


# port, what is changed, into what, the stage that departs first, and the fault's name in the tables of causes
FAULTS = [
    ("fused", "nn.GELU()", 'nn.GELU("tanh")', "layer 0: output", "tanh_gelu"),
    ("fused", "requires_grad=False", "requires_grad=True", "optimizer steps", "attribute_table_trained"),
    ("fused", "nn.LayerNorm(n, 1e-12), nn.ModuleList", "nn.LayerNorm(n, 1e-5), nn.ModuleList", "encoder input", None),
    (
        "fused",
        "(self.n_embd // self.n_head) ** -0.5",
        "self.n_embd ** -0.5",
        "layer 0: attention probabilities",
        "scale_by_hidden_size",
    ),
    # In this case it is one fault with another, under whose name the table has both.
    (
        "fused",
        "(self.n_embd // self.n_head) ** -0.5",
        "self.n_head ** -0.5",
        "layer 0: attention probabilities",
        "scale_by_number_of_heads",
    ),
    ("fused", "lengths - 1]", "lengths - 2]", "sequence output", None),
    ("fused", "* (ids > 0).unsqueeze(-1)", "", "pooled attributes", None),
    ("encoder", "nn.functional.gelu(self", "nn.functional.relu(self", "layer 0: output", "activation_relu"),
    ("encoder", "value.shape[-1] ** 0.5", "value.shape[-1]", "layer 0: attention probabilities", None),
    (
        "encoder",
        'hidden_states = self.embeddings["LayerNorm"](words(input_ids))',
        'hidden_states = self.embeddings["LayerNorm"](words(input_ids) + positions)',
        "encoder input",
        "position_added_to_input",
    ),
    ("encoder", "each[:, 1:].mean()", "each.mean()", "losses", "index_0_in_attribute_loss"),
    ("functional", "torch.softmax(energy, dim=2)", "torch.sigmoid(energy)", "layer 0: fused scores", "gate_sigmoid"),
    ("functional", "x = norm(x + gelu", "x = norm(gelu", "layer 0: output", None),
    ("functional", ".where(seen, -1e4)", "", "layer 0: attention probabilities", None),
    ("functional", "lamda * found", "found", "losses", None),
    ("nested", "self.norm(self.items(sequences))", "self.items(sequences)", "layer 0: scores of each stream", None),
    ("nested", "self.norm_attention(x + self.drop(", "self.norm_attention(self.drop(", "layer 0: attention output", None),
    (
        "nested",
        'inputs = {**sides, "item": x, "place": places}',
        'inputs = {**sides, "item": x, "place": places}; x = x + places',
        "layer 0: attention output",
        None,
    ),
    ("nested", "torch.optim.Adam(", "torch.optim.AdamW(", "optimizer steps", "adamw"),
    ("flat", "blocked * -1e4", "(sequences == 0)[:, None, None] * -1e4", "layer 0: attention probabilities", None),
    ("flat", 'F.embedding(sequences, p["items"], padding_idx=0)', 'F.embedding(sequences, p["items"])', "gradients", None),
    ("flat", 'c["lamdas"])):', "[1] * 9)):", "losses", None),
    ("flat", "energies.softmax(dim=0)", "energies.softmax(dim=-1)", "layer 0: fused scores", None),
    (
        "recbole_style",
        "/ math.sqrt(value.shape[-1]) + mask",
        "/ math.sqrt(value.shape[-1])",
        "layer 0: attention probabilities",
        None,
    ),
    (
        "recbole_style",
        "self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)",
        "self.item_embedding = nn.Embedding(self.n_items, size)",
        "gradients",
        None,
    ),
    ("recbole_style", "self.dense(context)) + x", "self.dense(context))", "layer 0: attention output", None),
    ("recbole_style", "item_seq_len - 1", "item_seq_len * 0", "sequence output", "output_at_start"),
]


@pytest.mark.parametrize("port, old, new, stage, fault", FAULTS, ids=[f"{f[0]}-{i}" for i, f in enumerate(FAULTS)])
def test_a_fault_in_a_port_departs_at_its_stage(port, old, new, stage, fault, changed):
    glue = changed(port, old, new)
    name = "recbole" if port == "recbole_style" else port
    with pytest.raises(Departs) as departs:
        held(glue.PORTS[name], Case("gate"))
    report = departs.value.report
    assert report.stage == stage, str(report)
    assert fault is None or fault in report.faults, str(report)
