"""Dumps of a case by the peer with a fault planted in it.

    python -m dif_sr_peer.planted_faults CASE_DIR FAULT OUT.safetensors [--further]   # the faulty peer's dump
    python -m dif_sr_peer.planted_faults --list CASE_DIR                              # the faults of the catalogue
    python -m dif_sr_peer.planted_faults --markdown docs/faults.md                    # the page of them, from the tables

A fault that a case cannot show (a tanh-GELU where the activation is ReLU) leaves a dump within tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from . import case, faults
from .config import stop
from .stages import first_departure, order

COUNTED = ("shown", "right_stage", "named", "among_others", "unnamed", "misnamed")  # by `named`
STAGES = {
    "param": "Parameters",
    "out.input": "Input of the encoder",
    "out.pooled": "Pooled attributes",
    "stream_scores": "Scores of each stream",
    "fused_scores": "Fused scores",
    "attention_probs": "Attention probabilities",
    "attention_output": "Attention output",
    "output": "Layer output",
    "out.seq_output": "Sequence output",
    "out.scores": "Item scores",
    "out.loss": "Losses",
    "grad": "Gradients",
    "train": "Optimizer steps",
    "after5": "Optimizer steps",
}


def faulty_dump(case_dir, fault, further=False):
    model, inputs, config = case.build(case_dir)
    faults.of(config)[fault].plant(model)
    return case.compute(model, inputs, config, further=further)


def compare(case_dir, dump):
    golden = load_file(case_dir / "tensors.safetensors")
    fusion = case.configuration(case_dir)["fusion_type"]
    return first_departure(dump.tensors, golden, fusion, case_dir.name)


def stage(key):
    """The heading of a key."""
    parts = key.split(".")
    name = parts[3] if parts[:2] == ["out", "layer"] else ".".join(parts[:2]) if parts[0] == "out" else parts[0]
    return STAGES[name]


def tables(causes):
    """case -> fault id -> first key that shows it, as the tables of causes hold it."""
    found = {}
    for path in sorted(causes.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            entries = json.loads(file.metadata()["faults"])
        found[path.stem] = {name: e["first_stage"] for e in entries for name in (e["id"], *e.get("twins", ()))}
    return found


def shown_in(cases, every):
    hidden = [name for name in every if name not in cases]
    if not hidden:
        return "all"
    named = lambda names: ", ".join(f"`{name}`" for name in names)
    return named(cases) if len(cases) <= len(hidden) else f"all but {named(hidden)}"


def shares(rows):
    """How many faults the judge names: counts of `named`, summed over the cases."""
    cases = sorted({row["case"] for row in rows})
    total = {}
    for row in rows:
        counts = total.setdefault((row["faults"], row["dump"], row["precision"]), dict.fromkeys(COUNTED, 0))
        for name in COUNTED:
            counts[name] += row[name]
    title = {"listed": "of the table", "others": "not of the table"}
    table = [
        f"| {title[kind]} | {dump} | {precision} | {counts['shown']} | "
        + " | ".join(f"{counts[name]} ({100 * counts[name] / max(counts['shown'], 1):.1f} %)" for name in COUNTED[1:-1])
        + f" | {counts['misnamed']} |"
        for (kind, dump, precision), counts in sorted(total.items(), key=lambda item: (item[0][0], item[0][2]))
    ]
    return [
        "## How many it names",
        "",
        f"Every fault is planted in {' and '.join(f'`{name}`' for name in cases)}, and beside them pairs and magnitudes that no",
        "table holds. The judge gets all that the peer computes, the forward pass alone, or the training alone. n counts the dumps that",
        "show the fault. *Named among others*: the report lists the few faults that this dump cannot tell apart, and what to dump",
        "next. *Not named*: the report says only what the numbers say, or that a fault of the table is close and another size of",
        "it may be closer. For faults outside of the table, *named* means one of the pair.",
        "Counted by `python -m dif_sr_peer.named`.",
        "",
        "| faults | dump | precision | n | right stage | named | named among others | not named | wrong name |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *table,
        "",
    ]


def markdown(cases_dir, causes):
    """The page of all faults by the stage that shows them first."""
    found = tables(causes)
    every = sorted(found, key=lambda name: (name != "gate", name))
    listed, rows = {}, {}
    for name in every:
        for fault in faults.of(case.configuration(cases_dir / name)).values():
            if fault.id in found[name]:
                listed.setdefault(fault.id, (fault.text, found[name][fault.id]))
    for identifier, (text, key) in sorted(listed.items(), key=lambda item: order(item[1][1])):
        cases = [name for name in every if identifier in found[name]]
        rows.setdefault(stage(key), []).append(f"| `{identifier}` | {text} | {shown_in(cases, every)} |")
    page = [
        "# Faults that the judge knows by name",
        "",
        f"{len(listed)} ways to get DIF-SR wrong, by the stage that shows them first in `gate`, or else in the first case that",
        "shows them. The [PyTorch peer](../python/peer/README.md) plants each of them in every bundled case, and",
        "[the tables](../judge/causes/README.md) keep what comes out. `python -m dif_sr_peer.planted_faults --markdown",
        "docs/faults.md` writes this page from the tables.",
        "",
        *shares(json.loads((causes / "named.json").read_text())),
    ]
    for heading in dict.fromkeys(STAGES.values()):
        if heading in rows:
            page += [f"## {heading}", "", "| fault | what is wrong | shows in |", "| --- | --- | --- |", *rows[heading], ""]
    return "\n".join(page)


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.planted_faults", description=__doc__.splitlines()[0])
    parser.add_argument("case_dir", nargs="?", type=Path)
    parser.add_argument("fault", nargs="?", metavar="fault")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--further", action="store_true", help="with the stages that the case itself does not hold")
    parser.add_argument("--list", type=Path, metavar="CASE_DIR", help="print the faults that the case's configuration can have")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the page of all faults from the tables")
    parser.add_argument("--cases", type=Path, default=Path("judge/cases"), help="for --markdown: folder of the bundled cases")
    parser.add_argument("--causes", type=Path, default=Path("judge/causes"), help="for --markdown: folder of the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(arguments.cases, arguments.causes))
        return
    if arguments.list:
        for fault in faults.of(case.configuration(arguments.list)).values():
            print(f"{fault.id:36} {fault.text}")
        return
    if not arguments.out:
        parser.error("CASE_DIR FAULT OUT.safetensors, or --list CASE_DIR, or --markdown OUT")
    known = faults.of(case.configuration(arguments.case_dir))
    if arguments.fault not in known:
        stop(f"{arguments.fault}: no fault of this case; {faults.nearest(arguments.fault, known)}")
    dump = faulty_dump(arguments.case_dir, arguments.fault, arguments.further)
    dump.save(arguments.out)
    key, error = compare(arguments.case_dir, dump)
    if key:
        print(f"{arguments.out}: {arguments.fault} shows first in {key} ({error:.1e})")
    else:
        print(f"{arguments.out}: no tensor departs from this case by {arguments.fault}", file=sys.stderr)


if __name__ == "__main__":
    main()
