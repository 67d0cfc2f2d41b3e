"""DIF-SR (`SASRecD`) in PyTorch, one eager operation after the other.

Written as the authors' code computes, nothing hoisted or fused, so that it can stand as the peer of the Rust
reference path: same operations, same order, same random draws. Names of classes, modules and parameters are those
of the authors' `state_dict`, so that `str(model)` prints the module tree of their notebook.

Dimensions: B sequences, L positions, H hidden size, n attributes, S tokens of an item, V items with the padding id.
Small methods (`fuse`, `probabilities`, `last_position`, ...) are one decision each: `faults` overrides them.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Attribute:
    """One item attribute: its RecBole type (`token` or `token_seq`), vocabulary size, ids of every item ([V] or [V, S])."""

    name: str
    type: str
    vocab: int
    ids: torch.Tensor


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


class FeatureSeqEmbLayer(nn.Module):
    """Embedding table of one attribute, and the pooling of an item's tokens.

    The table is kept out of the module registry, as in the reference: not a parameter, not trained, drawn from N(0, 1).
    """

    def __init__(self, attribute, size, pooling_mode):
        super().__init__()
        self.pooling_mode = pooling_mode
        self.type = attribute.type
        self.ids = attribute.ids
        self.unregistered = [nn.Embedding(attribute.vocab, size)]

    @property
    def table(self):
        return self.unregistered[0]

    def _apply(self, fn, recurse=True):
        self.table._apply(fn)
        self.ids = fn(self.ids)  # moves; `double()` and the like leave integers alone
        return super()._apply(fn, recurse)

    def forward(self, item_seq):
        """[B, L] -> [B, L, d]"""
        tokens = self.ids[item_seq]
        embedding = self.table(tokens)
        return embedding if self.type == "token" else self.pool(tokens, embedding)

    def pool(self, tokens, embedding):
        """[B, L, S], [B, L, S, d] -> [B, L, d]; the mask is float32 whatever the table's type."""
        mask = (tokens != 0).float()
        count = torch.sum(mask, dim=-1, keepdim=True)
        mask = mask.unsqueeze(-1).expand_as(embedding)
        if self.pooling_mode == "max":
            return torch.max(embedding - (1 - mask) * 1e9, dim=-2).values
        summed = torch.sum(embedding * mask, dim=-2)
        if self.pooling_mode == "sum":
            return summed
        epsilon = torch.full((1,), 1e-8, dtype=torch.float32, device=count.device)
        return torch.div(summed, count + epsilon)  # in float32 the epsilon vanishes


class VanillaAttention(nn.Module):
    """The gate: weights of the streams from their scores, and the weighted sum."""

    def __init__(self, size):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(size, size), nn.ReLU(True), nn.Linear(size, 1))

    def forward(self, streams):
        """[B, heads, L, streams, L] -> [B, heads, L, L], [B, heads, L, streams]"""
        energy = self.projection(streams)
        weights = torch.softmax(energy.squeeze(-1), dim=-1)
        return (streams * weights.unsqueeze(-1)).sum(dim=-2), weights


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
        query = self.split(self.query(x), self.head_size)
        key = self.split(self.key(x), self.head_size)
        value = self.split(self.value(x), self.head_size)
        query_p = self.split(self.query_p(positions), self.head_size)
        key_p = self.split(self.key_p(positions), self.head_size)
        item_scores = torch.matmul(query, key.transpose(-1, -2))
        position_scores = torch.matmul(query_p, key_p.transpose(-1, -2))
        attribute_scores = []
        for i, attribute in enumerate(attributes):
            query_a = self.split(self.query_layers[i](attribute), self.attribute_head_sizes[i])
            key_a = self.split(self.key_layers[i](attribute), self.attribute_head_sizes[i])
            attribute_scores.append(torch.matmul(query_a, key_a.transpose(-1, -2)))

        probabilities = self.attend(attribute_scores, item_scores, position_scores, mask)
        context = torch.matmul(self.attn_dropout(probabilities), value)
        context = context.permute(0, 2, 1, 3).contiguous().flatten(-2)
        return self.LayerNorm(self.out_dropout(self.dense(context)) + x)

    def split(self, x, head_size):
        """[B, L, heads * head_size] -> [B, heads, L, head_size]"""
        return x.view(x.shape[:-1] + (self.heads, head_size)).permute(0, 2, 1, 3)

    def attend(self, attribute_scores, item_scores, position_scores, mask):
        """n + 2 of [B, heads, L, L] -> [B, heads, L, L]: the mask comes after the fusion."""
        return self.probabilities(self.fuse(attribute_scores, item_scores, position_scores), mask)

    def fuse(self, attribute_scores, item_scores, position_scores):
        """n + 2 of [B, heads, L, L] -> [B, heads, L, L]"""
        attributes = torch.stack(attribute_scores, dim=-2)
        if self.fusion_type == "sum":
            return torch.sum(attributes, dim=-2) + item_scores + position_scores
        if self.fusion_type == "concat":
            return self.fusion_layer(torch.cat([attributes.flatten(-2), item_scores, position_scores], dim=-1))
        streams = torch.cat([attributes, item_scores.unsqueeze(-2), position_scores.unsqueeze(-2)], dim=-2)
        return self.fusion_layer(streams)[0]

    def scale(self):
        """The item head size, whatever the attributes' head sizes."""
        return math.sqrt(self.head_size)

    def probabilities(self, fused, mask):
        """[B, heads, L, L] -> [B, heads, L, L]"""
        return torch.softmax(fused / self.scale() + mask, dim=-1)


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
        hidden = self.dense_2(self.activation(self.dense_1(x)))
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
        for layer in self.layer:
            x = layer(x, attributes, positions, mask)
        return x


class BPRLoss(nn.Module):
    def forward(self, positive, negative):
        return -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()


class SASRecD(nn.Module):
    """The model. `c` is a mapping of RecBole's keys, `attributes` the selected ones in order, `n_items` counts id 0."""

    def __init__(self, c, n_items, attributes, portable_dropout=True):
        super().__init__()
        dropout = PortableDropout if portable_dropout else nn.Dropout
        self.attributes = attributes
        self.lamdas = c["lamdas"]
        self.loss_type = c["loss_type"]
        self.attribute_predictor = c["attribute_predictor"]
        self.initializer_range = c.get("initializer_range", 0.02)

        self.item_embedding = nn.Embedding(n_items, c["hidden_size"], padding_idx=0)
        self.position_embedding = nn.Embedding(c["MAX_ITEM_LIST_LENGTH"], c["hidden_size"])
        self.feature_embed_layer_list = nn.ModuleList(
            [
                FeatureSeqEmbLayer(attribute, size, c["pooling_mode"])
                for attribute, size in zip(attributes, c["attribute_hidden_size"], strict=True)
            ]
        )
        self.trm_encoder = DeTransformerEncoder(c, dropout)
        if self.attribute_predictor == "linear":
            self.ap = nn.ModuleList([nn.Linear(c["hidden_size"], a.vocab) for a in attributes])
        self.LayerNorm = nn.LayerNorm(c["hidden_size"], eps=c["layer_norm_eps"])
        self.dropout = dropout(c["hidden_dropout_prob"])
        self.loss_fct = nn.CrossEntropyLoss() if self.loss_type == "CE" else BPRLoss()
        self.attribute_loss_fct = nn.BCEWithLogitsLoss(reduction="none")
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=self.initializer_range)  # the padding row too
        elif isinstance(module, nn.LayerNorm):
            module.bias.data.zero_()
            module.weight.data.fill_(1.0)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()

    def attribute_tables(self):
        """The untrained tables under the names that the golden cases give them."""
        layers = enumerate(self.feature_embed_layer_list)
        return {f"feature_embed_layer_list.{i}.{layer.type}_embedding": layer.table.weight for i, layer in layers}

    def forward(self, item_seq, item_seq_len):
        """[B, L], [B] -> [B, H]"""
        item_emb = self.item_embedding(item_seq)
        position_ids = torch.arange(item_seq.size(1), dtype=torch.long, device=item_seq.device)
        positions = self.position_embedding(position_ids.unsqueeze(0).expand_as(item_seq))
        attributes = [layer(item_seq) for layer in self.feature_embed_layer_list]
        x = self.dropout(self.LayerNorm(self.encoder_input(item_emb, positions)))
        output = self.trm_encoder(x, attributes, positions, self.attention_mask(item_seq))
        return self.last_position(output, item_seq_len)

    def encoder_input(self, item_emb, positions):
        """[B, L, H], [B, L, H] -> [B, L, H]: items alone."""
        return item_emb

    def attention_mask(self, item_seq):
        """[B, L] -> [B, 1, L, L]: 0 where a key is seen, -10000 where it is padding or in the future."""
        mask = (item_seq > 0).long().unsqueeze(1).unsqueeze(2)
        length = item_seq.size(-1)
        future = torch.triu(torch.ones((1, length, length), device=item_seq.device), diagonal=1)
        mask = mask * (future == 0).unsqueeze(1).long()
        return (1.0 - mask.to(dtype=self.item_embedding.weight.dtype)) * -10000.0

    def last_position(self, output, item_seq_len):
        """[B, L, H], [B] -> [B, H]"""
        index = (item_seq_len - 1).view(-1, 1, 1).expand(-1, -1, output.shape[-1])
        return output.gather(dim=1, index=index).squeeze(1)

    def full_sort_scores(self, seq_output):
        """[B, H] -> [B, V]"""
        return torch.matmul(seq_output, self.item_embedding.weight.transpose(0, 1))

    def attribute_labels(self, attribute, items):
        """[B] -> [B, vocab]: an item that repeats a token has a label of 2."""
        labels = nn.functional.one_hot(attribute.ids.to(items.device)[items], num_classes=attribute.vocab)
        if labels.dim() > 2:
            labels = labels.sum(dim=1)
        return labels.float()

    def attribute_mean(self, loss):
        """[B, vocab] -> []: index 0 is left out."""
        return torch.mean(loss[:, 1:])

    def losses(self, seq_output, pos_items, neg_items=None):
        """[B, H], [B] -> `total`, `item`, and `attribute.<name>` where they are predicted."""
        if self.loss_type == "BPR":
            positive = torch.sum(seq_output * self.item_embedding(pos_items), dim=-1)
            negative = torch.sum(seq_output * self.item_embedding(neg_items), dim=-1)
            return {"total": self.loss_fct(positive, negative)}
        loss = self.loss_fct(self.full_sort_scores(seq_output), pos_items)
        if self.attribute_predictor != "linear":
            return {"total": loss, "item": loss}
        losses = {"item": loss}
        for attribute, predictor in zip(self.attributes, self.ap):
            labels = self.attribute_labels(attribute, pos_items)
            losses[f"attribute.{attribute.name}"] = self.attribute_mean(
                self.attribute_loss_fct(predictor(seq_output), labels)
            )
        weighted = [lamda * losses[f"attribute.{a.name}"] for lamda, a in zip(self.lamdas, self.attributes)]
        losses["total"] = loss + sum(weighted[1:], weighted[0])
        return losses
