"""Writes what a DIF-SR implementation computes on a golden case, for `dif-sr verify --against DUMP CASE`.

Copy this file: it needs only `torch` and `safetensors`. It knows nothing of your model but two maps:

* `parameters`: golden name -> your name, or a function of {your name: tensor} where you keep it in another layout.
  It serves parameters, their gradients and the parameters after training alike.
* `stages`: golden key -> where the value appears: `Output("module.path")`, `Input("module.path")` or
  `Method("module.path", "name")`, each with an optional function that picks the tensor.

Any subset of keys is a valid dump; the more stages it holds, the closer `verify` comes to the fault.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Optional

import torch
from safetensors.torch import load_file, save_file


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
    """

    def __init__(self, model, parameters, stages):
        self.model, self.stages, self.tensors = model, stages, {}
        self.parameters = {k: v if callable(v) else (lambda own, name=v: own[name]) for k, v in parameters.items()}
        self.record_parameters("param")

    def record(self, key, tensor):
        """Adds one tensor by hand."""
        self.tensors[key] = tensor.detach().cpu().clone().contiguous()

    def record_parameters(self, prefix, own=None):
        own = dict(self.model.state_dict(keep_vars=True)) if own is None else own
        for key, find in self.parameters.items():
            try:
                self.record(f"{prefix}.{key}", find(own))
            except KeyError as missing:
                if prefix != "grad":  # a frozen or unused tensor has no gradient
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
        """After `backward()`."""
        own = self.model.state_dict(keep_vars=True)
        self.record_parameters("grad", {k: p.grad for k, p in own.items() if p.grad is not None})

    def train(self, total_loss, optimizer, steps=5):
        """`steps` optimizer steps on the case's batch: losses before each, parameters after the last."""
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss = total_loss()
            self.record(f"train.loss.{step}", loss)
            loss.backward()
            optimizer.step()
        self.record_parameters(f"after{steps}")

    def save(self, path):
        save_file(self.tensors, path)
