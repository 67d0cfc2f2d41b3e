"""The parameters of a model as its forward pass uses them: tables, matrices with their biases, LayerNorms.

What a matrix multiplies tells which of its axes is the input, whatever the layout: the operand of the multiplication is
traced back to the elements of the parameter that it holds. So stacked, transposed, flat and copied parameters are alike.
"""

from dataclasses import dataclass
from typing import Optional

import torch

# Of each matrix product, which operands are its left and right side, and which one is added.
PRODUCTS = {
    "mm": (0, 1, None),
    "bmm": (0, 1, None),
    "addmm": (1, 2, 0),
    "baddbmm": (1, 2, 0),
    "mv": (0, 1, None),
    "addmv": (1, 2, 0),
}
LOOKUPS = {"embedding", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select", "gather"}


@dataclass
class Unit:
    """Elements of parameters that are used as one thing: of a matrix [out, in], or [heads, out, in] of one for each head."""

    ids: torch.Tensor
    node: int
    names: list
    source: Optional[int] = None
    bias: Optional[torch.Tensor] = None
    role: Optional[str] = None
    layer: Optional[int] = None
    stream: object = "mixed"
    rank: int = 0
    looked_up: bool = False


def squeezed(ids):
    """Without axes of one element, and without those along which elements repeat (`expand`)."""
    for axis in reversed(range(ids.dim())):
        first = ids.select(axis, 0) if ids.shape[axis] else ids
        if ids.shape[axis] == 1 or bool((ids == first.unsqueeze(axis)).all()):
            ids = first
    return ids


def unique(ids):
    return ids.unique().numel() == ids.numel()


def lookups(nodes, elements):
    """Two-dimensional tables: what is looked up, then every other operand of two axes, then every whole tensor of two."""
    found = [(number, operand.ids, node.op in LOOKUPS) for number, node in enumerate(nodes) for operand in node.operands]
    found += [(len(nodes), elements.ids(name), False) for name, shape in elements.shapes.items() if 0 not in shape]
    units, seen = [], set()
    for number, ids, looked_up in sorted(found, key=lambda one: not one[2]):
        ids = None if ids is None else squeezed(ids)
        if ids is None or ids.dim() != 2:
            continue
        if ids[0, 1] - ids[0, 0] > ids[1, 0] - ids[0, 0]:
            ids = ids.T  # as a product may take it
        key = (int(ids[0, 0]), int(ids[-1, -1]), tuple(ids.shape))
        if key not in seen and unique(ids):
            seen.add(key)
            units.append(Unit(ids, number, elements.names(ids), looked_up=looked_up))
    return units


def matrices(nodes, elements, is_table):
    """Every matrix that multiplies something, by its first use, with the bias that is added to the product. Several that are
    multiplied side by side, one for each head, are one unit with a third axis in front."""
    units, seen, product_of = [], set(), {}
    for number, node in enumerate(nodes):
        if node.op in ("sum", "clone", "_to_copy") and node.operands[0].storage in product_of:
            product_of[node.storage] = product_of[node.operands[0].storage]  # summed over heads, or in another layout
        if node.op not in PRODUCTS:
            add_bias(node, product_of)
            continue
        left, right, added = (None if at is None else node.operands[at] for at in PRODUCTS[node.op])
        for operand, other, turn in ((right, left, True), (left, right, False)):
            if operand.ids is None or bool(is_table[operand.ids].any()):
                continue
            ids = side_by_side(operand.ids, turn)
            key = (int(ids.flatten()[0]), int(ids.flatten()[-1]), tuple(ids.shape))
            if unique(ids) and key not in seen:
                seen.add(key)
                unit = Unit(ids, number, elements.names(ids), source=other.node)
                units.append(unit)
                product_of[node.storage] = unit
                if added is not None and added.ids is not None:
                    unit.bias = bias_of(unit, added.ids)
            break
    return units


def side_by_side(ids, turn):
    """The operand of a product as [out, in], or as [heads, out, in] without repetitions. Each axis is put in the order of
    memory, for what is summed over may come in any."""
    ids = ids.unsqueeze(-1) if ids.dim() == 1 else ids
    ids = ids if ids.dim() == 3 else ids.unsqueeze(0)
    first = ids[:, 0, 0].tolist()
    ids = ids[[first.index(id) for id in dict.fromkeys(first)]]
    ids = ids.transpose(1, 2) if turn else ids
    ids = ids[:, ids[0, :, 0].argsort()][:, :, ids[0, 0].argsort()]
    return ids[0] if len(ids) == 1 else ids


def bias_of(unit, ids):
    """`ids` as the bias of a matrix: a number for each of its rows, or for each row of each head."""
    rows = unit.ids.shape[-2]
    several = None if unit.ids.dim() == 2 else vector(ids, len(unit.ids) * rows)
    bias = vector(ids, rows) if several is None else several
    return None if bias is None else bias.sort().values


def vector(ids, size):
    """`ids` as a vector of that many elements, whatever its axes; None if it is none."""
    flat = squeezed(ids).flatten() if ids.numel() != size else ids.flatten()
    return flat if flat.numel() == size and unique(flat) else None


def add_bias(node, product_of):
    """A parameter that is added to a product, or to a view of it, is the bias of the product's matrix."""
    if node.op not in ("add", "add_") or len(node.operands) != 2:
        return
    for operand, other in (node.operands, node.operands[::-1]):
        unit = product_of.get(other.storage)
        if unit is None or other.ids is not None or unit.bias is not None:
            continue
        if operand.ids is not None:
            unit.bias = bias_of(unit, operand.ids)
        elif other.shape == operand.shape:
            product_of[node.storage] = unit  # a residual, and the bias may come behind it


def norms(nodes, elements, taken, is_table):
    """Scales and shifts of LayerNorms, by the operation of that name or written out: multiplied by, then added."""
    found = ([], [])

    def add(which, number, ids):
        flat = vector(ids, squeezed(ids).numel())
        if flat is None or flat.numel() < 2 or bool((taken | is_table)[flat].any()):
            return False
        if all(int(flat[0]) != int(unit.ids[0]) for unit in found[which]):
            found[which].append(Unit(flat, number, elements.names(flat)))
        return True

    scaled = set()
    for number, node in enumerate(nodes):
        pure = [operand for operand in node.operands if operand.ids is not None]
        if node.op == "native_layer_norm":
            for which, operand in enumerate(node.operands[1:]):
                if operand.ids is not None:
                    add(which, number, operand.ids)
        elif len(node.operands) == 2 and len(pure) == 1:
            other = next(operand for operand in node.operands if operand.ids is None)
            if node.op in ("mul", "mul_") and add(0, number, pure[0].ids):
                scaled.add(number)
            elif node.op in ("add", "add_") and other.node in scaled:
                add(1, number, pure[0].ids)
    return found
