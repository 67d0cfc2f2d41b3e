"""Keys in the order of the computation, what is allowed between two computations of one, and the first that departs."""

from .goldens import FLOAT64, MAX_POOLING, null_gradient

IN_LAYER = ("stream_scores", "fused_scores", "attention_probs", "attention_output", "output")
AFTER_LAYERS = (
    *("out.seq_output", "out.scores", "out.loss.item", "out.loss.attribute", "out.loss.total"),
    *("grad", "train", "after5"),
)
# The authors' total loss holds attribute losses summed in float32, so that a pure float64 one departs by up to 1e-7 of
# it, and parameters after five steps by 5e-7.
AFTER_FLOAT32_LABELS = 1e-6


def order(key):
    """Sorts keys in the order of the computation."""
    parts = key.split(".")
    if parts[0] == "param":
        return (0, key)
    if parts[:2] in (["out", "input"], ["out", "pooled"]):
        return (1, parts[1], key)
    if parts[:2] == ["out", "layer"]:
        return (2, int(parts[2]), IN_LAYER.index(parts[3]), key)
    return (3, next(i for i, prefix in enumerate(AFTER_LAYERS) if key.startswith(prefix)), key)


def judged(key, name, fusion):
    """Whether two computations of a key can be compared: not what is left to rounding."""
    if name == "max_pooling" and key.startswith(MAX_POOLING):
        return False
    return key.startswith(("param.", "grad.")) or not null_gradient(key, fusion)


def allowed(key, tensor, float32_labels=False):
    """The largest difference of an element: the golden README's, or what the rounding of attribute losses adds."""
    rounded = float32_labels and key.startswith(("out.loss.total", "grad.", "train.", "after5."))
    finite = tensor[tensor.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    return (AFTER_FLOAT32_LABELS if rounded else FLOAT64[0]) * largest + FLOAT64[1]


def first_departure(ours, golden, fusion, name):
    """The first key outside the tolerance of the golden README, and its error relative to the tensor's largest value."""
    for key in sorted(ours.keys() & golden.keys(), key=order):
        if not judged(key, name, fusion) or (null_gradient(key, fusion) and not key.startswith("param.")):
            continue
        error, largest = (ours[key] - golden[key]).abs().max().item(), golden[key].abs().max().item()
        if not error <= allowed(key, golden[key]):
            return key, error / largest if largest else error
    return None, 0.0
