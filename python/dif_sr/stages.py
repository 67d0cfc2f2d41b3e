"""Which tensor of a forward pass is which stage of the case.

By value: the tensor that equals the golden one, in whatever layout, is the stage. Where none does, by role: what a softmax
gives is the layer's probabilities, what its LayerNorm gives the attention's output. So a wrong stage shows as a departure.
A stage that no tensor equals, while a later one is right, is not wrong: the model has another form there, and nothing is
dumped for it. Stages that the judge requires stay required.
"""

import itertools

import torch

from .golden_names import place
from .trace import dependencies

IN_LAYER = ("stream_scores", "fused_scores", "attention_probs", "attention_output", "output")
BEHIND = ("out.seq_output", "out.scores", "out.loss.item", "out.loss.attribute", "out.loss.total")
# What follows from labels in float32, as the authors' are: nothing closer can be asked of an attribute loss.
FLOAT32_LABELS = 1e-6


def order(key):
    """Sorts stages as they are computed."""
    parts = key.split(".")
    if parts[1] in ("input", "pooled"):
        return (0, parts[1] == "pooled", 0)
    if parts[1] == "layer":
        return (1, int(parts[2]), IN_LAYER.index(parts[3]))
    return (2, next(i for i, prefix in enumerate(BEHIND) if key.startswith(prefix)), 0)


def is_aside(key):
    """Whether it is no part of the main path: later stages can be right though it is wrong, and it though they are."""
    stream = key.rsplit(".", 1)[1] if ".stream_scores." in key else "item"
    return key.startswith(("out.pooled.", "out.loss.attribute.")) or stream != "item"


def bound(golden, dtype):
    """The judge's: relative to the tensor's largest value."""
    rtol, atol = (1e-9, 1e-12) if dtype == torch.float64 else (2e-4, 1e-6)
    return rtol * golden.abs().max().item() + atol


def layouts(value, golden):
    """`value` in each layout that has the golden shape: axes exchanged, leading axes merged."""
    for axes in itertools.permutations(range(golden.dim())):
        inverse = [axes.index(axis) for axis in range(golden.dim())]
        yield value.reshape([golden.shape[axis] for axis in axes]).permute(inverse)


class Stages:
    """The stages of one traced forward pass."""

    def __init__(self, case, nodes, elements, found, dtype):
        golden = {key: torch.tensor(value) for key, value in case.tensors.items() if key.startswith("out.")}
        self.total = golden.pop("out.loss.total")
        self.golden = dict(sorted(golden.items(), key=lambda item: order(item[0])))
        self.config, self.attributes, self.nodes, self.dtype = case.config, case.attributes, nodes, dtype
        self.names = list(found)
        labels = torch.full((elements.total,), -1)
        for number, ids in enumerate(found.values()):
            labels[ids] = number
        self.labels = labels
        self.depends = [{self.names[label] for label in some} for some in dependencies(nodes, labels)]
        self.values, self.by_value, self.by_role, self.absent = {}, {}, [], []
        self.at = {}

    def run(self, total, given=()):
        """Finds everything but what is `given`: `values` {key: tensor}, and in which way each was found."""
        close = [key for key in self.golden if key not in given and self.find_by_value(key)]
        if (total.cpu() - self.total).abs() <= FLOAT32_LABELS * self.total.abs():
            close.append("out.loss.total")
        last = max((order(key) for key in close if not is_aside(key)), default=(-1, 0, 0))
        for key in self.golden:
            if key in self.values or key in given:
                continue
            # Pooled attributes come into the main path with the fusion, not before.
            reach = (1, 0, 0) if key.startswith("out.pooled.") else order(key)
            other_form = reach < last or (key.startswith("out.loss.attribute") and self.rounded(key))
            if other_form or not self.find_by_role(key):
                self.absent.append(key)
        return self.values

    def find_by_value(self, key):
        golden = self.golden[key]
        best, allowed = None, bound(golden, self.dtype)
        largest = golden.abs().max().item()
        for number, node in enumerate(self.nodes):
            value = node.value
            if value.numel() != golden.numel() or not abs(value.abs().max().item() - largest) <= 2 * allowed:
                continue
            for turned in layouts(value, golden):
                error = (turned.double() - golden).abs().max().item()
                if error <= allowed and (best is None or error < best[0]):
                    best = (error, number, turned)
                    break
        if best:
            self.keep(key, best[1], best[2])
            self.by_value[key] = best[0]
        return best is not None

    def keep(self, key, number, value):
        self.values[key], self.at[key] = value.contiguous(), number

    def rounded(self, key):
        """Whether an attribute loss is there but for the rounding of labels in float32."""
        golden = self.golden[key]
        near = (abs(node.value.double().sum().item() - golden.item()) for node in self.nodes if node.value.numel() == 1)
        return any(error <= FLOAT32_LABELS * abs(golden.item()) for error in near)

    def find_by_role(self, key):
        part = key.split(".")[3] if ".layer." in key else key.split(".")[1]
        number = {
            "input": self.behind_norm,
            "pooled": self.pooled,
            "stream_scores": self.stream_scores,
            "fused_scores": self.fused_scores,
            "attention_probs": self.probabilities,
            "attention_output": self.behind_norm,
            "output": self.behind_norm,
            "seq_output": self.seq_output,
            "scores": self.scores,
            "loss": self.loss,
        }[part](key)
        if number is None:
            return False
        value, shape = self.nodes[number].value, self.golden[key].shape
        self.keep(key, number, value.reshape(shape))
        self.by_role.append(key)
        return True

    def sized(self, key, start=0):
        """(number, node, what it depends on) of the tensors that have as many elements as the stage."""
        count = self.golden[key].numel()
        for number in range(start, len(self.nodes)):
            if self.nodes[number].value.numel() == count:
                yield number, self.nodes[number], self.depends[number]

    def first(self, key, fits):
        return next((number for number, node, depends in self.sized(key) if fits(node, depends)), None)

    def of_layer(self, k, *modules):
        """The parameters of a layer's modules, or all of the layer."""
        start = f"trm_encoder.layer.{k}."
        return {n for n in self.names if n.startswith(start) and (not modules or any(f".{m}." in n for m in modules))}

    def beyond(self, k):
        """The parameters of later layers."""
        return {name for later in range(k + 1, self.config["n_layers"]) for name in self.of_layer(later)}

    def behind_norm(self, key):
        """Behind the LayerNorm: the first tensor that depends on its last parameter."""
        if key == "out.input":
            norm = "LayerNorm."
        else:
            _, _, k, part = key.split(".")
            norm = f"trm_encoder.layer.{k}.{'feed_forward' if part == 'output' else 'multi_head_attention'}.LayerNorm."
        for kind in ("bias", "weight"):
            if norm + kind in self.names:
                return self.first(key, lambda _node, depends: norm + kind in depends)
        return None

    def pooled(self, key):
        """The last tensor that is made of the attribute's table alone."""
        index = self.attributes.index(key.split(".")[2])
        tables = {name for name in self.names if place(name).kind == "table" and place(name).stream == index}
        fitting = [number for number, _, depends in self.sized(key) if depends == tables and tables]
        return fitting[-1] if fitting else None

    def stream_scores(self, key):
        """The first product of this stream's queries and keys, and of no other parameter of the layer."""
        _, _, k, _, stream = key.split(".", 4)
        suffix = {"item": "", "position": "_p"}.get(stream)
        if suffix is None:
            own = self.of_layer(
                k, f"query_layers.{self.attributes.index(stream)}", f"key_layers.{self.attributes.index(stream)}"
            )
        else:
            own = self.of_layer(k, f"query{suffix}", f"key{suffix}")
        weights = {name for name in own if name.endswith("weight")}
        layer = self.of_layer(k)
        return self.first(key, lambda _node, depends: weights and weights <= depends and depends & layer <= own)

    def probabilities(self, key):
        """The first tensor of a layer that a softmax gives, or that is one: not negative, of sum 1 along an axis."""
        k = int(key.split(".")[2])
        own, later = self.of_layer(k, "query", "key", "query_p", "key_p"), self.beyond(k)

        def fits(node, depends):
            if not depends & own or depends & later or node.value.shape[-1] != self.golden[key].shape[-1]:
                return False
            value = node.value.double()
            sums = [(value.sum(dim=axis) - 1).abs().max() < 1e-5 for axis in range(value.dim())]
            return node.op == "_softmax" or bool(value.min() >= 0 and any(sums))

        return self.first(key, fits)

    def fused_scores(self, key):
        """From the probabilities back over scale and mask: what each step is made of, as long as that is one tensor."""
        number = self.probabilities(key.replace("fused_scores", "attention_probs"))
        while number is not None:
            node = self.nodes[number]
            made_of = {o.node for o in node.operands if o.node is not None and self.depends[o.node]}
            pure = [o for o in node.operands if o.ids is not None]
            before = made_of.pop() if len(made_of) == 1 and not pure else None
            if before is None or self.nodes[before].value.numel() != node.value.numel():
                return None if node.op == "_softmax" else number
            number = before
        return None

    def scores(self, key):
        """What the cross entropy is given; without one the first product with the item table behind the layers."""
        behind = {"item_embedding.weight"} | self.of_layer(self.config["n_layers"] - 1)
        fits = lambda node, depends: node.value.shape[-1] == self.config["n_items"] and len(depends & behind) > 1
        for number, node, depends in self.sized(key):
            if node.op == "_log_softmax" and fits(node, depends):
                return node.operands[0].node
        return self.first(key, fits)

    def seq_output(self, key):
        """What the item table is multiplied by."""
        number = self.at.get("out.scores", self.scores("out.scores"))
        while number is not None:
            operands = self.nodes[number].operands
            made_of = [o.node for o in operands if o.node is not None and self.depends[o.node]]
            size = [n for n in made_of if self.nodes[n].value.numel() == self.golden[key].numel()]
            if size:
                return size[0]
            number = made_of[0] if len(made_of) == 1 else None
        return None

    def loss(self, key):
        """The first single number that depends on what the loss is made of: the attribute's predictor, or none."""
        predictors = {name for name in self.names if name.startswith("ap.")}
        if key == "out.loss.item":
            return self.first(key, lambda _node, depends: "item_embedding.weight" in depends and not depends & predictors)
        own = {name for name in predictors if name.startswith(f"ap.{self.attributes.index(key.split('.')[3])}.")}
        return self.first(key, lambda _node, depends: bool(depends & own) and not depends & (predictors - own))
