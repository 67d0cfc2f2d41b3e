"""DIF-SR as a model of RecBole, as its authors' is: attribute tables in a plain list, labels from the interaction.

Where RecBole is installed it is a `SequentialRecommender` of RecBole, else of the few lines below.
"""

import math

import torch
from torch import nn

try:
    from recbole.model.abstract_recommender import SequentialRecommender
except ImportError:

    class SequentialRecommender(nn.Module):
        """What RecBole's own does."""

        def __init__(self, config, dataset):
            super().__init__()
            self.ITEM_ID = self.POS_ITEM_ID = config["ITEM_ID_FIELD"]
            self.ITEM_SEQ, self.ITEM_SEQ_LEN = self.ITEM_ID + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
            self.NEG_ITEM_ID = config["NEG_PREFIX"] + self.ITEM_ID
            self.max_seq_length, self.n_items = config["MAX_ITEM_LIST_LENGTH"], dataset.num(self.ITEM_ID)
            self.device = config["device"]

        def gather_indexes(self, output, gather_index):
            index = gather_index.view(-1, 1, 1).expand(-1, -1, output.shape[-1])
            return output.gather(dim=1, index=index).squeeze(1)


class FeatureEmbedding:
    """No module: neither `parameters()` nor `.double()` reaches the table."""

    def __init__(self, dataset, feature, size, pooling):
        self.table, self.pooling = nn.Embedding(dataset.num(feature), size), pooling
        self.ids, self.single = dataset.get_item_feature()[feature], dataset.field2type[feature].value == "token"

    def __call__(self, item_seq):
        tokens = self.ids[item_seq]
        vectors = self.table(tokens)
        if self.single:
            return vectors
        mask = (tokens != 0).float().unsqueeze(-1)
        pooled = (vectors * mask).sum(dim=-2)
        return pooled / (mask.sum(dim=-2) + 1e-8) if self.pooling == "mean" else pooled


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        size, self.heads, self.fusion_type = config["hidden_size"], config["n_heads"], config["fusion_type"]
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.query_pos, self.key_pos = nn.Linear(size, size), nn.Linear(size, size)
        sizes = config["attribute_hidden_size"]
        self.query_features = nn.ModuleList([nn.Linear(s, s) for s in sizes])
        self.key_features = nn.ModuleList([nn.Linear(s, s) for s in sizes])
        length = config["MAX_ITEM_LIST_LENGTH"]
        if self.fusion_type == "concat":
            self.fusion = nn.Linear(length * (2 + len(sizes)), length)
        elif self.fusion_type == "gate":
            self.fusion = nn.Sequential(nn.Linear(length, length), nn.ReLU(), nn.Linear(length, 1))
        self.attn_dropout, self.out_dropout = nn.Dropout(config["attn_dropout_prob"]), nn.Dropout(
            config["hidden_dropout_prob"]
        )
        self.dense, self.LayerNorm = nn.Linear(size, size), nn.LayerNorm(size, eps=config["layer_norm_eps"])

    def split(self, x):
        return x.view(*x.shape[:-1], self.heads, -1).permute(0, 2, 1, 3)

    def scores(self, query, key, x):
        return torch.matmul(self.split(query(x)), self.split(key(x)).transpose(-1, -2))

    def fuse(self, features, item, position):
        if self.fusion_type == "concat":
            return self.fusion(torch.cat([*features, item, position], dim=-1))
        streams = torch.stack([*features, item, position], dim=-2)
        if self.fusion_type == "sum":
            return streams.sum(dim=-2)
        return (torch.softmax(self.fusion(streams), dim=-2) * streams).sum(dim=-2)

    def forward(self, x, features, position, mask):
        streams = [self.scores(q, k, f) for q, k, f in zip(self.query_features, self.key_features, features)]
        value = self.split(self.value(x))
        fused = self.fuse(streams, self.scores(self.query, self.key, x), self.scores(self.query_pos, self.key_pos, position))
        probabilities = self.attn_dropout(torch.softmax(fused / math.sqrt(value.shape[-1]) + mask, dim=-1))
        context = torch.matmul(probabilities, value).permute(0, 2, 1, 3).flatten(-2)
        return self.LayerNorm(self.out_dropout(self.dense(context)) + x)


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense_1 = nn.Linear(config["hidden_size"], config["inner_size"])
        self.dense_2 = nn.Linear(config["inner_size"], config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])

    def forward(self, x):
        return self.LayerNorm(self.dropout(self.dense_2(nn.functional.gelu(self.dense_1(x)))) + x)


class MySASRecD(SequentialRecommender):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size, self.features, self.lamdas = config["hidden_size"], config["selected_features"], config["lamdas"]
        self.loss_type, self.predicts = config["loss_type"], config["attribute_predictor"] == "linear"
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, size)
        sizes = zip(self.features, config["attribute_hidden_size"])
        self.feature_layers = [FeatureEmbedding(dataset, feature, s, config["pooling_mode"]) for feature, s in sizes]
        self.attentions = nn.ModuleList([Attention(config) for _ in range(config["n_layers"])])
        self.feed_forwards = nn.ModuleList([FeedForward(config) for _ in range(config["n_layers"])])
        if self.predicts:
            self.ap = nn.ModuleList([nn.Linear(size, len(dataset.field2token_id[feature])) for feature in self.features])
        self.LayerNorm, self.dropout = nn.LayerNorm(size, eps=config["layer_norm_eps"]), nn.Dropout(
            config["hidden_dropout_prob"]
        )
        self.initializer_range = config["initializer_range"]
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(mean=0.0, std=self.initializer_range)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()

    def forward(self, item_seq, item_seq_len):
        position = self.position_embedding(torch.arange(item_seq.size(1), device=item_seq.device).expand_as(item_seq))
        features = [layer(item_seq) for layer in self.feature_layers]
        seen = torch.tril((item_seq > 0)[:, None, None].expand(-1, -1, item_seq.size(1), -1))
        mask = torch.where(seen, 0.0, -10000.0)
        x = self.dropout(self.LayerNorm(self.item_embedding(item_seq)))
        for attention, feed_forward in zip(self.attentions, self.feed_forwards):
            x = feed_forward(attention(x, features, position, mask))
        return self.gather_indexes(x, item_seq_len - 1)

    def calculate_loss(self, interaction):
        output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        target = interaction[self.POS_ITEM_ID]
        if self.loss_type == "BPR":
            positive, negative = self.item_embedding(target), self.item_embedding(interaction[self.NEG_ITEM_ID])
            return -torch.log(1e-10 + torch.sigmoid((output * positive).sum(-1) - (output * negative).sum(-1))).mean()
        loss = nn.functional.cross_entropy(torch.matmul(output, self.item_embedding.weight.transpose(0, 1)), target)
        if not self.predicts:
            return loss
        for predictor, feature, lamda in zip(self.ap, self.features, self.lamdas):
            labels = nn.functional.one_hot(interaction.interaction[feature], predictor.out_features)
            labels = (labels.sum(dim=1) if labels.dim() > 2 else labels).float()
            each = nn.functional.binary_cross_entropy_with_logits(predictor(output), labels, reduction="none")
            loss = loss + lamda * each[:, 1:].mean()
        return loss

    def full_sort_predict(self, interaction):
        output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return torch.matmul(output, self.item_embedding.weight.transpose(0, 1))
