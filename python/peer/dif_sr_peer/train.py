"""The seeded run: training, validation, early stopping, test.

    python -m dif_sr_peer.train --config FILE... [--data_path DIR] [--threads 1] [--batches N] [--json OUT] [--record OUT]
                                [--fault NAME] [--key=value]

Prints every batch's total loss with nine significant digits, enough to tell any two float32 values apart.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import baselines, faults, record
from . import config as configuration
from . import data as pipeline
from .config import stop
from .model import SASRecD


def build(options, data, portable_dropout=True):
    """Seeds the one generator and builds the model: everything random follows from here."""
    torch.manual_seed(options["seed"])
    return model_of(options, data.n_items, data.attributes, portable_dropout)


def model_of(options, n_items, attributes, portable_dropout=True):
    """The peer, or the baseline that `model` names."""
    if options.get("model", "SASRecD") == "SASRecD":
        return SASRecD(options, n_items, attributes, portable_dropout)
    return baselines.build(options, n_items, attributes, portable_dropout)


def parameters(model):
    """Trained parameters and attribute tables, by their golden names."""
    return dict(model.named_parameters()) | model.attribute_tables()


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def init_summary(model):
    """As the goldens keep initial parameters: the sum (in float64) and the first three values."""
    summary = {name: tensor_summary(p) for name, p in model.named_parameters()}
    tables = [tensor_summary(table) for table in model.attribute_tables().values()]
    return summary, tables[0] if tables else None


def tensor_summary(tensor):
    flat = tensor.detach().flatten()
    return {"sum": flat.double().sum().item(), "first": flat[:3].tolist()}


class Evaluation:
    """Full ranking: id 0 is hidden, the history is not; RecBole's collector and metrics. Keeps the last `ranks`: how many
    items score higher than each target."""

    def __init__(self, options, data):
        from recbole.evaluator import Collector, Evaluator

        config = pipeline.recbole_config(options)
        self.collector, self.evaluator = Collector(config), Evaluator(config)
        self.batch_size = options["eval_batch_size"]
        self.n_items = data.n_items

    @torch.no_grad()
    def __call__(self, model, split, device="cpu"):
        model.eval()
        self.ranks = []
        for batch in split.batches(self.batch_size):
            seq_output = model(batch["item_id_list"].to(device), batch["item_length"].to(device))
            scores = model.full_sort_scores(seq_output).view(-1, self.n_items)
            scores[:, 0] = -torch.inf
            rows = torch.arange(len(scores))
            targets = batch["item_id"].to(scores.device)
            self.ranks += (scores > scores.gather(1, targets.unsqueeze(1))).sum(dim=1).tolist()
            self.collector.eval_batch_collect(scores.cpu(), None, rows, batch["item_id"])
        metrics = self.evaluator.evaluate(self.collector.get_data_struct())
        return {name: float(value) for name, value in metrics.items()}


def train(
    options,
    data,
    model,
    *,
    max_batches=None,
    max_epochs=None,
    device="cpu",
    on_event=lambda *_: None,
):
    """The run, as a mapping with the goldens' keys. `on_event(kind, ...)` hears of batches, epochs and evaluations.

    """
    if options["loss_type"] != "CE" or options.get("learner", "adam") != "adam":
        stop("the peer trains with loss_type CE and learner adam only")
    model.to(device)
    optimizer = model.optimizer(options["learning_rate"], options["weight_decay"])
    evaluate = Evaluation(options, data)
    valid_metric = options["valid_metric"].lower()
    result = {"batches": [], "epoch_losses": [], "valid": [], "evaluated": [], "epoch_seconds": [], "valid_seconds": []}
    best_score, best_state, misses = float("-inf"), None, 0

    for epoch in range(min(options["epochs"], max_epochs or options["epochs"])):
        model.train()
        started, epoch_loss = time.perf_counter(), 0.0
        data.train.shuffle_()
        for batch in data.train.batches(options["train_batch_size"]):
            batch = {name: column.to(device) for name, column in batch.items()}
            optimizer.zero_grad()
            seq_output = model(batch["item_id_list"], batch["item_length"])
            losses = model.losses(seq_output, batch["item_id"])
            loss = losses["total"].item()
            losses["total"].backward()
            if options["clip_grad_norm"]:
                torch.nn.utils.clip_grad_norm_(model.parameters(), **options["clip_grad_norm"])
            optimizer.step()
            epoch_loss += loss
            # The goldens call the total loss `loss`, and an attribute's loss by the attribute's name.
            parts = {n.removeprefix("attribute."): part.item() for n, part in losses.items() if n != "total"}
            result["batches"].append({"loss": loss, **parts, "pos_first": batch["item_id"][:8].tolist()})
            on_event("batch", epoch, len(result["batches"]), loss)
            if len(result["batches"]) == max_batches:
                return result
        result["epoch_seconds"].append(round(time.perf_counter() - started, 3))
        result["epoch_losses"].append(epoch_loss)
        on_event("epoch", epoch, epoch_loss, result["epoch_seconds"][-1])
        if (epoch + 1) % options["eval_step"] != 0:
            continue
        started = time.perf_counter()
        metrics = evaluate(model, data.valid, device)
        result["valid_seconds"].append(round(time.perf_counter() - started, 3))
        result["valid"].append(metrics)
        result["evaluated"].append(epoch)
        on_event("valid", epoch, metrics)
        if metrics[valid_metric] > best_score:  # rounded to four decimals, strictly greater
            best_score, misses = metrics[valid_metric], 0
            best_state = {name: tensor.detach().clone() for name, tensor in parameters(model).items()}
            result |= {"best_epoch": epoch, "best_valid_score": best_score, "best_valid": metrics}
        else:
            misses += 1
            if misses > options["stopping_step"]:
                break
    if best_state is not None:
        with torch.no_grad():
            for name, tensor in parameters(model).items():
                tensor.copy_(best_state[name])
        result["test"] = evaluate(model, data.test, device)
        result["ranks"] = evaluate.ranks
        on_event("test", result["best_epoch"], result["test"])
    return result


def environment():
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def print_event(kind, epoch, *values):
    if kind == "batch":
        print(f"batch {values[0]} loss {values[1]:.9g}")
    elif kind == "epoch":
        print(f"epoch {epoch} loss {values[0]:.9g} seconds {values[1]:.2f}")
    else:
        print(f"{kind} epoch {epoch} " + " ".join(f"{name} {value:g}" for name, value in values[0].items()))


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", "--config_files", nargs="+", required=True, help="RecBole YAML, or a golden .json")
    parser.add_argument("--data_path", help="folder that holds the data set's folder (ml-100k: recbole's own copy)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, help="stop after so many batches, without evaluation")
    parser.add_argument("--epochs", type=int, help="stop after so many epochs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dropout", choices=["portable", "torch"], default="portable", help="how masks are drawn")
    parser.add_argument("--json", metavar="OUT", help="write the run as JSON, with the goldens' keys")
    parser.add_argument("--record", metavar="OUT", help="write the run as a record that `dif-sr gate` judges")
    parser.add_argument("--fault", metavar="NAME", help="plant a fault: docs/faults.md lists them")
    parser.add_argument("--save_init", metavar="FILE", help="write the initial parameters (.safetensors)")
    parser.add_argument("--save_step1", metavar="FILE", help="write gradients of batch 1 and parameters after its step")
    arguments, options = configuration.of_command(parser)
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)

    if arguments.record and arguments.batches:
        stop("--record: a run of some --batches is not tested; leave one of them out")
    if arguments.fault and options.get("model", "SASRecD") != "SASRecD":
        stop(f"--fault: the faults are DIF-SR's, and {options['model']} is another model")
    if arguments.fault:
        known = faults.of(options)
        if arguments.fault not in known:
            stop(f"--fault {arguments.fault}: no fault of this configuration; {faults.nearest(arguments.fault, known)}")
    if arguments.record:
        Path(arguments.record).parent.mkdir(parents=True, exist_ok=True)
    data = pipeline.load(options)
    model = build(options, data, arguments.dropout == "portable")
    if arguments.fault:
        known[arguments.fault].plant(model)
    print(model, f"Trainable parameters: {trainable(model)}", sep="\n")

    if arguments.save_init:
        save_file({f"param.{n}": p.detach().clone() for n, p in parameters(model).items()}, arguments.save_init)

    def on_event(kind, epoch, *values):
        print_event(kind, epoch, *values)
        if kind == "batch" and values[0] == 1 and arguments.save_step1:
            tensors = {f"grad.{n}": p.grad.cpu().clone() for n, p in model.named_parameters()}
            tensors |= {f"param.{n}": p.detach().cpu().clone() for n, p in parameters(model).items()}
            save_file(tensors, arguments.save_step1)

    init, table = init_summary(model)
    result = {"config": options, "environment": environment(), "stats": data.stats, "trainable": trainable(model)}
    result |= {"init": init, "init_attribute_table": table}
    run = train(
        options,
        data,
        model,
        max_batches=arguments.batches,
        max_epochs=arguments.epochs,
        device=arguments.device,
        on_event=on_event,
    )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result | run, file, indent=1)
    if arguments.record:
        if "ranks" not in run:
            stop("--record: nothing was tested, since no epoch was evaluated: lower eval_step")
        record.write(arguments.record, options, data, run, result["environment"] | {"fault": arguments.fault})


if __name__ == "__main__":
    main()
