"""What a DIF-SR implementation computes on a case, under the case's keys: the maps are given, nothing is guessed.

`check` finds the maps by itself; this is what it writes with. For a model of which you want to say everything yourself:

* `parameters`: golden name -> your name, or a function of {your name: tensor} where you keep it in another layout.
  It serves parameters, their gradients and the parameters after training alike.
* `stages`: golden key -> where the value appears: `Output("module.path")`, `Input("module.path")` or
  `Method("module.path", "name")`, each with an optional function that picks the tensor.

Any subset of keys is a valid dump; the more stages it holds, the closer the judge comes to the fault. What is no tensor of
the case goes into the file's metadata, as JSON: `missing_gradients`, `optimizer`, `dropout_sites`, `determinism`.
Needs `torch` and `safetensors` alone.
"""

import json
import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Optional

import torch
from safetensors.torch import load_file, save_file

from .dropout import DropoutSites


@dataclass
class Output:
    """What the module returns."""

    module: str
    pick: Optional[Callable] = None


@dataclass
class Input:
    """The module's first argument: `Input("attention.dropout")` are the probabilities, whoever computed them."""

    module: str
    pick: Optional[Callable] = None


@dataclass
class Method:
    """What a method of the module returns, for values that no module boundary shows."""

    module: str
    name: str
    pick: Optional[Callable] = None


def load_case(path):
    """`tensors.safetensors` of a case -> (inputs, parameters), without their prefixes."""
    tensors = load_file(path)
    part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    return part("in."), part("param.")


class Dump:
    """Collects tensors under the golden case's keys.

    with dump.forward():
        losses = my_losses(model)          # one forward pass; hooks record the stages
    dump.losses(losses)                    # {"total": ..., "item": ..., "attribute.categories": ...}
    losses["total"].backward()
    dump.gradients()
    dump.train(lambda: my_losses(model)["total"], optimizer)   # five steps on the same batch
    dump.save("dump.safetensors")

    Beside the case, if you like: `initial_values`, `dropout_sites`, `determinism`.
    """

    def __init__(self, model, parameters, stages=None, outside=None):
        """`model`: a module, or {your name: tensor}. `outside`: golden name -> tensor, for attribute tables that no
        `state_dict` lists, as the authors keep theirs: such a table gets a gradient that nobody uses, so of it are kept its
        values, and those after training if they moved.
        """
        self.model, self.stages, self.tensors, self.metadata = model, dict(stages or {}), {}, {}
        self.parameters = {k: v if callable(v) else (lambda own, name=v: own[name]) for k, v in parameters.items()}
        self.outside = dict(outside or {})
        self.record_parameters("param", self.own())
        for key, tensor in self.outside.items():
            self.record(f"param.{key}", tensor)

    def own(self):
        return dict(self.model) if isinstance(self.model, Mapping) else dict(self.model.state_dict(keep_vars=True))

    def record(self, key, tensor):
        """Adds one tensor by hand."""
        self.tensors[key] = tensor.detach().cpu().clone().contiguous()

    def record_parameters(self, prefix, own):
        for key, find in self.parameters.items():
            try:
                self.record(f"{prefix}.{key}", find(own))
            except KeyError as missing:
                raise KeyError(f"{prefix}.{key}: the model has no tensor {missing}") from None

    @contextmanager
    def forward(self):
        """Hooks are in place inside the `with` block. Each stage keeps its first value."""
        handles, patched, hits = [], [], set()

        def keep(key, stage, value):
            if key not in hits:
                hits.add(key)
                value = stage.pick(value) if stage.pick else value
                self.record(key, value[0] if isinstance(value, tuple) else value)

        for key, stage in self.stages.items():
            module = self.model.get_submodule(stage.module)
            if isinstance(stage, Output):
                hook = lambda _m, _i, out, key=key, stage=stage: keep(key, stage, out)
                handles.append(module.register_forward_hook(hook))
            elif isinstance(stage, Input):
                hook = lambda _m, args, key=key, stage=stage: keep(key, stage, args[0])
                handles.append(module.register_forward_pre_hook(hook))
            else:
                method, before = getattr(module, stage.name), module.__dict__.get(stage.name)

                def wrapped(*args, method=method, key=key, stage=stage, **kwargs):
                    value = method(*args, **kwargs)
                    keep(key, stage, value)
                    return value

                module.__dict__[stage.name] = wrapped
                patched.append((module, stage.name, before))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for module, name, before in reversed(patched):
                if before is None:
                    module.__dict__.pop(name)
                else:
                    module.__dict__[name] = before
        unseen = self.stages.keys() - hits
        if unseen:
            raise RuntimeError(f"never computed in this forward pass: {', '.join(sorted(unseen))}")

    def losses(self, losses):
        for name, loss in losses.items():
            self.record(f"out.loss.{name}", loss)

    def gradients(self):
        """After `backward()`. A parameter without a gradient is evidence too: it is named in `missing_gradients`."""
        own, missing = {k: p.grad for k, p in self.own().items() if p.grad is not None}, []
        for key, find in self.parameters.items():
            try:
                self.record(f"grad.{key}", find(own))
            except KeyError:  # frozen, detached or unused
                missing.append(key)
        self.metadata["missing_gradients"] = missing

    def train(self, total_loss, optimizer, steps=5):
        """`steps` optimizer steps on the case's batch: losses before each, parameters after the last."""
        self.metadata["optimizer"] = self.settings(optimizer)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss = total_loss()
            self.record(f"train.loss.{step}", loss)
            loss.backward()
            optimizer.step()
        self.record_parameters(f"after{steps}", self.own())
        for key, tensor in self.outside.items():
            if not torch.equal(self.tensors[f"param.{key}"], tensor.detach().cpu()):
                self.record(f"after{steps}.{key}", tensor)

    def settings(self, optimizer):
        """Class, hyper-parameters by group, and which of the model's tensors the optimizer does not hold."""
        names = {id(tensor): name for name, tensor in (self.own() | self.outside).items()}
        groups, held = [], set()
        for group in optimizer.param_groups:
            ours = [names.get(id(tensor), "unknown") for tensor in group["params"]]
            held |= set(ours)
            plain = {k: v for k, v in group.items() if k != "params" and isinstance(v, (bool, int, float, str, tuple, list))}
            groups.append(plain | {"parameters": ours})
        return {"class": type(optimizer).__name__, "groups": groups, "not_held": sorted(set(names.values()) - held)}

    def initial_values(self, model=None, outside=None):
        """`init.*`: the parameters of a model that was just built, with your settings and nothing loaded into it."""
        own = self.own() if model is None else dict(model.state_dict())
        for key, find in self.parameters.items():
            self.record(f"init.{key}", find(own))
        for key, tensor in (outside or {}).items():
            self.record(f"init.{key}", tensor)

    def dropout_sites(self, run):
        """Every dropout in one training pass, in order: `run()` is a forward pass of a model with your usual rates."""
        with DropoutSites() as sites:
            run()
        self.metadata["dropout_sites"] = sites.seen

    def determinism(self, run):
        """`run()` twice, with dropout 0 or in `eval()`: the largest difference of what it returns, 0.0 if it is equal."""
        with torch.no_grad():
            first, second = run(), run()
        difference = (first - second).abs().max().item()
        if math.isfinite(difference):  # else there is no number to write, and the stages show it
            self.metadata["determinism"] = {"largest_difference": difference}

    def save(self, path):
        save_file(self.tensors, path, {name: json.dumps(value) for name, value in self.metadata.items()})
