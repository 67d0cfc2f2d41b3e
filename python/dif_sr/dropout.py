"""Dropout: where a model has it, and how it is kept from acting while a case is computed."""

from contextlib import contextmanager

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FUNCTIONS = {
    getattr(place, name)
    for place in (torch, functional)
    for name in ("dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d")
    if hasattr(place, name)
}
ATTENTION = functional.scaled_dot_product_attention


def is_dropout(module):
    return "dropout" in type(module).__name__.lower() and isinstance(getattr(module, "p", None), (int, float))


class WithoutFunctions(TorchFunctionMode):
    """Dropout by a function gives back what it is given."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in FUNCTIONS:
            return args[0] if args else kwargs["input"]
        if function is ATTENTION:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs.pop("dropout_p", None)
        return function(*args, **kwargs)


@contextmanager
def without_dropout(modules):
    """No dropout acts inside: neither that of the modules, whoever wrote them, nor a function's."""
    attention = torch.nn.MultiheadAttention
    rates = [(module, "p") for module in modules if is_dropout(module)]
    rates += [(module, "dropout") for module in modules if isinstance(module, attention)]
    before = [getattr(module, name) for module, name in rates]
    for module, name in rates:
        setattr(module, name, 0.0)
    try:
        with WithoutFunctions():
            yield
    finally:
        for (module, name), rate in zip(rates, before):
            setattr(module, name, rate)


class DropoutSites(TorchFunctionMode):
    """Sees `nn.Dropout`, `functional.dropout`, `torch.dropout`, attention's own, and modules that are called a dropout."""

    def __enter__(self):
        self.seen, self.inside = [], 0
        hooks = torch.nn.modules.module
        self.hooks = [
            hooks.register_module_forward_pre_hook(self.enter_module),
            hooks.register_module_forward_hook(self.leave_module),
        ]
        return super().__enter__()

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*error)

    def add(self, shape, rate):
        self.seen.append({"shape": list(shape), "rate": rate})

    def enter_module(self, module, _args):
        self.inside += is_dropout(module)

    def leave_module(self, module, _args, output):
        if is_dropout(module):
            self.inside -= 1
            if self.inside == 0 and module.training:
                self.add(output.shape, module.p)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (functional.dropout, torch.dropout) and not self.inside:
            named = dict(zip(("input", "p", "training"), args)) | kwargs
            if named.get("train", named.get("training", True)):
                self.add(named["input"].shape, named.get("p", 0.5))
        elif function is ATTENTION:
            named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args)) | kwargs
            if named.get("dropout_p", 0.0):
                self.add((*named["query"].shape[:-1], named["key"].shape[-2]), named["dropout_p"])
        return function(*args, **kwargs)
