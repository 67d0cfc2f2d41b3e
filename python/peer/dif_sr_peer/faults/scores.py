"""Projections, heads, streams, scale."""

import math

from .registry import attentions, drop, everywhere, fault, faults, remember, replace, two_attributes


def projections(attention):
    """name -> linear layers that a fault names together."""
    return {
        "query": [attention.query],
        "key": [attention.key],
        "value": [attention.value],
        "item": [attention.query, attention.key, attention.value],
        "position": [attention.query_p, attention.key_p],
        "attribute": [*attention.query_layers, *attention.key_layers],
    }


@faults(common=("all_projection_biases_missing",))
def biases(c):
    def without(*names):
        def plant(model):
            for attention in attentions(model):
                for name in names:
                    for linear in projections(attention)[name]:
                        drop(linear, "bias")

        return plant

    right = "in the reference every projection has one"
    yield "query_bias_missing", f"the item query has no bias; {right}", without("query")
    yield "key_bias_missing", f"the item key has no bias; {right}", without("key")
    yield "value_bias_missing", f"the value has no bias; {right}", without("value")
    yield "item_biases_missing", f"query, key and value of the items have no bias; {right}", without("item")
    yield "position_biases_missing", f"query and key of the positions have no bias; {right}", without("position")
    yield "attribute_biases_missing", f"query and key of the attributes have no bias; {right}", without("attribute")
    yield (
        "all_projection_biases_missing",
        f"queries, keys and values have no bias, in no stream; {right}",
        without("item", "position", "attribute"),
    )


@faults(common=("split_without_transpose", "merge_without_transpose", "heads_interleaved"))
def heads(c):
    def split_without_transpose(_, attention, x, size):
        return x.reshape(len(x), attention.heads, x.shape[1], size)

    def split_interleaved(_, attention, x, size):
        return x.view(x.shape[:-1] + (size, attention.heads)).permute(0, 3, 1, 2)

    def merge_without_transpose(_, attention, context):
        return context.reshape(len(context), context.shape[2], -1)

    def merge_interleaved(_, attention, context):
        return context.permute(0, 2, 3, 1).flatten(-2)

    def plant(split=None, merge=None):
        def planted(model):
            for attention in attentions(model):
                if split:
                    replace(attention, "split", lambda original, x, size, a=attention: split(original, a, x, size))
                if merge:
                    replace(attention, "merge", lambda original, context, a=attention: merge(original, a, context))

        return planted

    right = "the reference takes head h from columns h · d to (h + 1) · d"
    yield (
        "split_without_transpose",
        f"[B, L, H] is reshaped to [B, heads, L, d] without a transpose, which mixes positions and heads; {right}",
        plant(split=split_without_transpose),
    )
    yield (
        "split_interleaved",
        f"head h is split off as every heads-th column, but merged in blocks; {right}",
        plant(split=split_interleaved),
    )
    yield (
        "merge_without_transpose",
        f"[B, heads, L, d] is reshaped to [B, L, H] without a transpose, which mixes positions and heads; {right}",
        plant(merge=merge_without_transpose),
    )
    yield (
        "merge_interleaved",
        f"heads are split off in blocks, but merged column by column; {right}",
        plant(merge=merge_interleaved),
    )
    yield (
        "heads_interleaved",
        f"head h is every heads-th column, in the split and in the merge; {right}",
        plant(split_interleaved, merge_interleaved),
    )
    yield (
        "heads_reshaped_without_transpose",
        f"heads are split and merged by reshapes alone, without a transpose; {right}",
        plant(split_without_transpose, merge_without_transpose),
    )


STREAMS = {"item": "item_scores", "position": "position_scores", "attribute": "attribute_scores"}


def stream(names, compute):
    """`compute(scores)` in place of the scores of the named streams."""

    def plant(model):
        for attention in attentions(model):
            for name in names:

                def scores(original, x):
                    found = original(x)
                    return [compute(one) for one in found] if isinstance(found, list) else compute(found)

                replace(attention, STREAMS[name], scores)

    return plant


@faults(common=("query_key_swapped",))
def query_and_key(c):
    transposed = lambda scores: scores.transpose(-1, -2)
    yield (
        "query_key_swapped",
        "queries and keys are swapped in every stream: scores come out transposed",
        stream(STREAMS, transposed),
    )
    for name in STREAMS:
        text = f"query and key of the {name} stream are swapped: its scores come out transposed"
        yield f"query_key_swapped_{name}", text, stream([name], transposed)

    def shared(name, pairs):
        def plant(model):
            for attention in attentions(model):
                for query, key in pairs(attention):
                    replace(key, "forward", lambda _, x, query=query: query(x))
                    drop(key, "weight", "bias")

        return f"key_is_query_{name}", f"keys of the {name} stream are made by its query layer; they have their own", plant

    yield shared("item", lambda a: [(a.query, a.key)])
    yield shared("position", lambda a: [(a.query_p, a.key_p)])
    yield shared("attribute", lambda a: zip(a.query_layers, a.key_layers))


@fault("positions go through the query and key layers of the items; they have their own", common=True)
def position_shares_projections(model):
    for attention in attentions(model):
        replace(attention, "position_scores", lambda _, x, a=attention: a.scores(a.query, a.key, x, a.head_size))
        drop(attention, "query_p", "key_p")


@fault(
    "all attributes go through the query and key layers of the first; each has its own",
    when=lambda c: two_attributes(c) and len(set(c["attribute_hidden_size"])) == 1,
)
def attributes_share_projections(model):
    for attention in attentions(model):
        for layers in (attention.query_layers, attention.key_layers):
            for other in list(layers)[1:]:
                replace(other, "forward", lambda _, x, first=layers[0]: first(x))
                drop(other, "weight", "bias")


@fault("item queries and keys of every layer are made from the encoder's input; the reference takes the layer before")
def item_scores_of_input(model):
    first = remember(model.trm_encoder, "forward", lambda x, *_: x)
    for attention in attentions(model):
        replace(attention, "item_scores", lambda original, x: original(first[0]))


@fault("values of every layer are made from the encoder's input; the reference takes the layer before", family="values")
def values_of_input(model):
    first = remember(model.trm_encoder, "forward", lambda x, *_: x)
    for attention in attentions(model):
        replace(attention, "values", lambda original, x: original(first[0]))


def with_positions(model, *methods):
    """Feeds methods of the attention with x + positions."""
    for attention in attentions(model):
        latest = remember(attention, "forward", lambda x, attributes, positions, mask: positions)
        for method in methods:
            replace(attention, method, lambda original, x, latest=latest: original(x + latest[0]))


@fault(
    "values hold the position: value(x + position); in DIF-SR they are made from the items alone", family="values", common=True
)
def values_with_position(model):
    with_positions(model, "values")


@fault("item queries and keys hold the position, as in SASRec; in DIF-SR positions have their own", common=True)
def position_in_item_scores(model):
    with_positions(model, "item_scores")


@fault("position queries and keys are made from x + position; in DIF-SR from positions alone")
def hidden_in_position_scores(model):
    for attention in attentions(model):
        latest = remember(attention, "forward", lambda x, *_: x)
        replace(attention, "position_scores", lambda original, p, latest=latest: original(p + latest[0]))


@fault("values are not projected: heads take the layer's input itself", family="values")
def values_not_projected(model):
    for attention in attentions(model):
        replace(attention, "values", lambda _, x, a=attention: a.split(x, a.head_size))
        drop(attention, "value")


def before_fusion(compute):
    """`compute(attention, index, scores)` on every stream before the fusion; the item's index is −2, the position's −1."""

    def plant(model):
        for attention in attentions(model):

            def fuse(original, attributes, item, position, a=attention):
                attributes = [compute(a, i, scores) for i, scores in enumerate(attributes)]
                return original(attributes, compute(a, -2, item), compute(a, -1, position))

            replace(attention, "fuse", fuse)

    return plant


@faults(common=("no_scale", "scale_by_hidden_size", "scale_by_attribute_head_size", "scale_per_stream", "scale_before_fusion"))
def scale(c):
    def by(number):
        return everywhere(attentions, "scale", lambda _: number)

    def early(compute, late=1.0):
        def plant(model):
            before_fusion(compute)(model)
            by(late)(model)

        return plant

    head, hidden, n = c["hidden_size"] // c["n_heads"], c["hidden_size"], len(c["attributes"])
    right = "the reference divides fused scores by √{head}, the root of the item head size"
    seen = {head}
    for size, attribute in list(zip(c["attribute_hidden_size"], c["attributes"]))[::-1]:
        own = size // c["n_heads"]
        if own not in seen:
            name = "scale_by_attribute_head_size" + (f"_{attribute['name']}" if len(seen) > 1 else "")
            text = f"fused scores are divided by √{own}, the head size of attribute `{attribute['name']}`; {right}"
            yield name, text, by(math.sqrt(own))
        seen.add(own)
    yield "no_scale", f"fused scores are not divided by anything; {right}", by(1.0)
    yield "scale_by_hidden_size", f"fused scores are divided by √{{hidden}}; {right}", by(math.sqrt(hidden))
    yield "scale_without_root", f"fused scores are divided by {{head}}; {right}", by(float(head))
    yield "scale_multiplied", f"fused scores are multiplied by √{{head}}; {right}", by(1 / math.sqrt(head))
    yield (
        "scale_by_streams",
        f"fused scores are divided by √({{head}} · {n + 2}), the streams counted; {right}",
        by(math.sqrt(head * (n + 2))),
    )
    yield (
        "scale_by_number_of_heads",
        f"fused scores are divided by √{c['n_heads']}, the number of heads; {right}",
        by(math.sqrt(c["n_heads"])),
    )
    root = math.sqrt(head)
    own_root = lambda a, i, scores: scores / (math.sqrt(a.attribute_head_sizes[i]) if i >= 0 else root)
    yield (
        "scale_per_stream",
        "each stream is divided by the root of its own head size before the fusion; " + right,
        early(own_root),
    )
    yield (
        "scale_before_fusion",
        f"every stream is divided by √{{head}} before the fusion; {right}",
        early(lambda a, i, scores: scores / root),
    )
    yield (
        "scale_before_and_after",
        f"streams are divided by √{{head}} before the fusion, and fused scores again; {right}",
        early(lambda a, i, scores: scores / root, root),
    )
    yield (
        "attributes_scaled_before_fusion",
        f"attribute scores are divided by the root of their head size before the fusion, and fused scores again; {right}",
        early(lambda a, i, scores: own_root(a, i, scores) if i >= 0 else scores, root),
    )
