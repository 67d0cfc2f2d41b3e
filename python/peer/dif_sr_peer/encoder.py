"""The encoder of DIF-SR: decoupled attention, feed-forward network, layers.

As in `model`, small methods are one decision each. Dimensions: B sequences, L positions, H hidden size, n attributes of
d numbers each.
"""

import copy
import math

import torch
from torch import nn


class PortableDropout(nn.Dropout):
    """Dropout whose mask is `torch.rand(float64) < q`.

    Equal bit for bit to `nn.Dropout` on AMD processors; on Intel ones PyTorch draws `bernoulli_` from MKL instead.
    """

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        mask = (torch.rand(x.shape, dtype=torch.float64, device=x.device) < keep).to(x.dtype)
        return x * mask.div_(keep)


PortableDropout.__name__ = "Dropout"  # as the module tree prints it


def gelu(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def swish(x):
    return x * torch.sigmoid(x)


ACTIVATIONS = {"gelu": gelu, "relu": nn.functional.relu, "swish": swish, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class VanillaAttention(nn.Module):
    """The gate: weights of the streams from their scores, and the weighted sum."""

    def __init__(self, size):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(size, size), nn.ReLU(True), nn.Linear(size, 1))

    def forward(self, streams):
        """[B, heads, L, streams, L] -> [B, heads, L, L], [B, heads, L, streams]"""
        weights = self.weights(self.energies(streams))
        return (streams * weights.unsqueeze(-1)).sum(dim=-2), weights

    def energies(self, streams):
        """[B, heads, L, streams, L] -> [B, heads, L, streams]: from a whole row of scores, one number."""
        return self.projection(streams).squeeze(-1)

    def weights(self, energies):
        """[B, heads, L, streams] -> the same, of sum 1."""
        return torch.softmax(energies, dim=-1)


class DeMultiHeadAttention(nn.Module):
    """Decoupled attention: item, position and attribute scores are computed apart and fused (the paper's eq. 6 to 8)."""

    def __init__(self, c, dropout):
        super().__init__()
        size, attribute_sizes, length = c["hidden_size"], c["attribute_hidden_size"], c["MAX_ITEM_LIST_LENGTH"]
        self.heads = c["n_heads"]
        self.head_size = size // self.heads
        self.attribute_head_sizes = [s // self.heads for s in attribute_sizes]
        self.fusion_type = c["fusion_type"]

        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.query_p = nn.Linear(size, size)
        self.key_p = nn.Linear(size, size)
        self.query_layers = nn.ModuleList([nn.Linear(s, s) for s in attribute_sizes])
        self.key_layers = nn.ModuleList([nn.Linear(s, s) for s in attribute_sizes])
        if self.fusion_type == "concat":
            self.fusion_layer = nn.Linear(length * (2 + len(attribute_sizes)), length)
        elif self.fusion_type == "gate":
            self.fusion_layer = VanillaAttention(length)
        self.attn_dropout = dropout(c["attn_dropout_prob"])
        self.dense = nn.Linear(size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=c["layer_norm_eps"])
        self.out_dropout = dropout(c["hidden_dropout_prob"])

    def forward(self, x, attributes, positions, mask):
        """[B, L, H], n of [B, L, d], [B, L, H], [B, 1, L, L] -> [B, L, H]"""
        item_scores = self.item_scores(x)
        value = self.values(x)
        position_scores = self.position_scores(positions)
        attribute_scores = self.attribute_scores(attributes)
        probabilities = self.attend(attribute_scores, item_scores, position_scores, mask)
        context = self.merge(torch.matmul(self.attn_dropout(probabilities), value))
        return self.add_and_norm(self.dense(context), x)

    def item_scores(self, x):
        """[B, L, H] -> [B, heads, L, L]"""
        return self.scores(self.query, self.key, x, self.head_size)

    def position_scores(self, positions):
        """[B, L, H] -> [B, heads, L, L]"""
        return self.scores(self.query_p, self.key_p, positions, self.head_size)

    def attribute_scores(self, attributes):
        """n of [B, L, d] -> n of [B, heads, L, L]"""
        layers = zip(self.query_layers, self.key_layers, attributes, self.attribute_head_sizes)
        return [self.scores(query, key, attribute, size) for query, key, attribute, size in layers]

    def scores(self, query, key, x, head_size):
        """One stream, before scale and mask: [B, L, size] -> [B, heads, L, L]"""
        query, key = self.split(query(x), head_size), self.split(key(x), head_size)
        return torch.matmul(query, key.transpose(-1, -2))

    def values(self, x):
        """[B, L, H] -> [B, heads, L, head_size]: of the items alone."""
        return self.split(self.value(x), self.head_size)

    def split(self, x, head_size):
        """[B, L, heads * head_size] -> [B, heads, L, head_size]"""
        return x.view(x.shape[:-1] + (self.heads, head_size)).permute(0, 2, 1, 3)

    def merge(self, context):
        """[B, heads, L, head_size] -> [B, L, H]"""
        return context.permute(0, 2, 1, 3).contiguous().flatten(-2)

    def add_and_norm(self, hidden, x):
        """[B, L, H], [B, L, H] -> [B, L, H]"""
        return self.LayerNorm(self.out_dropout(hidden) + x)

    def attend(self, attribute_scores, item_scores, position_scores, mask):
        """n + 2 of [B, heads, L, L] -> [B, heads, L, L]: the mask comes after the fusion."""
        return self.probabilities(self.fuse(attribute_scores, item_scores, position_scores), mask)

    def fuse(self, attribute_scores, item_scores, position_scores):
        """n + 2 of [B, heads, L, L] -> [B, heads, L, L]"""
        attributes = torch.stack(attribute_scores, dim=-2)
        if self.fusion_type == "sum":
            return torch.sum(attributes, dim=-2) + item_scores + position_scores
        if self.fusion_type == "concat":
            return self.fusion_layer(self.concatenate(attributes, item_scores, position_scores))
        streams = torch.cat([attributes, item_scores.unsqueeze(-2), position_scores.unsqueeze(-2)], dim=-2)
        return self.fusion_layer(streams)[0]

    def concatenate(self, attributes, item_scores, position_scores):
        """[B, heads, L, n, L], 2 of [B, heads, L, L] -> [B, heads, L, (n + 2) L]"""
        return torch.cat([attributes.flatten(-2), item_scores, position_scores], dim=-1)

    def scale(self):
        """The item head size, whatever the attributes' head sizes."""
        return math.sqrt(self.head_size)

    def probabilities(self, fused, mask):
        """[B, heads, L, L] -> [B, heads, L, L]"""
        return self.softmax(fused / self.scale() + mask)

    def softmax(self, scores):
        """[B, heads, L, L] -> the same, every row of sum 1."""
        return torch.softmax(scores, dim=-1)


class FeedForward(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.dense_1 = nn.Linear(c["hidden_size"], c["inner_size"])
        self.activation = ACTIVATIONS[c["hidden_act"]]
        self.dense_2 = nn.Linear(c["inner_size"], c["hidden_size"])
        self.LayerNorm = nn.LayerNorm(c["hidden_size"], eps=c["layer_norm_eps"])
        self.dropout = dropout(c["hidden_dropout_prob"])

    def forward(self, x):
        """[B, L, H] -> [B, L, H]"""
        return self.add_and_norm(self.dense_2(self.activation(self.dense_1(x))), x)

    def add_and_norm(self, hidden, x):
        """[B, L, H], [B, L, H] -> [B, L, H]"""
        return self.LayerNorm(self.dropout(hidden) + x)


class DeTransformerLayer(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.multi_head_attention = DeMultiHeadAttention(c, dropout)
        self.feed_forward = FeedForward(c, dropout)

    def forward(self, x, attributes, positions, mask):
        """[B, L, H] -> [B, L, H]"""
        return self.feed_forward(self.multi_head_attention(x, attributes, positions, mask))


class ModuleList(nn.ModuleList):
    """Prints every layer, as PyTorch 1.8 did in the notebook: newer versions print `(0-3): 4 x`."""

    __repr__ = nn.Module.__repr__


class DeTransformerEncoder(nn.Module):
    """`n_layers` copies of one layer: the random generator is drawn from once."""

    def __init__(self, c, dropout):
        super().__init__()
        layer = DeTransformerLayer(c, dropout)
        self.layer = ModuleList([copy.deepcopy(layer) for _ in range(c["n_layers"])])

    def forward(self, x, attributes, positions, mask):
        """[B, L, H] -> [B, L, H]"""
        states = [x]
        for layer in self.layer:
            states.append(layer(states[-1], attributes, positions, mask))
        return self.output(states)

    def output(self, states):
        """Input and every layer's output -> [B, L, H]: the last layer's."""
        return states[-1]
