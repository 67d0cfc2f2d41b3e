"""DIF-SR as functions of one dictionary of tensors, the layers stacked, heads an axis of their own, by einsum.

Shapes: N layers, h heads, D hidden size, d = D / h, F inner size, L positions, V items; attribute `a` has its own e = size / h.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, gelu, layer_norm


def shapes(c):
    """name -> shape of every trained tensor."""
    n, h, size, inner, length = (c[k] for k in ("n_layers", "n_heads", "hidden_size", "inner_size", "MAX_ITEM_LIST_LENGTH"))
    d = size // h
    found = {"item_table": (c["n_items"], size), "position_table": (length, size), "ln_scale": (size,), "ln_shift": (size,)}
    for name in ("q", "k", "v", "qp", "kp"):
        found |= {f"w_{name}": (n, size, h, d), f"b_{name}": (n, h, d)}
    for attribute, wide in zip(c["attributes"], c["attribute_hidden_size"]):
        for name in ("q", "k"):
            found |= {
                f"w_{name}_{attribute['name']}": (n, wide, h, wide // h),
                f"b_{name}_{attribute['name']}": (n, h, wide // h),
            }
        found |= {f"w_{attribute['name']}": (size, attribute["vocab"]), f"b_{attribute['name']}": (attribute["vocab"],)}
    found |= {"w_o": (n, h, d, size), "b_o": (n, size), "w_1": (n, size, inner), "b_1": (n, inner)}
    found |= {"w_2": (n, inner, size), "b_2": (n, size)}
    for name in ("ln1", "ln2"):
        found |= {f"{name}_scale": (n, size), f"{name}_shift": (n, size)}
    streams = len(c["attributes"]) + 2
    if c["fusion_type"] == "gate":
        found |= {"gate_1": (n, length, length), "gate_1_b": (n, length), "gate_2": (n, length), "gate_2_b": (n,)}
    elif c["fusion_type"] == "concat":
        found |= {"mix": (n, streams, length, length), "mix_b": (n, length)}
    return found


def attend(c, p, k, x, attributes, seen, keep):
    def scores(name, x):
        query = torch.einsum("bid,dhe->bhie", x, p[f"w_q{name}"][k]) + p[f"b_q{name}"][k, :, None]
        key = torch.einsum("bjd,dhe->bhje", x, p[f"w_k{name}"][k]) + p[f"b_k{name}"][k, :, None]
        return torch.einsum("bhie,bhje->bhij", query, key)

    streams = [scores(f"_{name}", vectors) for name, vectors in attributes.items()]
    streams = torch.stack([*streams, scores("", x), scores("p", p["position_table"].expand_as(x))], dim=2)  # [B, h, s, L, L]
    if c["fusion_type"] == "gate":
        hidden = torch.relu(torch.einsum("bhsij,lj->bhsil", streams, p["gate_1"][k]) + p["gate_1_b"][k])
        energy = torch.einsum("bhsil,l->bhsi", hidden, p["gate_2"][k]) + p["gate_2_b"][k]
        fused = torch.einsum("bhsi,bhsij->bhij", torch.softmax(energy, dim=2), streams)
    elif c["fusion_type"] == "concat":
        fused = torch.einsum("bhsij,sjl->bhil", streams, p["mix"][k]) + p["mix_b"][k]
    else:
        fused = streams.sum(dim=2)
    keep(f"out.layer.{k}.fused_scores", fused)
    value = torch.einsum("bjd,dhe->bhje", x, p["w_v"][k]) + p["b_v"][k, :, None]
    probabilities = torch.softmax((fused / value.shape[-1] ** 0.5).where(seen, -1e4), dim=-1)
    keep(f"out.layer.{k}.attention_probs", probabilities)
    return torch.einsum("bhij,bhje,hed->bid", probabilities, value, p["w_o"][k]) + p["b_o"][k]


def losses(c, p, tables, tokens, batch, keep=lambda key, tensor: None):
    """-> total, item, `attribute.<name>`. `tables` are not trained; `tokens` maps an attribute to [V] or [V, S]."""
    seq, length = batch["item_seq"], batch["item_seq_len"]
    size, seen = (
        p["item_table"].shape[-1:],
        torch.tril(torch.ones(2 * (seq.shape[1],), dtype=torch.bool)) & (seq > 0)[:, None, None],
    )
    norm = lambda x, name, *k: layer_norm(x, size, p[f"{name}_scale"][k], p[f"{name}_shift"][k], 1e-12)
    attributes = {}
    for name, ids in tokens.items():
        own = ids[seq] if ids.dim() == 2 else ids[seq].unsqueeze(-1)
        weight = (own > 0).to(p["item_table"].dtype) if ids.dim() == 2 else torch.ones(own.shape, dtype=p["item_table"].dtype)
        attributes[name] = torch.einsum("bls,blsd->bld", weight, tables[name][own])
    looked_up = torch.cat([p["item_table"][:1].detach(), p["item_table"][1:]])  # row 0 learns from the scores alone
    x = norm(looked_up[seq], "ln")
    for k in range(c["n_layers"]):
        x = norm(x + attend(c, p, k, x, attributes, seen, keep), "ln1", k)
        keep(f"out.layer.{k}.attention_output", x)
        x = norm(x + gelu(x @ p["w_1"][k] + p["b_1"][k]) @ p["w_2"][k] + p["b_2"][k], "ln2", k)
        keep(f"out.layer.{k}.output", x)
    last = x[torch.arange(len(x)), length - 1]
    keep("out.seq_output", last)
    scores = last @ p["item_table"].T
    keep("out.scores", scores)
    found = {"item": cross_entropy(scores, batch["pos_items"])}
    total = found["item"]
    for (name, ids), lamda in zip(tokens.items(), c["lamdas"]):
        logits = last @ p[f"w_{name}"] + p[f"b_{name}"]
        target = ids[batch["pos_items"]].view(len(seq), -1)
        labels = (target.unsqueeze(-1) == torch.arange(logits.shape[-1])).sum(dim=1).to(logits.dtype)
        found[f"attribute.{name}"] = binary_cross_entropy_with_logits(logits[:, 1:], labels[:, 1:])
        total = total + lamda * found[f"attribute.{name}"]
    return found | {"total": total}
