"""DIF-SR (`SASRecD`) in PyTorch, one eager operation after the other.

Written as the authors' code computes, nothing hoisted or fused, so that it can stand as the peer of the Rust
reference path: same operations, same order, same random draws. Names of classes, modules and parameters are those
of the authors' `state_dict`, so that `str(model)` prints the module tree of their notebook.

Dimensions: B sequences, L positions, H hidden size, n attributes, S tokens of an item, V items with the padding id.
Small methods (`fuse`, `probabilities`, `last_position`, ...) are one decision each: `faults` overrides them. What is
trained, and how, is a decision too (`trained`, `optimizer`).
"""

from dataclasses import dataclass

import torch
from torch import nn

from .encoder import DeTransformerEncoder, PortableDropout


@dataclass
class Attribute:
    """One item attribute: its RecBole type (`token` or `token_seq`), vocabulary size, ids of every item ([V] or [V, S])."""

    name: str
    type: str
    vocab: int
    ids: torch.Tensor


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
        tokens = self.tokens(item_seq)
        embedding = self.table(tokens)
        return embedding if self.type == "token" else self.pool(tokens, embedding)

    def tokens(self, item_seq):
        """[B, L] -> [B, L] or [B, L, S]"""
        return self.ids[item_seq]

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


class BPRLoss(nn.Module):
    def forward(self, positive, negative):
        return -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()


class Trained:
    """What is trained, and by which optimizer."""

    def trained(self):
        return list(self.parameters())

    def optimizer(self, learning_rate, weight_decay=0.0):
        return torch.optim.Adam(self.trained(), lr=learning_rate, weight_decay=weight_decay)


class SASRecD(Trained, nn.Module):
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
        items, positions = self.item_vectors(item_seq), self.position_vectors(item_seq)
        attributes = self.attribute_vectors(item_seq)
        x = self.dropout(self.input_norm(self.encoder_input(items, positions)))
        output = self.trm_encoder(x, attributes, positions, self.attention_mask(item_seq))
        return self.last_position(output, item_seq_len)

    def item_vectors(self, items):
        """[...] -> [..., H]"""
        return self.item_embedding(items)

    def position_ids(self, item_seq):
        """[B, L] -> [B, L]: 0 to L - 1, padding or not."""
        ids = torch.arange(item_seq.size(1), dtype=torch.long, device=item_seq.device)
        return ids.unsqueeze(0).expand_as(item_seq)

    def position_vectors(self, item_seq):
        """[B, L] -> [B, L, H]"""
        return self.position_embedding(self.position_ids(item_seq))

    def attribute_vectors(self, item_seq):
        """[B, L] -> n of [B, L, d]"""
        return [layer(item_seq) for layer in self.feature_embed_layer_list]

    def encoder_input(self, items, positions):
        """[B, L, H], [B, L, H] -> [B, L, H]: items alone."""
        return items

    def input_norm(self, x):
        """[B, L, H] -> [B, L, H]"""
        return self.LayerNorm(x)

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

    def attribute_logits(self, i, seq_output):
        """[B, H] -> [B, vocab]"""
        return self.ap[i](seq_output)

    def attribute_loss(self, i, seq_output, pos_items, exact=False):
        """[B, H], [B] -> []: labels are float32, and with them the loss, unless they shall be `exact`."""
        labels = self.attribute_labels(self.attributes[i], pos_items)
        labels = labels.to(seq_output.dtype) if exact else labels
        return self.attribute_mean(self.attribute_loss_fct(self.attribute_logits(i, seq_output), labels))

    def item_loss(self, seq_output, pos_items, neg_items):
        """[B, H], [B], [B] -> []"""
        if self.loss_type == "BPR":
            positive = torch.sum(seq_output * self.item_vectors(pos_items), dim=-1)
            negative = torch.sum(seq_output * self.item_vectors(neg_items), dim=-1)
            return self.loss_fct(positive, negative)
        return self.loss_fct(self.full_sort_scores(seq_output), pos_items)

    def total(self, item_loss, attribute_losses):
        """[], n of [] -> []"""
        weighted = [lamda * loss for lamda, loss in zip(self.lamdas, attribute_losses)]
        return item_loss + sum(weighted[1:], weighted[0])

    def losses(self, seq_output, pos_items, neg_items=None):
        """[B, H], [B], [B] -> `total`, `item`, and `attribute.<name>` where they are predicted."""
        loss = self.item_loss(seq_output, pos_items, neg_items)
        if self.loss_type == "BPR":
            return {"total": loss}
        if self.attribute_predictor != "linear":
            return {"total": loss, "item": loss}
        attribute_losses = [self.attribute_loss(i, seq_output, pos_items) for i in range(len(self.attributes))]
        losses = {f"attribute.{a.name}": loss for a, loss in zip(self.attributes, attribute_losses)}
        return {"item": loss} | losses | {"total": self.total(loss, attribute_losses)}
