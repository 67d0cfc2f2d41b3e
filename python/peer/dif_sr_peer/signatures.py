"""What every fault does to every stage of a case, as a few numbers: the tables in which a judge looks up a cause.

    python -m dif_sr_peer.signatures [--cases DIR] [--out DIR] [--case NAME...] [--check]

For each bundled case the peer computes all stages without a fault, with each fault of the catalogue, and with pairs of
them; of every tensor two projections on fixed vectors and the largest magnitude are kept. judge/causes/README.md has the
format. Faults that a case cannot show are left out and printed, those that it cannot tell apart become one entry.
`--check` recomputes the tables and compares. Exit code 1: a table differs.
"""

import argparse
import copy
import itertools
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import case, faults
from .faults.registry import predictor
from .goldens import MAX_POOLING
from .stages import allowed, judged, order

# Parameters whose gradients and trained values are kept: one of each kind.
LAYER_0 = "layer.0.multi_head_attention."
GRADIENTS = (
    *("item_embedding.weight", "position_embedding.weight", "LayerNorm.weight", "ap.0.weight", "ap.1.weight"),
    *(f"{LAYER_0}query.weight", f"{LAYER_0}value.weight", "layer.1.feed_forward.dense_2.weight"),
    *(f"{LAYER_0}query_layers.0.weight", f"{LAYER_0}query_layers.1.weight", f"{LAYER_0}fusion_layer.weight"),
    *(f"{LAYER_0}fusion_layer.projection.0.weight", f"{LAYER_0}fusion_layer.projection.2.bias"),
)
TRAINED = (
    *("item_embedding.weight", "position_embedding.weight", "LayerNorm.weight", "ap.0.weight"),
    *(f"{LAYER_0}query.weight", f"{LAYER_0}query.bias", f"{LAYER_0}fusion_layer.weight"),
    f"{LAYER_0}fusion_layer.projection.0.weight",
)
LOSSES = ("loss.2", "loss.3", "loss.5")  # before step 1 it is `out.loss.total`
PAIRS = 450
NOISE = 0.1  # of what is allowed: more than that, and a key is left to rounding
NOTHING = torch.empty(0)
CHAOS = 1e12  # scores beyond it leave what `max_pooling` leaves to rounding there


def weights(k, n):
    """w(k, i) for i < n: SplitMix64's outputs of k · 2^40 + i as numbers in [-1, 1)."""
    with np.errstate(over="ignore"):
        z = (np.arange(n, dtype=np.uint64) + np.uint64((k << 40) + 1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 * 2 - 1


WEIGHTS = {}


def project(k, tensor):
    flat = tensor.detach().double().flatten().numpy()
    if (k, flat.size) not in WEIGHTS:
        WEIGHTS[k, flat.size] = weights(k, flat.size)
    with np.errstate(invalid="ignore"):
        return float(np.sum(flat * WEIGHTS[k, flat.size]))


def rounded(values):
    """float64 to 40 bits, 5e-13 of a number, a two-thousandth of what is allowed: the zeros behind compress (crates.io takes
    10 MB a crate)."""
    values = torch.tensor(values, dtype=torch.float64)
    kept = (values.view(torch.int64) + (1 << 12)) & -(1 << 13)
    return torch.where(values.isfinite(), kept.view(torch.float64), values)


def signature(tensor):
    """Projections 0 and 1, and the largest magnitude; NaN for a tensor that is absent."""
    if tensor is None:
        return [np.nan] * 3
    return [project(0, tensor), project(1, tensor), tensor.abs().max().item()]


@dataclass(frozen=True)
class Found:
    """A fault that shows in the case, with all that it computes."""

    fault: faults.Fault
    tensors: dict
    unstable: frozenset
    first: str
    added: list
    missing: list
    twins: tuple = ()


class Case:
    """A case, and the peer on it, with and without faults."""

    def __init__(self, folder):
        self.name = folder.name
        self.model, self.inputs, self.config = case.build(folder)
        self.golden = load_file(folder / "tensors.safetensors")
        self.further = case.further_stages(self.config).keys()
        self.exact_labels = not predictor(self.config)
        self.plain = self.compute([]).tensors
        noise = self.noise([], self.plain)
        self.keys = [key for key in sorted(self.plain, key=order) if self.kept(key) and key not in noise]

    def kept(self, key):
        prefix, _, name = key.partition(".")
        name = name.removeprefix("trm_encoder.")
        if not judged(key, self.name, self.config["fusion_type"]):
            return False
        if prefix == "param":
            return name == "item_embedding.weight" or name.startswith("feature_embed_layer_list")
        return name in {"grad": GRADIENTS, "after5": TRAINED, "train": LOSSES}.get(prefix, (name,))

    def compute(self, planted, nudge=None, train=True):
        model = copy.deepcopy(self.model)
        if nudge is not None:
            generator = torch.Generator().manual_seed(nudge)
            with torch.no_grad():
                for parameter in model.parameters():
                    ulps = torch.randint(-1, 2, parameter.shape, generator=generator)
                    parameter.mul_(1 + ulps * torch.finfo(parameter.dtype).eps)
        for fault in planted:
            fault.plant(model)
        return case.compute(model, self.inputs, self.config, further=True, train=train)

    def allowed(self, key, tensor):
        return allowed(key, tensor, float32_labels=not self.exact_labels)

    def differs(self, key, tensor, other, share=1.0):
        if other.shape != tensor.shape:
            return True
        if torch.equal(tensor, other):
            return False
        difference = torch.where(tensor == other, 0.0, (tensor - other).abs())  # −∞ equals itself, NaN nothing
        return not difference.max().item() <= share * self.allowed(key, tensor)

    def noise(self, planted, tensors):
        """Keys that are left to rounding: those of the forward pass that one unit in the last place of the parameters moves
        by a good part of what is allowed, and all that comes after scores so large that they swallow the others."""
        if planted and all(
            torch.equal(tensors.get(key, NOTHING), self.plain[key]) for key in self.plain if key[:9] == "out.layer"
        ):
            return frozenset()  # the fault comes later than scores
        scores = [tensors[key].abs().max() for key in tensors if "_scores" in key]
        chaotic = {key for key in tensors if key.startswith(MAX_POOLING)} if max(scores) > CHAOS else set()
        nudged = self.compute(planted, nudge=1, train=False).tensors
        computed = [key for key in nudged if not key.startswith("param.")]
        return frozenset(chaotic | {key for key in computed if self.differs(key, tensors[key], nudged[key], NOISE)})

    def find(self, fault):
        """-> `Found`, or `None` if the fault does not show."""
        tensors = self.compute([fault]).tensors
        departs = lambda key: key not in tensors or self.differs(key, self.plain[key], tensors[key])
        first = next((key for key in self.keys if departs(key)), None)
        missing = self.compact(self.golden.keys() - tensors.keys(), "in.")
        added = self.compact(tensors.keys() - self.golden.keys() - self.further, "in.")
        if first is None and not missing and not added:
            return None
        return Found(fault, tensors, self.noise([fault], tensors), first or (missing + added)[0], added, missing)

    def compact(self, keys, left_out):
        """`grad.x` and `after5.x` follow from `param.x`, and are not said beside it."""
        follows = lambda key: key.startswith(("grad.", "after5.")) and f"param.{key.partition('.')[2]}" in keys
        only_trained = lambda key: key.startswith("after5.") and f"grad.{key.partition('.')[2]}" in keys
        kept = [k for k in keys if not k.startswith(left_out) and not follows(k) and not only_trained(k)]
        return sorted(kept, key=order)

    def same(self, one, other):
        """Whether no key of the case tells two faults apart."""
        if (one.missing, one.added) != (other.missing, other.added):
            return False
        for key in self.keys:
            a, b = one.tensors.get(key), other.tensors.get(key)
            if (a is None) != (b is None):
                return False
            if a is not None and key not in one.unstable | other.unstable and self.differs(key, a, b):
                return False
        return True


def distinct(case_, found):
    """Faults that the case cannot tell apart become one, whose sentence names them all."""
    kept = []
    for candidate in found:
        twin = next((i for i, other in enumerate(kept) if case_.same(other, candidate)), None)
        if twin is None:
            kept.append(candidate)
            continue
        one, other = kept[twin].fault, candidate.fault
        print(f"{case_.name}: not told apart: {one.id}, {other.id}", flush=True)
        text = f"{one.text}; or, the same here: {other.text}"
        kept[twin] = replace(kept[twin], fault=replace(one, text=text), twins=(*kept[twin].twins, other.id))
    return kept


def pairs_of(case_, found):
    """Pairs of common faults of different families that show before the gradients, nearest in the computation first."""
    stage = {one.fault.id: case_.keys.index(one.first) for one in found if one.first in case_.keys}
    forward = [i for i, one in enumerate(found) if one.fault.common and one.first.startswith(("param.", "out."))]
    pairs = [(i, j) for i, j in itertools.combinations(forward, 2) if found[i].fault.family != found[j].fault.family]
    distance = lambda pair: abs(stage[found[pair[0]].fault.id] - stage[found[pair[1]].fault.id])
    return sorted(sorted(pairs, key=distance)[:PAIRS])


def table(folder):
    """-> (tensors, metadata) of one case's file."""
    case_ = Case(folder)
    listed = faults.of(case_.config)
    found = {name: case_.find(fault) for name, fault in listed.items()}
    hidden = [name for name, one in found.items() if one is None]
    print(f"{case_.name}: {len(listed) - len(hidden)} of {len(listed)} faults show; not: {', '.join(hidden)}", flush=True)
    found = distinct(case_, [one for one in found.values() if one])
    pair_keys = [key for key in case_.keys if key.startswith("out.")]
    pairs, of_pairs = [], []
    for pair in pairs_of(case_, found):
        planted = [found[i].fault for i in pair]
        try:
            tensors = case_.compute(planted, train=False).tensors
        except (RuntimeError, AttributeError, KeyError, TypeError):  # one takes away what the other changes
            continue
        pairs.append(pair)
        of_pairs.append([project(0, tensors[key]) if key in tensors else np.nan for key in pair_keys])
    tensors = {f"stage.{key}": case_.plain[key] for key in case_.further}
    tensors |= {
        "single": rounded([[signature(one.tensors.get(key)) for key in case_.keys] for one in found]),
        "unstable": torch.tensor([[key in one.unstable for key in case_.keys] for one in found], dtype=torch.uint8),
        "golden": rounded([signature(case_.plain[key]) for key in case_.keys]),
        "pairs": torch.tensor(pairs, dtype=torch.int32).reshape(-1, 2),
        "pair": rounded(of_pairs).reshape(-1, len(pair_keys)),
    }
    entries = [
        {"id": one.fault.id, "text": one.fault.text, "first_stage": one.first} | ({"twins": one.twins} if one.twins else {})
        for one in found
    ]
    extra = {one.fault.id: {"keys_added": one.added, "keys_missing": one.missing} for one in found if one.added or one.missing}
    metadata = {"faults": entries, "keys": case_.keys, "pair_keys": pair_keys, "extra": extra}
    return tensors, {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}


def read(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


def differences(ours, theirs):
    """Sentences on what a table holds and a recomputation does not. Projections may differ as the judge allows."""
    (tensors, metadata), (kept, kept_metadata) = ours, theirs
    wrong = [f"metadata `{key}` differs" for key in metadata if metadata[key] != kept_metadata.get(key)]
    wrong += [f"tensor {key} is not in the file" for key in tensors if key not in kept]
    if wrong:
        return wrong
    largest = tensors["single"][..., 2:].nan_to_num(0.0, 0.0, 0.0)
    ignored = (tensors["unstable"] | kept["unstable"]).bool().unsqueeze(-1)
    bounds = {"single": torch.where(ignored, torch.inf, 1e-6 * largest * 40 + 1e-9)}
    for key, tensor in tensors.items():
        if tensor.shape != kept[key].shape:
            wrong.append(f"{key}: shape {list(kept[key].shape)}, recomputed {list(tensor.shape)}")
            continue
        a, b = tensor.double().nan_to_num(1e300), kept[key].double().nan_to_num(1e300)
        bound = bounds.get(key, 0.0 if key == "pairs" else 1e-7 * b[b.abs() < 1e299].abs().max().item() + 1e-9)
        if key != "unstable" and not bool(((a - b).abs() <= bound).all()):
            wrong.append(f"{key}: recomputed differs by {(a - b).abs().max().item():.1e}")
    return wrong


def main():
    parser = argparse.ArgumentParser(prog="dif_sr_peer.signatures", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, default=Path("judge/cases"), help="folder of the bundled cases")
    parser.add_argument("--out", type=Path, default=Path("judge/causes"), help="folder of the tables")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="some cases alone")
    parser.add_argument("--check", action="store_true", help="recompute and compare, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = sorted(path.parent.name for path in arguments.cases.glob("*/config.yaml"))
    unknown = set(arguments.case or ()) - set(names)
    if unknown or not names:
        parser.error(f"{arguments.cases}: no case {' '.join(sorted(unknown))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in arguments.case or names:
        path = arguments.out / f"{name}.safetensors"
        computed = table(arguments.cases / name)
        if arguments.check:
            wrong = differences(computed, read(path))
            print(f"{path}: {'; '.join(wrong) or 'as recomputed'}", flush=True)
            failed |= bool(wrong)
        else:
            save_file(*[{k: v.contiguous() for k, v in computed[0].items()}, path, computed[1]])
            path.chmod(0o644)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
