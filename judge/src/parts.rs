//! What can be said of single stages: attention probabilities, the sequence output, and losses.

use crate::compare::largest;
use crate::context::Context;
use crate::numbers::Names;
use crate::relations::Pair;

/// Of attention probabilities `[B, heads, L, L]` of layer `k`.
pub(crate) fn of_probabilities(context: &Context<'_>, k: usize) -> Vec<String> {
    let Some(pair) = context.pair(&format!("out.layer.{k}.attention_probs")) else { return Vec::new() };
    let &[batch, heads, length, keys] = pair.golden.shape() else { return Vec::new() };
    let at = |b: usize, h: usize, q: usize, key: usize| ((b * heads + h) * length + q) * keys + key;
    let found = pair.ours.values();
    let near_one = |sum: f64| (sum - 1.0).abs() <= 1e-4;
    let all = |n: [usize; 3], sum: &dyn Fn([usize; 3]) -> f64| {
        let places = (0..n[0]).flat_map(|a| (0..n[1]).flat_map(move |b| (0..n[2]).map(move |c| [a, b, c])));
        places.into_iter().all(|place| near_one(sum(place)))
    };
    let over_keys = all([batch, heads, length], &|[b, h, q]| (0..keys).map(|key| found[at(b, h, q, key)]).sum());
    let mut known = Vec::new();
    if !over_keys {
        let over_queries = all([batch, heads, keys], &|[b, h, key]| (0..length).map(|q| found[at(b, h, q, key)]).sum());
        let over_heads = all([batch, length, keys], &|[b, q, key]| (0..heads).map(|h| found[at(b, h, q, key)]).sum());
        known.push(match () {
            () if over_queries => "the softmax runs over queries: columns sum to 1, rows do not".to_owned(),
            () if over_heads => "the softmax runs over heads: the heads of a place sum to 1, rows do not".to_owned(),
            () => "rows do not sum to 1".to_owned(),
        });
        return known;
    }
    let is_item = context.case.is_item();
    let sum = |what: &dyn Fn(usize, usize, usize) -> bool| -> f64 {
        let rows = (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..length).map(move |q| (b, h, q))));
        // Rows of real queries: those of padded ones see what is left.
        let rows = rows.filter(|&(b, _, q)| is_item[b * length + q]);
        let of_row = |(b, h, q)| {
            let masked = (0..keys).filter(|&key| what(b, q, key));
            masked.map(|key| found[at(b, h, q, key)]).sum::<f64>()
        };
        rows.map(of_row).fold(0.0, f64::max)
    };
    let future = sum(&|_, q, key| key > q);
    // Behind a real query all padded keys are later ones; with left padding they are earlier.
    let padded = sum(&|b, q, key| !is_item[b * length + key] && key <= q);
    if future > 1e-6 {
        known.push(format!("keys later than their query receive attention, up to {future:.2} of a row"));
    }
    if padded > 1e-6 {
        known.push(format!("padded keys receive attention, up to {padded:.2} of a row"));
    }
    if known.is_empty() {
        known.extend(scale(context, k, found, [batch, heads, length]));
    }
    known
}

/// The number by which fused scores are divided, if it is one for all: of two keys that a query sees, the difference of the
/// scores over that of the logarithms.
fn scale(context: &Context<'_>, k: usize, probs: &[f64], [batch, heads, length]: [usize; 3]) -> Option<String> {
    let fused = context.own_or_golden(&format!("out.layer.{k}.fused_scores"))?.values();
    let is_item = context.case.is_item();
    let mut found = Vec::new();
    for row in 0..batch * heads * length {
        let (b, q) = (row / (heads * length), row % length);
        let seen: Vec<usize> = (0..=q).filter(|&key| is_item[b * length + key]).map(|key| row * length + key).collect();
        let clear = seen.windows(2).filter(|pair| pair.iter().all(|&at| probs[at] > 1e-3));
        found.extend(clear.filter_map(|pair| {
            let [of_scores, of_logs] = [fused[pair[0]] - fused[pair[1]], (probs[pair[0]] / probs[pair[1]]).ln()];
            (of_logs.abs() > 0.1).then_some(of_scores / of_logs)
        }));
    }
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    let rtol = if context.single { 1e-2 } else { 1e-6 };
    let one = found.len() > 8 && found.iter().all(|scale| (scale - mean).abs() <= rtol * mean.abs());
    let size = context.case.config.head_size();
    (one && (mean - (size as f64).sqrt()).abs() > rtol * mean.abs())
        .then(|| format!("fused scores are divided by {mean:.6}, not by √{size}, the item head size"))
}

/// Of the sequence output `[B, H]`: which vector of which layer it is.
pub(crate) fn of_sequence_output(context: &Context<'_>, pair: &Pair<'_>) -> Vec<String> {
    let config = &context.case.config;
    let (length, width) = (config.max_len, config.hidden_size);
    let is_item = context.case.is_item();
    let lengths: Vec<usize> =
        is_item.chunks(length).map(|row| row.iter().filter(|is_item| **is_item).count()).collect();
    let bound = pair.tolerance.bound(largest(pair.golden.values()));
    let rows = || pair.ours.values().chunks(width).enumerate();
    for k in (0..config.n_layers).rev() {
        let Some(output) = context.own_or_golden(&format!("out.layer.{k}.output")) else { continue };
        let vector = |row: usize, position: usize| &output.values()[(row * length + position) * width..][..width];
        let equal = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() <= bound);
        let taken_at = |of: &dyn Fn(usize) -> usize| rows().all(|(row, ours)| equal(ours, vector(row, of(row))));
        let places: [(&str, &dyn Fn(usize) -> usize); 5] = [
            ("len − 1", &|row| lengths[row] - 1),
            ("L − 1, padding or not", &|_| length - 1),
            ("len (the last one at most), one too far", &|row| lengths[row].min(length - 1)),
            ("len − 2 (the first one at least), one too early", &|row| lengths[row].saturating_sub(2)),
            ("0", &|_| 0),
        ];
        if let Some((place, _)) = places.iter().find(|(_, of)| taken_at(of)) {
            return vec![format!("it is the output of layer {k} at position {place}")];
        }
        let mean = |row: usize, positions: usize| -> Vec<f64> {
            let sum = |i| (0..positions).map(|position| vector(row, position)[i]).sum::<f64>();
            (0..width).map(|i| sum(i) / positions as f64).collect()
        };
        if rows().all(|(row, ours)| equal(ours, &mean(row, lengths[row]))) {
            return vec![format!("it is the mean of layer {k}'s output over items")];
        }
        if rows().all(|(row, ours)| equal(ours, &mean(row, length))) {
            return vec![format!("it is the mean of layer {k}'s output over all positions, padding too")];
        }
    }
    Vec::new()
}

/// Of losses: what the total is made of.
pub(crate) fn of_losses(context: &Context<'_>) -> Vec<String> {
    let config = &context.case.config;
    let scalar = |name: &str| context.own_or_golden(name)?.scalar();
    let is_total = matches!(context.first.name.as_str(), "out.loss.total" | "train.loss.1");
    let (Some(total), Some(item), true, true) =
        (scalar(&context.first.name), scalar("out.loss.item"), is_total, config.predicts_attributes())
    else {
        return Vec::new();
    };
    let names = config.attributes.iter().map(|attribute| format!("out.loss.attribute.{}", attribute.name));
    let Some(attributes) = names.map(|name| scalar(&name)).collect::<Option<Vec<f64>>>() else { return Vec::new() };
    let rtol = if context.single { 1e-5 } else { 2e-7 };
    let equals = |value: f64| (total - value).abs() <= rtol * total.abs().max(item.abs());
    let sum = |weights: &[f64]| attributes.iter().zip(weights).map(|(loss, weight)| loss * weight).sum::<f64>();
    let lamdas = &config.lamdas;
    let unweighted = vec![1.0; lamdas.len()];
    let reversed: Vec<f64> = lamdas.iter().rev().copied().collect();
    let mut told: Vec<String> = [
        (item, "the total is the item loss alone: the attribute losses are not in it"),
        (sum(lamdas), "the total is the attribute losses alone, times lamdas: the item loss is not in it"),
        (item + sum(&unweighted), "the total has the attribute losses without their weights, lamdas"),
        (item + sum(&reversed), "the total has the attribute losses with lamdas in the wrong order"),
        (
            item + sum(lamdas) / lamdas.len() as f64,
            "the total has the mean of the weighted attribute losses, not their sum",
        ),
        (item - sum(lamdas), "the total has the attribute losses subtracted"),
    ]
    .into_iter()
    .filter(|(value, _)| equals(*value))
    .map(|(_, text)| text.to_owned())
    .collect();
    if told.is_empty() && attributes.len() > 1 {
        let without = (0..attributes.len()).filter(|&i| equals(item + sum(lamdas) - attributes[i] * lamdas[i]));
        told.extend(without.map(|i| format!("the total lacks the attribute loss of `{}`", config.attributes[i].name)));
    }
    if told.is_empty() {
        let share = (total - item) / sum(lamdas);
        let named = Names::of(context.case).of_factor(share, 10.0 * rtol);
        told.extend(named.map(|named| format!("the attribute losses' share of the total is {named}")));
    }
    told
}
