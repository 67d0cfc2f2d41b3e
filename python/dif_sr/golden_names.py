"""What the names of the case's parameters say: RecBole's paths, taken apart."""

from dataclasses import dataclass
from typing import Optional, Union

# A layer's modules, in the order of the computation.
MODULES = (
    *("query", "key", "value", "query_p", "key_p", "query_layers", "key_layers", "fusion_layer", "dense", "LayerNorm"),
    *("dense_1", "dense_2"),
)
ROLES = {"query": "q", "key": "k", "value": "v", "dense": "o"}


@dataclass(frozen=True)
class Place:
    """`kind`: table, matrix, bias, scale or shift (of a LayerNorm). `stream`: what is seen by it: "position", an attribute's
    number, or "mixed". `role`: q, k, v, o or None. `order` sorts parameters as they are used."""

    kind: str
    stream: Union[str, int]
    role: Optional[str]
    layer: Optional[int]
    order: tuple


def place(name):
    """The place of a parameter."""
    parts = name.split(".")
    layer = int(parts[2]) if parts[0] == "trm_encoder" else None
    module = parts[4] if layer is not None else parts[0]
    if module in ("item_embedding", "position_embedding"):
        return Place("table", module.split("_")[0], None, None, (-1,))
    if module == "feature_embed_layer_list":
        return Place("table", int(parts[1]), None, None, (-1,))
    index = next((int(part) for part in parts[4 if layer is not None else 0 :] if part.isdigit()), 0)
    stream = "position" if module.endswith("_p") else index if module.endswith("_layers") else "mixed"
    behind = 1 if module == "ap" else 0  # predictors come after all layers, the input's LayerNorm before
    rank = MODULES.index(module) if module in MODULES else 0
    # In a layer there are two LayerNorms: that of the feed-forward network is behind its matrices.
    rank += 20 if parts[-2] == "LayerNorm" and "feed_forward" in parts else 0
    order = (behind, -1 if layer is None else layer, rank, index)
    if module == "LayerNorm":
        kind = "scale" if parts[-1] == "weight" else "shift"
    else:
        kind = "matrix" if parts[-1] == "weight" else "bias"
    return Place(kind, stream, ROLES.get(module.split("_")[0] if "dense_" not in module else ""), layer, order)
