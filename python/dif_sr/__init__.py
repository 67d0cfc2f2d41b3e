"""Holds a PyTorch implementation of DIF-SR to what the authors' code computes.

    from dif_sr import check
    check(model, loss=lambda batch: my_loss(model, batch), case="gate")

`README.md` is a walk of five minutes. PyTorch is imported when a name that needs it is.
"""

from importlib import import_module

# Where each name is kept.
_PLACES = {
    "Case": "judging",
    "Error": "judging",
    "Report": "judging",
    "cases": "judging",
    "judge": "judging",
    "Departs": "judging",
    "check": "checking",
    "parametrize": "parametrized",
    "recbole": "recbole_models",
    "Dump": "dump",
    "Input": "dump",
    "Method": "dump",
    "Output": "dump",
}

__all__ = list(_PLACES)


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(f"module 'dif_sr' has no attribute '{name}'")
    try:
        found = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from ._judge import Error

        raise Error(
            f"dif_sr.{name} needs PyTorch, and `import torch` finds none: install it (`pip install torch`)"
        ) from None
    globals()[name] = found
    return found
