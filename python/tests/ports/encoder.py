"""DIF-SR with the module names of Hugging Face's BERT, side information by name, and pooling by `EmbeddingBag`."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class RecConfig:
    num_items: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    fusion: str
    side_vocab_sizes: dict
    side_hidden_sizes: dict
    side_loss_weights: dict
    layer_norm_eps: float = 1e-12


class SideEmbeddings(nn.Module):
    """[B, L] item ids -> {name: [B, L, d]}; tables are buffers, which no optimizer sees."""

    def __init__(self, config, tokens):
        super().__init__()
        for name, size in config.side_hidden_sizes.items():
            self.register_buffer(f"{name}_table", torch.randn(config.side_vocab_sizes[name], size))
            self.register_buffer(f"{name}_tokens", tokens[name], persistent=False)
        self.names = list(config.side_hidden_sizes)

    def forward(self, input_ids):
        vectors = {}
        for name in self.names:
            table, tokens = getattr(self, f"{name}_table"), getattr(self, f"{name}_tokens")[input_ids]
            if tokens.dim() == input_ids.dim():
                vectors[name] = nn.functional.embedding(tokens, table)
            else:
                pooled = nn.functional.embedding_bag(tokens.flatten(0, -2), table, mode="sum", padding_idx=0)
                vectors[name] = pooled.view(*input_ids.shape, -1)
        return vectors


class RecSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, size = config, config.hidden_size
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.position_query, self.position_key = nn.Linear(size, size), nn.Linear(size, size)
        sides = config.side_hidden_sizes.items()
        self.side_query = nn.ModuleDict({name: nn.Linear(d, d) for name, d in sides})
        self.side_key = nn.ModuleDict({name: nn.Linear(d, d) for name, d in sides})
        length, streams = config.max_position_embeddings, 2 + len(config.side_hidden_sizes)
        if config.fusion == "gate":
            self.gate = nn.Sequential(nn.Linear(length, length), nn.ReLU(), nn.Linear(length, 1))
        elif config.fusion == "concat":
            self.merge_scores = nn.Linear(streams * length, length)

    def transpose_for_scores(self, x):
        return x.view(x.shape[0], x.shape[1], self.config.num_attention_heads, -1).permute(0, 2, 1, 3)

    def stream(self, query, key, x):
        query, key = self.transpose_for_scores(query(x)), self.transpose_for_scores(key(x))
        return torch.einsum("bhid,bhjd->bhij", query, key)

    def combine(self, streams):
        if self.config.fusion == "sum":
            return torch.stack(streams).sum(dim=0)
        if self.config.fusion == "concat":
            return self.merge_scores(torch.cat(streams, dim=-1))
        stacked = torch.stack(streams, dim=3)
        weights = torch.softmax(self.gate(stacked), dim=3)
        return (weights * stacked).sum(dim=3)

    def forward(self, hidden_states, side, positions, attention_mask):
        scores = [self.stream(self.side_query[name], self.side_key[name], x) for name, x in side.items()]
        scores.append(self.stream(self.query, self.key, hidden_states))
        scores.append(self.stream(self.position_query, self.position_key, positions))
        value = self.transpose_for_scores(self.value(hidden_states))
        probs = torch.softmax(self.combine(scores) / value.shape[-1] ** 0.5 + attention_mask, dim=-1)
        return (probs @ value).permute(0, 2, 1, 3).reshape(hidden_states.shape), probs


class RecOutput(nn.Module):
    def __init__(self, config, size):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dense(hidden_states) + input_tensor)


class RecLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = nn.ModuleDict({"self": RecSelfAttention(config), "output": RecOutput(config, config.hidden_size)})
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = RecOutput(config, config.intermediate_size)

    def forward(self, hidden_states, *rest):
        attended = self.attention["output"](self.attention["self"](hidden_states, *rest)[0], hidden_states)
        return self.output(nn.functional.gelu(self.intermediate(attended)), attended)


class RecForNextItem(nn.Module):
    def __init__(self, config, tokens):
        super().__init__()
        self.config = config
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.num_items, config.hidden_size, padding_idx=0),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, config.hidden_size),
                "LayerNorm": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
                "side": SideEmbeddings(config, tokens),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([RecLayer(config) for _ in range(config.num_hidden_layers)])})
        sizes = config.side_vocab_sizes.items()
        self.cls = nn.ModuleDict({name: nn.Linear(config.hidden_size, size) for name, size in sizes})

    def forward(self, input_ids, labels):
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
        visible = causal & (input_ids != 0)[:, None, None, :]
        words = self.embeddings["word_embeddings"]
        dtype = words.weight.dtype
        attention_mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        positions = self.embeddings["position_embeddings"](torch.arange(length).expand_as(input_ids))
        side = self.embeddings["side"](input_ids)
        hidden_states = self.embeddings["LayerNorm"](words(input_ids))
        for layer in self.encoder["layer"]:
            hidden_states = layer(hidden_states, side, positions, attention_mask)
        last = (input_ids != 0).sum(dim=1) - 1
        pooled = hidden_states.gather(1, last[:, None, None].expand(-1, 1, hidden_states.shape[-1]))[:, 0]
        logits = nn.functional.linear(pooled, words.weight)
        loss_fct = nn.CrossEntropyLoss()
        out = {"logits": logits, "pooled": pooled, "item_loss": loss_fct(logits, labels)}
        out["loss"] = out["item_loss"]
        for name, head in self.cls.items():
            tokens = getattr(self.embeddings["side"], f"{name}_tokens")[labels].view(len(labels), -1)
            counts = nn.functional.one_hot(tokens, head.out_features).sum(dim=1).to(dtype)
            each = nn.functional.binary_cross_entropy_with_logits(head(pooled), counts, reduction="none")
            out[f"{name}_loss"] = each[:, 1:].mean()
            out["loss"] = out["loss"] + self.config.side_loss_weights[name] * out[f"{name}_loss"]
        return out
