"""Recomputes every golden value with the peer and holds it against the shipped one.

    python -m dif_sr_peer.goldens GOLDEN_DIR [--only NAME...] [--data_path DIR] [--epochs N] [--write DIR]

Per case and group of tensors: the largest error relative to the tensor's largest value, how many tensors are equal to
the bit, and the verdict. Exit code 0: all within tolerance; 1: something is not; 2: a file could not be read.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import case, config, train
from . import data as pipeline

# |ours - golden| <= rtol * max|golden tensor| + atol
FLOAT64 = (1e-9, 1e-12)
LOSS = (1e-5, 0.0)  # float32 losses over whole epochs: processors round differently, by an ulp or two a batch
INIT = (1e-6, 1e-6)

# `max_pooling`: scores near 1e18 leave the second layer's attention and gradients to rounding. Changing parameters by one
# unit in the last place moves gradients by up to their own size, so these keys cannot hold on another processor; see README.
MAX_POOLING = ("out.layer.1.", "grad.", "train.loss.2", "train.loss.3", "train.loss.4", "train.loss.5", "after5.")


def null_gradient(key, fusion):
    """Parameters that the loss does not depend on: the goldens hold rounding noise."""
    name = key.partition(".")[2]
    if fusion == "gate":
        return name.endswith("fusion_layer.projection.2.bias")
    return fusion == "sum" and re.search(r"multi_head_attention\.(key|key_p|key_layers\.\d+)\.bias$", name) is not None


def group(key):
    """The rows of the report, in the order of the computation."""
    parts = key.split(".")
    if parts[:2] == ["out", "layer"]:
        return f"out.{parts[3]}"
    return ".".join(parts[:2]) if parts[0] == "out" else parts[0]


class Report:
    def __init__(self):
        self.failed = False

    def line(self, name, what, text, passed):
        """`passed` is None where nothing is judged."""
        self.failed |= passed is False
        mark = {True: "ok", False: "FAIL", None: "not judged"}[passed]
        print(f"{name:28} {what:24} {text:64} {mark}", flush=True)

    def equal(self, name, what, ours, golden):
        text = "equal" if ours == golden else f"ours {str(ours)[:60]} golden {str(golden)[:60]}"
        self.line(name, what, text, ours == golden)


def compare_case(report, name, ours, golden, fusion):
    rows, missing = {}, {key for key in golden if not key.startswith("in.")} - ours.keys()
    if missing:
        report.line(name, "keys", f"not computed: {', '.join(sorted(missing))[:60]}", False)
    for key in [key for key in ours if key in golden]:
        theirs, mine = golden[key], ours[key]
        if null_gradient(key, fusion):
            if key.startswith("grad."):
                noise = max(mine.abs().max().item(), theirs.abs().max().item())
                rows.setdefault("grad (null)", []).append((noise, key, noise < 1e-12, torch.equal(mine, theirs)))
            elif key.startswith("param."):
                rows.setdefault("param", []).append((0.0, key, torch.equal(mine, theirs), torch.equal(mine, theirs)))
            continue  # Adam makes steps of arbitrary sign from noise
        if mine.shape != theirs.shape:
            report.line(name, key, f"shape {list(mine.shape)}, golden {list(theirs.shape)}", False)
            continue
        error, largest = (mine.double() - theirs).abs().max().item(), theirs.abs().max().item()
        passed = error <= FLOAT64[0] * largest + FLOAT64[1]
        what = group(key)
        if name == "max_pooling" and key.startswith(MAX_POOLING):
            what, passed = f"{what} (chaotic)", None
        rows.setdefault(what, []).append((error / largest if largest else error, key, passed, torch.equal(mine, theirs)))
    for what, row in rows.items():
        worst, key, _, _ = max(row)
        verdicts = [passed for _, _, passed, _ in row]
        passed = False if False in verdicts else None if None in verdicts else True
        text = f"{worst:.1e}  equal bits {sum(equal for *_, equal in row)}/{len(row)}"
        report.line(name, what, text if passed else f"{text}  {key[-34:]}", passed)


def model_case(report, folder, write):
    golden = load_file(folder / "tensors.safetensors")
    model, inputs, options = case.build(folder)
    ours = case.compute(model, inputs, options).tensors
    compare_case(report, folder.name, ours, golden, options.get("fusion_type", "sum"))
    if write:
        (write / folder.name).mkdir(parents=True, exist_ok=True)
        (write / folder.name / "config.yaml").write_text((folder / "config.yaml").read_text())
        save_file(ours | {f"in.{k}": v for k, v in inputs.items()}, write / folder.name / "tensors.safetensors")


def relative(ours, golden):
    return abs(ours - golden) / abs(golden) if golden else abs(ours - golden)


def pipeline_case(report, path, data_path, max_epochs, write):
    name, golden = path.stem, json.loads(path.read_text())
    options = config.load([path])
    if data_path:
        options["data_path"] = data_path
    data = pipeline.load(options)
    parts = {"train": data.train, "valid": data.valid, "test": data.test}
    attribute_tokens = data.tokens[options["selected_features"][0]]
    ours = {
        "stats": data.stats,
        "first_users": data.tokens[options["USER_ID_FIELD"]][: len(golden["first_users"])],
        "first_items": data.tokens[options["ITEM_ID_FIELD"]][: len(golden["first_items"])],
        "class_tokens": attribute_tokens,
        "n_category_tokens": len(attribute_tokens),
        "first_category_tokens": attribute_tokens[: len(golden.get("first_category_tokens", []))],
    }
    for part, rows in parts.items():
        key = f"{part}_rows_first" + ("_unshuffled" if part == "train" else "")
        ours |= {f"n_{part}": len(rows), f"{part}_sha256": rows.sha256(), key: rows.first(len(golden[key]))}
    ours = {key: value for key, value in ours.items() if key in golden}
    for key in [key for key in ours if key != "stats"]:
        report.equal(name, key, ours[key], golden[key])
    worst = max(relative(ours["stats"][key], value) for key, value in golden["stats"].items())
    report.line(name, "stats", f"{worst:.1e}", worst < 1e-12)

    model = train.build(options, data)
    ours["trainable"] = train.trainable(model)
    report.equal(name, "trainable", ours["trainable"], golden["trainable"])
    ours["init"], ours["init_attribute_table"] = train.init_summary(model)
    ours_init = ours["init"] | {"table": ours["init_attribute_table"]}
    golden_init = golden["init"] | {"table": golden["init_attribute_table"]}
    if list(ours["init"]) != list(golden["init"]):
        report.line(name, "init", "parameters or their order differ", False)
    else:
        flat = lambda init: [number for value in init.values() for number in (value["sum"], *value["first"])]
        pairs = list(zip(flat(ours_init), flat(golden_init)))
        worst = max(abs(a - b) for a, b in pairs)
        within = all(abs(a - b) <= INIT[0] * abs(b) + INIT[1] for a, b in pairs)
        report.line(name, "init", f"{worst:.1e}  equal bits {sum(a == b for a, b in pairs)}/{len(pairs)}", within)

    only_batches = None if "valid" in golden else len(golden["batches"])
    run = train.train(options, data, model, max_batches=only_batches, max_epochs=max_epochs)
    ours |= run
    compare_run(report, name, run, golden, complete=only_batches is None and not max_epochs)
    if write:
        write.mkdir(parents=True, exist_ok=True)
        keep = ours | {"config": golden["config"], "environment": train.environment()}
        (write / path.name).write_text(json.dumps(keep))


def compare_run(report, name, run, golden, complete):
    if complete and len(run["batches"]) != len(golden["batches"]):
        report.line(name, "length", f"ours {len(run['batches'])} batches, golden {len(golden['batches'])}", False)
    for loss in [key for key in golden["batches"][0] if key != "pos_first"]:  # the total; its parts where kept
        pairs = [(a[loss], b[loss]) for a, b in zip(run["batches"], golden["batches"])]
        errors = [relative(a, b) for a, b in pairs]
        first = next((i + 1 for i, (a, b) in enumerate(pairs) if a != b), None)
        text = f"{max(errors):.1e}  equal bits {sum(a == b for a, b in pairs)}/{len(pairs)} of {len(golden['batches'])}"
        text += f"  first differs at batch {first}" if first else ""
        report.line(name, "losses" if loss == "loss" else f"losses: {loss}", text, max(errors) <= LOSS[0])
    shuffles = [(a["pos_first"], b["pos_first"]) for a, b in zip(run["batches"], golden["batches"]) if "pos_first" in b]
    if shuffles:
        wrong = sum(a != b for a, b in shuffles)
        report.line(name, "shuffle", f"first targets of {len(shuffles)} batches, {wrong} differ", wrong == 0)
    for epoch, (ours, theirs) in enumerate(zip(run["valid"], golden.get("valid", []))):
        if ours != theirs:
            wrong = [key for key in theirs if ours[key] != theirs[key]]
            report.line(name, f"valid epoch {epoch}", f"{wrong[0]} ours {ours[wrong[0]]} golden {theirs[wrong[0]]}", False)
            break
    else:
        if run["valid"]:
            report.line(name, "valid", f"{len(run['valid'])} evaluations, all metrics equal to four decimals", True)
    if complete:
        report.equal(name, "best_valid_score", run["best_valid_score"], golden["best_valid_score"])
        report.equal(name, "test", run["test"], golden["test"])


def metric_case(report, path, write):
    """Score matrices through RecBole's collector and metrics."""
    from recbole.evaluator import Collector, Evaluator

    golden = json.loads(path.read_text())
    base = {"dataset": "ml-100k", "selected_features": [], "topk": golden["topk"], "metric_decimal_place": 12}
    options = pipeline.recbole_config(config.DEFAULTS | base)
    collector, evaluator = Collector(options), Evaluator(options)
    users = [user for user, items in enumerate(golden["positives"]) for _ in items]
    items = [item for items in golden["positives"] for item in items]
    scores = torch.tensor(golden["scores"], dtype=torch.float32)
    collector.eval_batch_collect(scores, None, torch.tensor(users), torch.tensor(items))
    ours = {name: float(value) for name, value in evaluator.evaluate(collector.get_data_struct()).items()}
    missing = golden["metrics"].keys() - ours.keys()
    if missing:
        report.line(path.stem, "metrics", f"not computed: {sorted(missing)}", False)
        return
    worst = max(abs(ours[key] - value) for key, value in golden["metrics"].items())
    report.line(path.stem, "metrics", f"{worst:.1e}  {len(golden['metrics'])} metrics", worst <= 1e-9)
    if write:
        write.mkdir(parents=True, exist_ok=True)
        (write / path.name).write_text(json.dumps(golden | {"metrics": ours}))


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.goldens", description=__doc__.splitlines()[0])
    parser.add_argument("golden_dir", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases by name, without .json")
    parser.add_argument("--data_path", help="folder that holds Amazon_Beauty/; without it that case is left out")
    parser.add_argument("--epochs", type=int, help="at most so many epochs of each pipeline case")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write what was computed, in the goldens' form")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.write and arguments.write.resolve() == arguments.golden_dir.resolve():
        parser.error("--write: the shipped goldens are never overwritten")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {arguments.threads} thread(s)")

    folders = {path.parent.name: path.parent for path in arguments.golden_dir.glob("*/config.yaml")}
    files = {path.stem: path for path in arguments.golden_dir.glob("*.json")}
    names = arguments.only or sorted(folders) + sorted(files)
    unknown = [name for name in names if name not in folders.keys() | files.keys()]
    if unknown or not names:
        parser.error(f"{arguments.golden_dir}: no case {' '.join(unknown)}")
    report = Report()
    for name in names:
        try:
            if name in folders:
                model_case(report, folders[name], arguments.write)
            elif name.startswith("metrics_"):
                metric_case(report, files[name], arguments.write)
            elif name.startswith("ml-100k") or arguments.data_path:
                pipeline_case(report, files[name], arguments.data_path, arguments.epochs, arguments.write)
            else:
                report.line(name, "", "needs --data_path", None)
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(2)
    print("outside tolerance" if report.failed else "all within tolerance")
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
