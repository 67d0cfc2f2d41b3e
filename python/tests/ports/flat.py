"""DIF-SR with all trained parameters in one vector, as functions: matrices are [in, out], those of heads [heads, in, out]."""

import torch
from torch.nn import functional as F


def shapes(c):
    h, D, L = c["n_heads"], c["hidden_size"], c["MAX_ITEM_LIST_LENGTH"]
    found = {"items": (c["n_items"], D), "places": (L, D), "g": (D,), "b": (D,)}
    for k in range(c["n_layers"]):
        widths = [D, D, *c["attribute_hidden_size"]]
        for s, width in enumerate(widths):
            for name in ("q", "k"):
                found |= {f"{k}{name}{s}": (h, width, width // h), f"{k}{name}{s}b": (h, 1, width // h)}
        found |= {f"{k}v": (h, D, D // h), f"{k}vb": (h, 1, D // h), f"{k}o": (h, D // h, D), f"{k}ob": (D,)}
        if c["fusion_type"] == "gate":
            found |= {f"{k}m": (L, L), f"{k}mb": (L,), f"{k}n": (L, 1), f"{k}nb": (1,)}
        elif c["fusion_type"] == "concat":
            found |= {f"{k}m": (len(widths) * L, L), f"{k}mb": (L,)}
        found |= {f"{k}u": (D, c["inner_size"]), f"{k}ub": (c["inner_size"],), f"{k}d": (c["inner_size"], D), f"{k}db": (D,)}
        found |= {f"{k}{name}": (D,) for name in ("g1", "b1", "g2", "b2")}
    for i, attribute in enumerate(c["attributes"]):
        found |= {f"p{i}": (D, attribute["vocab"]), f"p{i}b": (attribute["vocab"],)}
    return found


def new(c):
    return (0.02 * torch.randn(sum(torch.Size(shape).numel() for shape in shapes(c).values()))).requires_grad_()


def unpack(theta, c):
    parts = theta.split([torch.Size(shape).numel() for shape in shapes(c).values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes(c).items(), parts)}


def heads(x, w, b):
    """[B, L, in] or [L, in], [heads, in, out] -> [B, heads, L, out] or [heads, L, out]"""
    return x.unsqueeze(-3) @ w + b


def fuse(p, k, kind, streams):
    if kind == "sum":
        return sum(streams)
    if kind == "concat":
        return torch.cat(streams, dim=-1) @ p[f"{k}m"] + p[f"{k}mb"]
    streams = torch.stack(streams)
    energies = torch.relu(streams @ p[f"{k}m"] + p[f"{k}mb"]) @ p[f"{k}n"] + p[f"{k}nb"]
    return (energies.softmax(dim=0) * streams).sum(dim=0)


def block(p, k, c, x, sides, hidden):
    inputs = [x, p["places"], *sides]
    qk = [[heads(s, p[f"{k}{n}{i}"], p[f"{k}{n}{i}b"]) for n in ("q", "k")] for i, s in enumerate(inputs)]
    scores = [(q @ key.transpose(-1, -2)).expand(len(x), -1, -1, -1) for q, key in qk]
    fused = fuse(p, k, c["fusion_type"], [*scores[2:], *scores[:2]])  # attributes, items, places
    v = heads(x, p[f"{k}v"], p[f"{k}vb"])
    weights = torch.softmax(fused / v.shape[-1] ** 0.5 + hidden, dim=-1)
    mixed = (weights @ v @ p[f"{k}o"]).sum(dim=1) + p[f"{k}ob"]
    x = F.layer_norm(x + mixed, x.shape[-1:], p[f"{k}g1"], p[f"{k}b1"], 1e-12)
    inner = F.gelu(x @ p[f"{k}u"] + p[f"{k}ub"]) @ p[f"{k}d"] + p[f"{k}db"]
    return F.layer_norm(x + inner, x.shape[-1:], p[f"{k}g2"], p[f"{k}b2"], 1e-12)


def loss(theta, tables, c, tokens, sequences, lengths, targets):
    p = unpack(theta, c)
    blocked = (sequences == 0)[:, None, None] | torch.ones(2 * [sequences.shape[1]], dtype=torch.bool).triu(1)
    hidden = blocked * -1e4
    sides = []
    for table, ids in zip(tables, tokens):
        ids = ids[sequences]
        sides.append(table[ids] if ids.dim() == 2 else (table[ids] * (ids > 0)[..., None]).sum(dim=-2))
    x = F.layer_norm(F.embedding(sequences, p["items"], padding_idx=0), (c["hidden_size"],), p["g"], p["b"], 1e-12)
    for k in range(c["n_layers"]):
        x = block(p, k, c, x, sides, hidden)
    last = x[torch.arange(len(x)), lengths - 1]
    total = F.cross_entropy(last @ p["items"].T, targets)
    for i, (ids, weight) in enumerate(zip(tokens, c["lamdas"])):
        own = ids[targets].view(len(last), -1)
        labels = torch.zeros(len(last), c["attributes"][i]["vocab"], dtype=last.dtype).scatter_add_(
            1, own, torch.ones_like(own).to(last)
        )
        logits = last @ p[f"p{i}"] + p[f"p{i}b"]
        total = total + weight * F.binary_cross_entropy_with_logits(logits[:, 1:], labels[:, 1:])
    return total
