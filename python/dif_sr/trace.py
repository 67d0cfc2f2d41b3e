"""Sees every tensor of a forward pass: of what it was made, and of which elements of which parameter it is a copy or a view.

A dispatch mode, below autograd: what modules, methods, `einsum` or a scripted function compute ends in the same few
operations, and each is seen.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# Copies that change the layout alone: what they make of a parameter is still that parameter.
COPIES = {"clone", "_to_copy", "cat", "stack", "flip", "repeat"}


def tensors_in(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


class Elements:
    """A number for each element of a model's tensors, so that a view in any layout is a tensor of such numbers."""

    def __init__(self, own):
        self.first, self.shapes, self.total = {}, {}, 0
        for name, tensor in own.items():
            self.first[name], self.shapes[name] = self.total, tuple(tensor.shape)
            self.total += tensor.numel()

    def ids(self, name):
        """The numbers of one tensor, in its shape."""
        shape = self.shapes[name]
        return torch.arange(self.first[name], self.first[name] + torch.Size(shape).numel()).reshape(shape)

    def mask(self, several):
        """Which elements are in any of several views."""
        mask = torch.zeros(self.total, dtype=torch.bool)
        for ids in several:
            mask[ids] = True
        return mask

    def names(self, ids):
        """The tensors that elements belong to, in order."""
        low, high = int(ids.min()), int(ids.max())
        size = lambda name: torch.Size(self.shapes[name]).numel()
        touched = [name for name, first in self.first.items() if first <= high and first + size(name) > low]
        return [name for name in touched if ((ids >= self.first[name]) & (ids < self.first[name] + size(name))).any()]

    def gather(self, tensors, ids):
        """The elements `ids` of {name: tensor}. KeyError: a tensor is not among them."""
        values = None
        for name in self.names(ids):
            flat, local = tensors[name].detach().cpu().reshape(-1), ids - self.first[name]
            inside = (local >= 0) & (local < flat.numel())
            values = torch.zeros(ids.shape, dtype=flat.dtype) if values is None else values
            values[inside] = flat[local[inside]]
        return values

    def scatter(self, tensors, ids, values):
        """Writes `values` to the elements `ids`."""
        for name in self.names(ids):
            tensor, local = tensors[name], ids - self.first[name]
            inside = (local >= 0) & (local < tensor.numel())
            flat = tensor.detach().cpu().reshape(-1).clone()
            flat[local[inside]] = values[inside].to(flat.dtype)
            with torch.no_grad():
                tensor.copy_(flat.reshape(tensor.shape))

    def describe(self, ids):
        """For people: `name`, `name[2]`, `name[32:64]`, with a word on the layout."""
        names = self.names(ids)
        if len(names) > 1:
            return " + ".join(names)
        (name,), flat = names, ids.flatten() - self.first[names[0]]
        shape, low, high = self.shapes[name], int(flat.min()), int(flat.max()) + 1
        layout = "" if bool((flat[1:] > flat[:-1]).all()) else " (transposed)"
        if flat.numel() == torch.Size(shape).numel():
            return name + layout
        row = torch.Size(shape[1:]).numel()
        if high - low != flat.numel():
            return f"a part of {name}"
        if low % row or high % row:
            return f"{name}, elements {low}:{high}"
        rows = f"[{low // row}]" if high - low == row else f"[{low // row}:{high // row}]"
        return name + rows + layout


@dataclass
class Operand:
    """What an operation was given: an earlier node's result, or elements of parameters, or neither (a constant)."""

    node: Optional[int]
    ids: Optional[torch.Tensor]
    storage: int
    shape: tuple


@dataclass
class Node:
    """A result with a fraction: the operation's name, what it was given, and a copy of what came out."""

    op: str
    operands: list
    value: torch.Tensor
    storage: int


class Trace(TorchDispatchMode):
    """with Trace(own, elements) as trace: loss(batch)

    `trace.nodes` are in the order of the computation. The tensors of `own` must be contiguous, each in a storage of its own.
    """

    def __init__(self, own, elements):
        super().__init__()
        self.nodes, self.alive = [], []
        self.made, self.last, self.ids = {}, {}, {}
        for name, tensor in own.items():
            if tensor.numel():
                self.ids[tensor.untyped_storage().data_ptr()] = elements.ids(name).flatten()

    def operand(self, tensor):
        storage = tensor.untyped_storage().data_ptr()
        ids, node = self.ids.get(storage), None
        if ids is not None:
            ids = ids.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            ids = None if ids.numel() == 0 or bool((ids < 0).any()) else ids
        if ids is None:
            node = self.made.get(place(tensor), self.last.get(storage))
        return Operand(node, ids, storage, tuple(tensor.shape))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        operands = [self.operand(tensor) for tensor in given]
        out = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        copied = name in COPIES and operands and all(operand.ids is not None for operand in operands)
        for tensor in tensors_in(out):
            storage = tensor.untyped_storage().data_ptr()
            self.alive.append(tensor)  # so that no storage is given out twice
            if storage in self.ids and not func._schema.is_mutable:
                continue  # a view of a parameter
            if copied:
                self.keep_copy(func, name, args, kwargs, operands, tensor)
                continue
            if not tensor.is_floating_point():
                continue
            self.ids.pop(storage, None)
            self.made[place(tensor)] = self.last[storage] = len(self.nodes)
            self.nodes.append(Node(name, operands, tensor.detach().cpu().clone(), storage))
        return out

    def keep_copy(self, func, name, args, kwargs, operands, out):
        if name in ("clone", "_to_copy"):
            ids = operands[0].ids
        else:
            rest = iter(operands)
            replay = tree_map(lambda leaf: next(rest).ids if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))
            ids = func(*replay[0], **replay[1])
        flat = torch.full((out.untyped_storage().nbytes() // out.element_size(),), -1)
        flat.as_strided(out.shape, out.stride(), out.storage_offset()).copy_(ids)
        self.ids[out.untyped_storage().data_ptr()] = flat


def place(tensor):
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())


def dependencies(nodes, labels):
    """For each node the set of labels that it depends on; `labels` has one a parameter element, -1 is none."""
    found = []
    for node in nodes:
        own = set()
        for operand in node.operands:
            if operand.ids is not None:
                own |= set(labels[operand.ids].unique().tolist())
            elif operand.node is not None:
                own |= found[operand.node]
        found.append(own - {-1})
    return found
