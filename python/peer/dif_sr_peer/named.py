"""Judges the peer with every fault planted in it, and counts what is said: the shares that docs/faults.md shows.

    cargo build -p dif-sr-judge --example against
    python -m dif_sr_peer.named --judge target/debug/examples/against [--case NAME...] [--fault ID...]

For each bundled case the peer computes in float64 and in float32, with each fault of the catalogue, and with some that no
table holds: pairs, and other magnitudes. Of each dump the judge gets all, the forward pass alone, and the training alone.
Where a dump departs first is found here, from the tensors; whether the judge names the fault is read from its report.
Writes judge/causes/named.json, from which `planted_faults --markdown` makes the page. Exit code 1: a fault is misnamed.
"""

import argparse
import copy
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import case, faults
from .faults.layers import blocks, norms, residual
from .faults.registry import attentions, everywhere, feed_forwards, learned_fusion, predictor, replace
from .faults.scores import stream
from .faults.training import optimizer
from .goldens import FLOAT64, null_gradient
from .signatures import read
from .stages import AFTER_FLOAT32_LABELS, IN_LAYER

TOLERANCES = {"float64": FLOAT64, "float32": (2e-4, 1e-6)}  # of the golden README
PARTS = {"everything": ("",), "`out.*` alone": ("out.",), "`train.loss.*` and `after5.*` alone": ("train.loss.", "after5.")}
AFTER_LABELS = ("out.loss.total", "train.", "grad.", "after5.")
NOISE = 10.0  # times what rounding alone moves, where that is more than a tolerance
COUNTS = ("shown", "right_stage", "named", "among_others", "unnamed", "misnamed", "refused")
PAIRS = 16
AT_ONCE = 40


def stage(key):
    """The place of a key's stage in the computation."""
    parts = key.split(".")
    if parts[0] == "param":
        return (0, not parts[1].startswith(("item_embedding", "position_embedding", "feature_embed_layer")))
    if parts[:2] == ["out", "layer"]:
        return (3, int(parts[2]), IN_LAYER.index(parts[3]))
    if key == "train.loss.1":
        return (6,)
    of_pass = {"input": (1,), "pooled": (2,), "seq_output": (4,), "scores": (5,), "loss": (6,)}
    return of_pass[parts[1]] if parts[0] == "out" else (7,) if parts[0] == "grad" else (8,)


def magnitudes(c):
    """Faults of kinds that the catalogue has, of sizes that it has not."""

    def settings(kind=torch.optim.Adam, **chosen):
        return optimizer(lambda model, parameters, lr: kind(parameters, **({"lr": lr} | chosen)))

    def eps(value):
        return lambda model: [setattr(module, "eps", value) for module in norms(model)]

    def scale(factor):
        return everywhere(attentions, "scale", lambda original: factor * original())

    def clipped(norm):
        def make(model, parameters, lr):
            adam = torch.optim.Adam(parameters, lr=lr)
            adam.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(parameters, norm) and None)
            return adam

        return optimizer(make)

    planted = {
        **{f"eps {value:g}": eps(value) for value in (3e-4, 2e-5, 3e-6)},
        # In a sum of three streams, three times the scale is their mean, which the table has.
        **{f"scale times {factor}": scale(factor) for factor in (1.1, 3.0 if learned_fusion(c) else 2.5)},
        **{f"{name} scores times 1.5": stream([name], lambda scores: 1.5 * scores) for name in ("item", "position", "attribute")},
        "x σ(1.6 x)": everywhere(feed_forwards, "activation", lambda _, x: x * torch.sigmoid(1.6 * x)),
        "half a residual": residual(blocks, lambda block, hidden, x: block.LayerNorm(hidden + x / 2)),
        "item scores times 0.8": lambda model: replace(model, "full_sort_scores", lambda original, x: 0.8 * original(x)),
        **{f"learning rate {lr:g}": settings(lr=lr) for lr in (7e-4, 1.3e-3)},
        "betas 0.9, 0.97": settings(betas=(0.9, 0.97)),
        "betas 0.7, 0.999": settings(betas=(0.7, 0.999)),
        "Adam's eps 3e-6": settings(eps=3e-6),
        "L2 0.05": settings(weight_decay=0.05),
        "AdamW 0.003": settings(torch.optim.AdamW, weight_decay=0.003),
        "clipped to 2": clipped(2.0),
    }
    if predictor(c):
        planted["lamdas times 1.5"] = lambda model: setattr(model, "lamdas", [1.5 * lamda for lamda in model.lamdas])
    return [((name,), (faults.Fault(name, "", plant, name),)) for name, plant in planted.items()]


def pairs(listed, metadata, tensors):
    """Pairs of common faults that the table does not hold."""
    entries = [[entry["id"], *entry.get("twins", ())] for entry in json.loads(metadata["faults"])]
    held = {
        frozenset(ids) for a, b in tensors["pairs"].tolist() for ids in itertools.product(entries[a], entries[b])
    }
    common = [fault for fault in listed.values() if fault.common and any(fault.id in ids for ids in entries)]
    free = [
        (a, b)
        for a, b in itertools.combinations(common, 2)
        if a.family != b.family and frozenset((a.id, b.id)) not in held
    ]
    return [((a.id, b.id), (a, b)) for a, b in random.Random(212).sample(free, min(PAIRS, len(free)))]


class Held:
    """A case in one precision: dumps of it, and where they depart."""

    def __init__(self, folder, precision, table, noise):
        self.folder, self.precision, self.noise = folder, precision, noise
        self.model, self.inputs, self.config = case.build(folder)
        if precision == "float32":
            self.model.float()
        stages = {key.removeprefix("stage."): tensor for key, tensor in table.items() if key.startswith("stage.")}
        self.golden = load_file(folder / "tensors.safetensors") | stages
        self.left_out = None
        if self.config["pooling_mode"] == "max" and any(a["type"] == "token_seq" for a in self.config["attributes"]):
            self.left_out = self.inputs["item_seq"] == 0  # [B, L]: padded queries, which see equal keys

    def dump(self, planted):
        model = copy.deepcopy(self.model)
        for fault in planted:
            fault.plant(model)
        return case.compute(model, self.inputs, self.config, further=True)

    def departs(self, key, tensor):
        golden = self.golden[key]
        if tensor.shape != golden.shape:
            return True
        if null_gradient(key, self.config["fusion_type"]) and not key.startswith("param."):
            if key.startswith("after5."):
                return False
            golden = torch.zeros_like(golden)
        rtol, atol = TOLERANCES[self.precision]
        if predictor(self.config) and key.startswith(AFTER_LABELS):
            rtol = max(rtol, AFTER_FLOAT32_LABELS)
        difference = torch.where(tensor == golden, 0.0, (tensor.double() - golden).abs())
        if self.left_out is not None and key.startswith("out.layer."):
            rows = self.left_out if tensor.dim() == 3 else self.left_out.unsqueeze(1).expand(tensor.shape[:3])
            difference = torch.where(rows.unsqueeze(-1), 0.0, difference)
        return not difference.max().item() <= rtol * golden.abs().max().item() + atol + NOISE * self.noise.get(key, 0.0)

    def first(self, dump, starts):
        """The first stage that departs, of the keys that begin so."""
        tensors = dict(dump.tensors)
        for name in dump.metadata["missing_gradients"]:
            if f"grad.{name}" in self.golden:
                tensors[f"grad.{name}"] = torch.zeros_like(self.golden[f"grad.{name}"])
        keys = [key for key in tensors if key in self.golden and key.startswith(starts)]
        return min((stage(key) for key in keys if self.departs(key, tensors[key])), default=None)


def of_report(report, ids, first, listed):
    """-> what is counted of one dump, and the names in the report."""
    if "error" in report:
        return ["refused"], report["error"]
    departure = report["departure"]
    if departure is None and first is None:
        return [], ""
    found = stage(departure["tensor"]["name"]) if departure else None
    counted = ["shown"] + ["right_stage"] * (found == first)
    cause = (departure or {}).get("cause", {}).get("reproduced")
    if cause is None:
        return counted + ["unnamed"], ""
    named = [[{one["id"], *one.get("twins", ())} for one in together] for together in cause["alternatives"]]
    right = [all(one & set(ids) for one in together) for together in named]
    names = " | ".join("+".join(sorted(one)[0] for one in together) for together in named)
    if listed:
        right = [fits and len(together) == 1 for fits, together in zip(right, named)]
    if cause.get("nearly") and not listed:
        return counted + ["unnamed"], f"nearly {names}"
    # In float32 the report says that what follows may be rounding.
    more = listed and cause["unexplained_from"] and report["precision"] == "float64"
    if not any(right) or more:
        return counted + ["misnamed"], f"{names}; unexplained from {cause['unexplained_from']}"
    return counted + ["named" if len(named) == 1 else "among_others"], names


def judged(program, paths, case_dir):
    """The reports on dumps, in their order."""
    run = subprocess.run([program, "--json", *paths, str(case_dir)], capture_output=True, text=True)
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    if len(reports) != len(paths):
        raise RuntimeError(f"{program}: {len(reports)} reports on {len(paths)} dumps: {run.stderr}")
    return reports


def hold(held, planted, listed, program, scratch):
    """-> part of a dump -> counts, of all that is planted: [(ids, faults)]."""
    rows = {part: dict.fromkeys(COUNTS, 0) for part in PARTS}
    for start in range(0, len(planted), AT_ONCE):
        waiting = []
        for i, (ids, together) in enumerate(planted[start : start + AT_ONCE]):
            try:
                dump = held.dump(together)
            except (RuntimeError, AttributeError, KeyError, TypeError) as problem:
                # Of a pair one takes away what the other changes; a fault alone must run.
                if listed:
                    raise RuntimeError(f"{ids}: {problem}") from problem
                continue
            for number, (part, starts) in enumerate(PARTS.items()):
                path = f"{scratch}/{i}-{number}.safetensors"
                tensors = {key: tensor for key, tensor in dump.tensors.items() if key.startswith(starts)}
                whole = {key: json.dumps(value) for key, value in dump.metadata.items()} if starts == ("",) else {}
                save_file(tensors, path, whole)
                waiting.append((path, part, ids, held.first(dump, starts)))
        for (_, part, ids, first), report in zip(waiting, judged(program, [path for path, *_ in waiting], held.folder)):
            counted, told = of_report(report, ids, first, listed)
            for count in counted:
                rows[part][count] += 1
            wrong = {"misnamed", "refused"} | ({"unnamed"} if listed else set())
            if wrong & set(counted) or (counted and "right_stage" not in counted):
                place = f"{held.folder.name}, {held.precision}, {part}"
                print(f"{place}: {' + '.join(ids)}: {', '.join(counted)}: {told}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.named", description=__doc__.splitlines()[0])
    parser.add_argument("--judge", required=True, metavar="PROGRAM", help="the judge's example `against`")
    parser.add_argument("--cases", type=Path, default=Path("judge/cases"), help="folder of the bundled cases")
    parser.add_argument("--causes", type=Path, default=Path("judge/causes"), help="folder of the tables, and of named.json")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="some cases alone; those counted before stay in the file")
    parser.add_argument("--fault", nargs="+", metavar="ID", help="some faults alone; nothing is written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = sorted(path.parent.name for path in arguments.cases.glob("*/config.yaml"))
    unknown = set(arguments.case or ()) - set(names)
    if unknown or not names:
        parser.error(f"{arguments.cases}: no case {' '.join(sorted(unknown))}")
    path = arguments.causes / "named.json"
    rows = json.loads(path.read_text()) if path.exists() and arguments.case else []
    for name in arguments.case or names:
        rows = [row for row in rows if row["case"] != name] + case_rows(arguments, name)
        if not arguments.fault:
            rows.sort(key=lambda row: row["case"])
            path.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
    sys.exit(any(row["misnamed"] for row in rows))


def case_rows(arguments, name):
    folder = arguments.cases / name
    table, metadata = read(arguments.causes / f"{name}.safetensors")
    noise_path = arguments.causes.parent / "noise" / f"{name}.json"
    noise = json.loads(noise_path.read_text()) if noise_path.exists() else {}
    rows = []
    for precision in TOLERANCES:
        held = Held(folder, precision, table, noise)
        if noise and precision == "float32":
            continue  # refused: rounding alone decides
        catalogue = faults.of(held.config)
        entries = [identifier for e in json.loads(metadata["faults"]) for identifier in (e["id"], *e.get("twins", ()))]
        chosen = [identifier for identifier in entries if identifier in (arguments.fault or entries)]
        kinds = {"listed": [((identifier,), (catalogue[identifier],)) for identifier in chosen]}
        if not arguments.fault:
            kinds["others"] = pairs(catalogue, metadata, table) + magnitudes(held.config)
        for kind, planted in kinds.items():
            with tempfile.TemporaryDirectory() as scratch:
                found = hold(held, planted, kind == "listed", arguments.judge, scratch)
            for part, counts in found.items():
                rows.append({"case": name, "precision": precision, "faults": kind, "dump": part} | counts)
                print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
