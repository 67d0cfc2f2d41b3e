"""A model's tensors, wherever it keeps them, lent to the judge and given back as they were."""

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import nn

from .judging import Error

# What every module has of its own accord.
_USUAL = set(vars(nn.Module()))


class Own:
    """Every tensor with a fraction of a module, or of a dictionary of tensors.

    `tensors`: by name, each once (tied ones under their first name); `trained`: those that `parameters()` lists, or that
    require a gradient in a dictionary; `outside`: names of what the module keeps in plain attributes, lists or dictionaries,
    where neither `parameters()` nor `.double()` reaches.
    """

    def __init__(self, model):
        self.model, self.tensors, self.outside = model, {}, []
        if isinstance(model, nn.Module):
            found = [*model.named_parameters(), *model.named_buffers()]
            self.trained = list(model.parameters())
        elif isinstance(model, Mapping) and model:
            found = list(unregistered(model, "", set(), set()))
            self.trained = [tensor for _, tensor in found if tensor.requires_grad]
        else:
            what = f"the class {model.__name__}: build it" if isinstance(model, type) else f"a {type(model).__name__}"
            raise Error(f"model: expected a torch.nn.Module or a dictionary of tensors, found {what}")
        for name, tensor in found:
            self.add(name, tensor)
        if isinstance(model, nn.Module):
            seen = {id(module) for module in model.modules()}
            packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch"}
            for path, module in model.named_modules():
                for name, tensor in unregistered(vars(module), path, seen, packages, _USUAL):
                    if self.add(name, tensor):
                        self.outside.append(name)
        if not self.tensors:
            raise Error("model: expected tensors with a fraction in it, found none: nothing can be loaded or compared")
        if any(tensor.is_meta for tensor in self.tensors.values()):
            raise Error("model: expected tensors with values, found them on the device `meta`: move it with `to_empty`")

    def add(self, name, tensor):
        if not tensor.is_floating_point() or any(tensor is known for known in self.tensors.values()):
            return False
        self.tensors[name] = tensor
        return True

    @property
    def device(self):
        return next(iter(self.tensors.values())).device

    @property
    def modules(self):
        return list(self.model.modules()) if isinstance(self.model, nn.Module) else []

    @contextmanager
    def lent(self, dtype):
        """Inside, every tensor is a contiguous copy in `dtype`, the model is in training, and new tensors are of `dtype`."""
        before = {name: (tensor.data, tensor.grad) for name, tensor in self.tensors.items()}
        training = [(module, module.training) for module in self.modules]
        usual = torch.get_default_dtype()
        try:
            for tensor in self.tensors.values():
                tensor.grad = None
                tensor.data = tensor.data.detach().to(dtype).clone(memory_format=torch.contiguous_format)
            for module, _ in training:
                module.training = True
            torch.set_default_dtype(dtype)
            with torch.enable_grad():
                yield self.tensors
        finally:
            torch.set_default_dtype(usual)
            for module, was in training:
                module.training = was
            for name, tensor in self.tensors.items():
                tensor.grad = None
                tensor.data, tensor.grad = before[name]


def unregistered(value, path, seen, packages, leave=()):
    """(name, tensor) of what lies in containers, in modules that no module lists, and in objects of `packages`."""
    if isinstance(value, torch.Tensor):
        if value.is_leaf:
            yield path, value
        return
    own = type(value).__module__.partition(".")[0] in packages and hasattr(value, "__dict__")
    if id(value) in seen or not (own or isinstance(value, (Mapping, list, tuple, nn.Module))):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", tensor) for name, tensor in [*value.named_parameters(), *value.named_buffers()])
        children = [(name, child) for name, child in vars(value).items() if name not in _USUAL]
    elif isinstance(value, Mapping):
        children = [(name, child) for name, child in value.items() if name not in leave]
    elif isinstance(value, (list, tuple)):
        children = list(enumerate(value))
    else:
        children = list(vars(value).items())
    for name, child in children:
        yield from unregistered(child, f"{path}.{name}" if path else str(name), seen, packages)
