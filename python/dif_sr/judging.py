"""Cases, dumps and reports: what the compiled judge gives, in NumPy's arrays. Needs no PyTorch but for `batch`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import _judge
from ._judge import Error

# What a dump must hold to be called DIF-SR; `require=["complete", …]` asks for more.
COMPLETE = ("scores", "losses", "gradients", "optimizer_steps")


class Departs(AssertionError):
    """An implementation does not hold a case: the message is the judge's report, its sentence first."""

    def __init__(self, report):
        table, _, sentence = report.text.rpartition("\n\n")
        super().__init__(f"{sentence}\n\n{table}")  # what pytest shows of a failure is the first line
        self.report = report

    def __reduce__(self):
        return type(self), (self.report,)


def cases():
    """The names of the bundled cases."""
    return list(_judge.names())


class Batch(dict):
    """A case's inputs, as items and as attributes: `item_seq` [B, L], `item_seq_len` [B], `pos_items` [B], `neg_items` [B],
    `item_feat` {attribute: ids of every item, [V] or [V, S]}."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no `{name}`; it has {', '.join(self)}") from None


class Case:
    """A bundled case by its name, or the one in a folder with `config.yaml` and `tensors.safetensors`.

    `config` holds RecBole's keys, `n_items` and `attributes` (name, type, vocab); `tensors` every array of the case.
    """

    def __init__(self, name):
        self.judge = _judge.Case(str(name))
        self.name, self.config = self.judge.name, json.loads(self.judge.config)
        self.tensors = {
            key: np.frombuffer(data, "<f8").astype(dtype).reshape(shape)
            for key, (dtype, shape, data) in self.judge.tensors()
        }
        self.stages = self.judge.stages()

    def __repr__(self):
        return f"Case({self.name!r})"

    def part(self, prefix):
        """The tensors of a prefix (`param.`, `in.`), without it."""
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    @property
    def attributes(self):
        """The names of the attributes, in order."""
        return [attribute["name"] for attribute in self.config.get("attributes", [])]

    @property
    def item_feat(self):
        """{attribute: ids of every item}, as PyTorch's tensors: what a model of the case is built with."""
        return self.batch().item_feat

    def batch(self, device="cpu"):
        """The case's inputs as PyTorch's tensors."""
        import torch

        batch, features = Batch(), {}
        for key, value in self.part("in.").items():
            tensor = torch.tensor(value, device=device)
            if key.startswith("item_feat."):
                features[key[len("item_feat.") :]] = tensor
            else:
                batch[key] = tensor
        for name in self.attributes:
            if name not in features:
                raise Error(
                    f"{self.name}: expected a tensor `in.item_feat.{name}` of the items' ids, found none: add it to "
                    "tensors.safetensors, or leave the attribute out of config.yaml"
                )
        batch["item_feat"] = {name: features[name] for name in self.attributes}
        return batch


def case_of(case):
    if isinstance(case, Case):
        return case
    if not isinstance(case, (str, Path)):
        raise Error(
            f"case: expected a name, a folder or a Case, found a {type(case).__name__}: the order is model, loss, case"
        )
    return Case(case)


class Report:
    """The judge's report: `str(report)` for people, `report.data` for programs (as `dif-sr verify --json`)."""

    def __init__(self, text, data):
        self.text, self.data = text, data

    def __str__(self):
        return self.text

    __repr__ = __str__

    @property
    def summary(self):
        """The verdict in one line."""
        return self.text.rpartition("\n\n")[2].splitlines()[0]

    @property
    def holds(self):
        """All that is required is there, and right or accepted."""
        return self.data["verdict"] == "pass"

    @property
    def stage(self):
        """The stage that departs first, or None."""
        departure = self.data["departure"]
        return departure and departure["stage"]

    @property
    def faults(self):
        """The names of the faults that reproduce the departure, all alternatives and their twins together."""
        reproduced = (self.data["departure"] or {}).get("cause", {}).get("reproduced", {})
        faults = [fault for several in reproduced.get("alternatives", []) for fault in several]
        return [name for fault in faults for name in (fault["id"], *fault.get("twins", []))]


def required(names):
    """What the judge is asked for: None is its own choice."""
    if names is None:
        return None
    names = [names] if isinstance(names, str) else list(names)
    return [part for name in names for part in (COMPLETE if name == "complete" else [name])]


def serialized(dump, metadata):
    """{key: array or tensor} as safetensors."""
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (metadata or {}).items()}
    if any(hasattr(value, "detach") for value in dump.values()):
        import torch
        from safetensors.torch import save

        # A copy of each: safetensors refuses tensors that share memory.
        tensors = {key: torch.as_tensor(value).detach().cpu().clone().contiguous() for key, value in dump.items()}
        return save(tensors, metadata)
    from safetensors.numpy import save

    return save({key: np.asarray(value, order="C") for key, value in dump.items()}, metadata)


def judge(dump, case="gate", require=None, accept=None, metadata=None):
    """Holds a dump to a case -> `Report`. `dump` is a safetensors file, or {key: array or tensor}.

    `require` lists stages (default: scores, losses, gradients, optimizer steps), `accept` is {fault, stage or key: reason}.
    """
    case = case_of(case)
    if isinstance(dump, Mapping):
        if not dump:
            raise Error("dump: expected tensors named as in the case (`out.scores`, …), found none")
        path, data = "", serialized(dump, metadata)
    else:
        path = Path(dump)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Error(f"{path}: cannot read the dump: {error.strerror}") from None
    accept = [(str(name), str(reason)) for name, reason in (accept or {}).items()]
    text, data = case.judge.judge(path, data, required(require), accept)
    return Report(text, json.loads(data))
