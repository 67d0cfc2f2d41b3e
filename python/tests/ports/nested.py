"""DIF-SR as a module of Lightning's form, with nested settings, a module for each stream, and LayerNorm written out."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


def hparams_of(c):
    """Nested settings from RecBole's keys; rates of dropout are this port's own."""
    sides = {
        a["name"]: SimpleNamespace(vocab=a["vocab"], width=w, weight=l)
        for a, w, l in zip(c["attributes"], c["attribute_hidden_size"], c["lamdas"])
    }
    return SimpleNamespace(
        catalogue=SimpleNamespace(items=c["n_items"], length=c["MAX_ITEM_LIST_LENGTH"], sides=sides),
        encoder=SimpleNamespace(
            depth=c["n_layers"], heads=c["n_heads"], width=c["hidden_size"], inner=c["inner_size"], mix=c["fusion_type"]
        ),
        dropout=SimpleNamespace(vectors=0.5, probabilities=0.3),
        optim=SimpleNamespace(lr=c["learning_rate"]),
    )


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt() * self.gain + self.offset


class Stream(nn.Module):
    """Scores of one stream: [B, L, width] -> [B, heads, L, L]"""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.to_qk = heads, nn.Linear(width, 2 * width)

    def forward(self, x):
        q, k = self.to_qk(x).reshape(*x.shape[:2], 2, self.heads, -1).unbind(dim=2)
        return torch.einsum("bihc,bjhc->bhij", q, k)


class Mixer(nn.Module):
    def __init__(self, kind, streams, length):
        super().__init__()
        self.kind = kind
        if kind == "gate":
            self.net = nn.Sequential(nn.Linear(length, length), nn.ReLU(), nn.Linear(length, 1))
        elif kind == "concat":
            self.net = nn.Linear(streams * length, length)

    def forward(self, streams):
        if self.kind == "concat":
            return self.net(torch.cat(streams, dim=-1))
        if self.kind == "sum":
            return torch.stack(streams).sum(dim=0)
        together = torch.stack(streams, dim=-2)
        return (self.net(together).softmax(dim=-2) * together).sum(dim=-2)


class Layer(nn.Module):
    def __init__(self, hparams):
        super().__init__()
        e, sides = hparams.encoder, hparams.catalogue.sides
        streams = {f"side_{name}": Stream(side.width, e.heads) for name, side in sides.items()}
        streams |= {"item": Stream(e.width, e.heads), "place": Stream(e.width, e.heads)}
        self.streams, self.rates = nn.ModuleDict(streams), hparams.dropout
        self.mixer = Mixer(e.mix, len(streams), hparams.catalogue.length)
        self.to_v, self.to_out = nn.Linear(e.width, e.width), nn.Linear(e.width, e.width)
        self.up, self.down = nn.Linear(e.width, e.inner), nn.Linear(e.inner, e.width)
        self.norm_attention, self.norm_mlp = Norm(e.width), Norm(e.width)

    def drop(self, x, rate):
        return F.dropout(x, rate, self.training)

    def forward(self, x, sides, places, unseen):
        inputs = {**sides, "item": x, "place": places}
        scores = self.mixer([stream(inputs[name]) for name, stream in self.streams.items()])
        v = self.to_v(x).unflatten(-1, (self.streams["item"].heads, -1))
        scores = scores / v.shape[-1] ** 0.5
        probabilities = self.drop(scores.masked_fill(unseen, -10000.0).softmax(dim=-1), self.rates.probabilities)
        mixed = torch.einsum("bhij,bjhc->bihc", probabilities, v).flatten(2)
        x = self.norm_attention(x + self.drop(self.to_out(mixed), self.rates.vectors))
        return self.norm_mlp(x + self.drop(self.down(F.gelu(self.up(x))), self.rates.vectors))


class LitRec(nn.Module):
    """`tokens`: name -> ids of every item, [V] or [V, S]."""

    def __init__(self, hparams, tokens):
        super().__init__()
        self.hparams, self.tokens, c, width = hparams, tokens, hparams.catalogue, hparams.encoder.width
        self.items = nn.Embedding(c.items, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(1, c.length, width))
        self.sides = nn.ModuleDict({name: nn.Embedding(side.vocab, side.width) for name, side in c.sides.items()})
        self.sides.requires_grad_(False)
        self.norm = Norm(width)
        self.layers = nn.ModuleList([Layer(hparams) for _ in range(hparams.encoder.depth)])
        self.predictors = nn.ModuleDict({name: nn.Linear(width, side.vocab) for name, side in c.sides.items()})

    def side(self, name, items):
        ids = self.tokens[name][items]
        vectors = self.sides[name](ids)
        return vectors if ids.dim() == items.dim() else (vectors * (ids != 0).unsqueeze(-1)).sum(dim=-2)

    def forward(self, sequences, lengths):
        causal = torch.ones(sequences.shape[1], sequences.shape[1], dtype=torch.bool, device=sequences.device).tril()
        unseen = ~(causal & (sequences != 0)[:, None, None, :])
        sides = {f"side_{name}": self.side(name, sequences) for name in self.sides}
        x = F.dropout(self.norm(self.items(sequences)), self.hparams.dropout.vectors, self.training)
        for layer in self.layers:
            x = layer(x, sides, self.places.expand(len(x), -1, -1), unseen)
        return x[torch.arange(len(x)), lengths - 1]

    def training_step(self, batch, batch_idx):
        last = self(batch["item_seq"], batch["item_seq_len"])
        loss = F.cross_entropy(F.linear(last, self.items.weight), batch["pos_items"])
        for name, side in self.hparams.catalogue.sides.items():
            ids = self.tokens[name][batch["pos_items"]].reshape(len(last), -1)
            counts = F.one_hot(ids, side.vocab).sum(dim=1).to(last)
            loss = loss + side.weight * F.binary_cross_entropy_with_logits(self.predictors[name](last)[:, 1:], counts[:, 1:])
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.hparams.optim.lr)
