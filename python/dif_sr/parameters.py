"""Which elements of a model's tensors are which parameter of the case: no map is needed.

Each parameter of the case is given the unit of the model that fits best: of its shape, seeing the same stream (positions
alone, one attribute alone, or all), in the same layer, with the same role in its name, in the same order. The best fit is
given away first. That is no optimal assignment, and need be none: a wrong choice computes another function, which the judge
reports as a departure, and a map of one's own settles it.
"""

import difflib
import re
from dataclasses import replace

import torch

from .golden_names import place
from .trace import dependencies
from .units import lookups, matrices, norms

TABLE_WORDS = {
    "item": ("item", "word", "wte", "tok", "product"),
    "position": ("pos", "wpe"),
    "attribute": ("attr", "feat", "side", "cat", "context"),
}


def words(name):
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"[a-z]+|\d+", spaced.lower())


def role(names):
    """q, k, v or o, if the names say so."""
    said = [word for name in names for word in words(name)]
    for letter, word in (("q", "quer"), ("k", "key"), ("v", "value")):
        if any(w.startswith(word) or w in (letter, f"w{letter}", f"b{letter}", f"{letter}p", f"to{letter}") for w in said):
            return letter
    return "o" if any(w in ("o", "wo", "bo", "dense", "out", "output", "proj") for w in said) else None


def set_layers(units, elements, n_layers):
    """The layer of each unit, counted from 0, or None where nothing says it. Numbers that are no layers' are dropped."""
    for unit in units:
        unit.layer = layer(unit, elements, n_layers)
    numbers = {unit.layer for unit in units} - {None}
    from_one = 0 not in numbers and n_layers in numbers
    if numbers and max(numbers) - from_one >= n_layers:
        numbers = set()
    for unit in units:
        unit.layer = unit.layer - from_one if unit.layer in numbers else None


def layer(unit, elements, n_layers):
    """The slice of a stack, or the first number in the name; None if nothing says."""
    name = unit.names[0]
    shape, local = elements.shapes[name], unit.ids - elements.first[name]
    size = torch.Size(shape).numel()
    if len(unit.names) == 1 and shape and shape[0] == n_layers > 1 and unit.ids.numel() < size:
        rows = local.div(size // n_layers, rounding_mode="floor").unique()
        if len(rows) == 1 and unit.ids.numel() * n_layers == size:
            return int(rows)
    number = re.search(r"(?:^|\.)(\d+)\.|(?:layers?|blocks?|enc|encoder)_?(\d+)", name)
    return int(number.group(1) or number.group(2)) if number else None


def assign(golden, units, cost):
    """[(golden name, unit)]: the pair of the smallest cost first; a cost of None does not fit."""
    pairs = [(cost(name, unit), i, j) for i, name in enumerate(golden) for j, unit in enumerate(units)]
    found, used = [], (set(), set())
    for _, i, j in sorted(pair for pair in pairs if pair[0] is not None):
        if i not in used[0] and j not in used[1]:
            used[0].add(i), used[1].add(j)
            found.append((golden[i], units[j]))
    return found


class Finder:
    """Finds the parameters of one case in one traced forward pass."""

    def __init__(self, case, elements, nodes):
        self.shapes = {name: value.shape for name, value in case.part("param.").items()}
        self.places = {name: place(name) for name in self.shapes}
        self.attributes, self.n_layers = case.attributes, case.config["n_layers"]
        self.elements, self.nodes, self.found = elements, nodes, {}

    def of_kind(self, kind):
        return sorted(
            (n for n, p in self.places.items() if p.kind == kind and n not in self.found), key=lambda n: self.places[n].order
        )

    def run(self, given):
        """{golden name: ids} of all that is found; `given` are settled already."""
        self.found = dict(given)
        self.find_tables()
        tables = {name: ids for name, ids in self.found.items() if self.places[name].kind == "table"}
        is_table = self.elements.mask(tables.values())
        units = matrices(self.nodes, self.elements, is_table)
        self.find_matrices(units, tables)
        taken = self.elements.mask([ids for unit in units for ids in (unit.ids, unit.bias) if ids is not None])
        for kind, own in zip(("scale", "shift"), norms(self.nodes, self.elements, taken, is_table)):
            self.find_norms(kind, own)
        self.find_unused()
        return self.found

    def find_tables(self):
        units = [u for u in lookups(self.nodes, self.elements) if not self.elements.mask(self.found.values())[u.ids].any()]

        def cost(name, unit):
            rows, size = self.shapes[name]
            more = unit.ids.shape[0] - rows
            if unit.ids.shape[1] != size or not 0 <= more <= 2:
                return None
            stream, said = self.places[name].stream, " ".join(unit.names).lower()
            kind = "attribute" if isinstance(stream, int) else stream
            named = isinstance(stream, int) and self.attributes[stream].lower() in said
            fits = named or any(word in said for word in TABLE_WORDS[kind])
            return (2 * more - 2 * named - fits - unit.looked_up, unit.node)

        for name, unit in assign(self.of_kind("table"), units, cost):
            self.found[name] = unit.ids[: self.shapes[name][0]]

    def streams(self, tables):
        """For each node the tables that it depends on."""
        labels, numbers = torch.full((self.elements.total,), -1), {}
        for number, (name, ids) in enumerate(tables.items()):
            labels[ids], numbers[number] = number, self.places[name].stream
        return [{numbers[label] for label in found} for found in dependencies(self.nodes, labels)], labels, numbers

    def find_matrices(self, units, tables):
        seen, labels, numbers = self.streams(tables)
        set_layers(units, self.elements, self.n_layers)
        for unit in units:
            unit.role = role(unit.names)
            streams = seen[unit.source] if unit.source is not None else self.direct(unit, labels, numbers)
            alone = len(streams) == 1 and next(iter(streams)) != "item"
            unit.stream = next(iter(streams)) if alone else "mixed"
        golden = self.of_kind("matrix")
        units = [part for unit in units for part in self.split(unit, golden)]
        used = self.elements.mask(self.found.values())
        settled = [(name, unit) for name, ids in self.found.items() for unit in units if torch.equal(unit.ids, ids)]
        units = [unit for unit in units if not used[unit.ids].any()]
        self.rank(units)
        for name, unit in settled + assign(golden, units, self.matrix_cost):
            self.found[name] = unit.ids
            bias = name[: -len("weight")] + "bias"
            if unit.bias is not None and self.places.get(bias) and bias not in self.found:
                self.found[bias] = unit.bias

    def direct(self, unit, labels, numbers):
        """What a matrix sees that multiplies a table itself."""
        operands = (operand for operand in self.nodes[unit.node].operands if operand.ids is not None)
        found = {label for operand in operands for label in labels[operand.ids].unique().tolist()}
        return {numbers[label] for label in found if label >= 0}

    def split(self, unit, golden):
        """A matrix for query, key and value at once is three, one for two of them is two; those of heads are one."""
        if unit.ids.dim() == 3:
            return self.of_heads(unit, golden)
        shapes = {self.shapes[name] for name in golden}
        rows, columns = unit.ids.shape
        if (rows, columns) in shapes:
            return [unit]
        for name in golden:
            size = self.shapes[name][0]
            if (
                self.places[name].role in ("q", "k", "v")
                and self.shapes[name][1] == columns
                and rows in (2 * size, 3 * size)
            ):
                said = "".join(unit.names).lower()
                roles = "qkv" if rows == 3 * size else "kv" if "kv" in said else "qk"
                biases = (None,) * len(roles) if unit.bias is None else unit.bias.split(size)
                parts = zip(unit.ids.split(size), biases, roles)
                return [replace(unit, ids=ids, bias=bias, role=letter) for ids, bias, letter in parts]
        return []

    def of_heads(self, unit, golden):
        """Matrices side by side: each of its own, or the heads of one, side by side in its rows or in its columns."""
        heads, rows, columns = unit.ids.shape
        shapes = {self.shapes[name] for name in golden}
        if (rows, columns) in shapes:
            biases = (None,) * heads if unit.bias is None or len(unit.bias) != heads * rows else unit.bias.split(rows)
            return [replace(unit, ids=ids, bias=bias) for ids, bias in zip(unit.ids, biases)]
        if (rows, heads * columns) in shapes:
            return [replace(unit, ids=unit.ids.transpose(0, 1).reshape(rows, -1))]
        return self.split(replace(unit, ids=unit.ids.reshape(heads * rows, columns)), golden)

    def rank(self, units):
        """The place of each among those of its shape, stream and layer."""
        counts = {}
        for unit in sorted(units, key=lambda unit: unit.node):
            key = (tuple(unit.ids.shape), unit.stream, unit.layer)
            unit.rank = counts[key] = counts.get(key, -1) + 1

    def golden_rank(self, name, by_layer):
        own = self.places[name]
        alike = [
            other
            for other in self.of_all(own.kind)
            if self.shapes[other] == self.shapes[name]
            and self.places[other].stream == own.stream
            and (not by_layer or self.places[other].layer == own.layer)
        ]
        return alike.index(name)

    def of_all(self, kind):
        return sorted((n for n, p in self.places.items() if p.kind == kind), key=lambda n: self.places[n].order)

    def matrix_cost(self, name, unit):
        own = self.places[name]
        if tuple(unit.ids.shape) != tuple(self.shapes[name]):
            return None
        other_layer = own.layer is not None and unit.layer is not None and own.layer != unit.layer
        other_role = own.role is not None and unit.role is not None and own.role != unit.role
        same_role = own.role is not None and own.role == unit.role
        far = abs(unit.rank - self.golden_rank(name, unit.layer is not None))
        return 10 * (own.stream != unit.stream) + 4 * other_layer + 2 * other_role - same_role + 0.25 * far

    def find_norms(self, kind, units):
        golden = self.of_kind(kind)
        set_layers(units, self.elements, self.n_layers)
        by_layer = any(unit.layer is not None for unit in units)
        self.rank(units)

        def cost(name, unit):
            own = self.places[name]
            if unit.ids.shape != torch.Size(self.shapes[name]):
                return None
            return 4 * (by_layer and own.layer != unit.layer) + 0.25 * abs(unit.rank - self.golden_rank(name, by_layer))

        used = self.elements.mask(self.found.values())
        for name, unit in assign(golden, [unit for unit in units if not used[unit.ids].any()], cost):
            self.found[name] = unit.ids

    def find_unused(self):
        """What the forward pass does not use, or uses in a way of its own, is found by shape and by its name."""
        used = self.elements.mask(self.found.values())
        own = [name for name in self.elements.shapes if not used[self.elements.ids(name)].any()]

        def cost(golden, name):
            shape, numbers = self.elements.shapes[name], lambda text: re.findall(r"\d+", text)
            if torch.Size(shape) != torch.Size(self.shapes[golden]):
                return None
            alike = difflib.SequenceMatcher(None, golden.lower(), name.lower()).ratio()
            return (numbers(golden)[:1] != numbers(name)[:1]) - alike

        golden = [name for name in self.shapes if name not in self.found]
        for name, found in assign(golden, own, cost):
            self.found[name] = self.elements.ids(found)
