"""DIF-SR with fused projections and short names."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class SideAttention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.n_head, self.n_embd, self.fusion = cfg["n_heads"], cfg["hidden_size"], cfg["fusion_type"]
        self.c_attn = nn.Linear(self.n_embd, 3 * self.n_embd)
        self.c_pos = nn.Linear(self.n_embd, 2 * self.n_embd)
        self.c_side = nn.ModuleList([nn.Linear(d, 2 * d) for d in cfg["attribute_hidden_size"]])
        self.c_proj = nn.Linear(self.n_embd, self.n_embd)
        block, n = cfg["MAX_ITEM_LIST_LENGTH"], 2 + len(self.c_side)
        if self.fusion == "gate":
            self.gate_fc, self.gate_out = nn.Linear(block, block), nn.Linear(block, 1)
        elif self.fusion == "concat":
            self.mix = nn.Linear(n * block, block)

    def scores(self, qk):
        q, k = (t.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for t in qk)
        return q @ k.mT

    def fuse(self, streams):
        if self.fusion == "sum":
            return sum(streams)
        if self.fusion == "concat":
            return self.mix(torch.cat(streams, dim=-1))
        stacked = torch.stack(streams, dim=-2)
        alpha = self.gate_out(F.relu(self.gate_fc(stacked))).softmax(dim=-2)
        return (alpha * stacked).sum(dim=-2)

    def forward(self, x, pos, side, mask):
        q, k, v = self.c_attn(x).split(self.n_embd, dim=-1)
        streams = [self.scores(layer(s).chunk(2, dim=-1)) for layer, s in zip(self.c_side, side)]
        streams += [self.scores((q, k)), self.scores(self.c_pos(pos).chunk(2, dim=-1))]
        att = self.fuse(streams) * (self.n_embd // self.n_head) ** -0.5
        att = att.masked_fill(mask, -math.inf).softmax(dim=-1)
        v = v.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
        return self.c_proj((att @ v).transpose(1, 2).flatten(-2)), att


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        n = cfg["hidden_size"]
        self.attn, self.ln_1, self.ln_2 = SideAttention(cfg), nn.LayerNorm(n, 1e-12), nn.LayerNorm(n, 1e-12)
        self.mlp = nn.Sequential(nn.Linear(n, cfg["inner_size"]), nn.GELU(), nn.Linear(cfg["inner_size"], n))

    def forward(self, x, *rest):
        x = self.ln_1(x + self.attn(x, *rest)[0])
        return self.ln_2(x + self.mlp(x))


class Rec(nn.Module):
    """`side`: name -> ids of every item, [V] or [V, S]."""

    def __init__(self, cfg, side):
        super().__init__()
        self.cfg, n = cfg, cfg["hidden_size"]
        self.wte, self.wpe = nn.Embedding(cfg["n_items"], n, padding_idx=0), nn.Embedding(cfg["MAX_ITEM_LIST_LENGTH"], n)
        vocabs = [a["vocab"] for a in cfg["attributes"]]
        self.wse = nn.ParameterList(
            [nn.Parameter(torch.randn(v, d), requires_grad=False) for v, d in zip(vocabs, cfg["attribute_hidden_size"])]
        )
        for i, a in enumerate(cfg["attributes"]):
            self.register_buffer(f"side_{i}", side[a["name"]])
        self.ln_in, self.blocks = nn.LayerNorm(n, 1e-12), nn.ModuleList(Block(cfg) for _ in range(cfg["n_layers"]))
        self.heads = nn.ModuleList([nn.Linear(n, v) for v in vocabs])

    def side(self, i, items):
        ids = getattr(self, f"side_{i}")[items]
        vectors = F.embedding(ids, self.wse[i])
        return vectors if ids.dim() == items.dim() else (vectors * (ids > 0).unsqueeze(-1)).sum(dim=-2)

    def encode(self, seq, lengths):
        future = torch.ones(seq.shape[1], seq.shape[1], dtype=torch.bool, device=seq.device).triu(1)
        mask = (future | (seq == 0).unsqueeze(1)).unsqueeze(1)
        pos = self.wpe.weight.expand(len(seq), -1, -1)
        x = self.ln_in(self.wte(seq))
        for block in self.blocks:
            x = block(x, pos, [self.side(i, seq) for i in range(len(self.wse))], mask)
        return x[torch.arange(len(x)), lengths - 1]

    def loss(self, seq, lengths, target):
        h = self.encode(seq, lengths)
        losses = {"item": F.cross_entropy(h @ self.wte.weight.mT, target)}
        total = losses["item"]
        for i, (a, head, lamda) in enumerate(zip(self.cfg["attributes"], self.heads, self.cfg["lamdas"])):
            ids = getattr(self, f"side_{i}")[target]
            ids = ids.unsqueeze(-1) if ids.dim() == 1 else ids
            counts = torch.zeros(len(h), a["vocab"], dtype=h.dtype).scatter_add_(1, ids, torch.ones_like(ids).to(h.dtype))
            loss = F.binary_cross_entropy_with_logits(head(h)[:, 1:], counts[:, 1:])
            losses[f"attribute.{a['name']}"], total = loss, total + lamda * loss
        return losses | {"total": total}
