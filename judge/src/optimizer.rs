//! What can be said of gradients, and of the optimizer's steps, from the dump's own numbers.

use crate::compare::largest;
use crate::context::Context;
use crate::numbers::Names;

/// Adam's steps in a case.
const STEPS: f64 = 5.0;

/// Of gradients, all together.
pub(crate) fn of_gradients(context: &Context<'_>) -> Vec<String> {
    let pairs: Vec<_> = (context.dump.keys().filter(|name| name.starts_with("grad.") && !context.rules.is_null(name)))
        .filter_map(|name| Some((*name, context.pair(name)?)))
        .collect();
    let departing = |pair: &crate::relations::Pair<'_>| pair.departing().contains(&true);
    let wrong = pairs.iter().filter(|(_, pair)| departing(pair)).count();
    let mut known = vec![format!("{wrong} of {} gradients depart", pairs.len())];
    let zero = pairs.iter().filter(|(_, pair)| departing(pair) && pair.ours.values().iter().all(|&v| v == 0.0));
    for (pattern, count) in crate::keys::patterns(zero.map(|(name, _)| *name)) {
        known.push(format!("`{pattern}` ({count}) is zero, as if detached or unused"));
    }
    // One factor for all: a sum instead of a mean, a loss that is scaled, or clipping.
    let factors: Option<Vec<f64>> = pairs.iter().map(|(_, pair)| pair.factor()).collect();
    let factors = factors.unwrap_or_default();
    let mean = factors.iter().sum::<f64>() / factors.len() as f64;
    if factors.len() > 3 && factors.iter().all(|factor| (factor - mean).abs() <= 1e-5 * mean.abs()) && wrong > 0 {
        let named = Names::of(context.case).of_factor(mean, 1e-5);
        let named = named.unwrap_or_else(|| format!("{mean:.7} times what is expected"));
        known.push(format!("every gradient is {named}"));
        let squares = pairs.iter().flat_map(|(_, pair)| pair.ours.values()).map(|v| v * v).sum::<f64>();
        let norm = squares.sqrt();
        if mean < 1.0 && (norm - norm.round()).abs() < 1e-4 && norm.round() >= 1.0 {
            known.push(format!("their norm is {norm:.4}: they are clipped"));
        }
    }
    known
}

/// Of the steps: how far parameters moved, beside how far they should and beside their own gradients.
pub(crate) fn of_steps(context: &Context<'_>) -> Vec<String> {
    let loss = |step: usize| context.dump.get(format!("train.loss.{step}").as_str()).and_then(|t| t.scalar());
    let mut known = Vec::new();
    if let (Some(first), Some(second)) = (loss(1), loss(2)) {
        if first == second {
            known.push("the loss before step 2 is that before step 1: the first step changes nothing".to_owned());
        } else if second > first && golden_loss(context, 2) < golden_loss(context, 1) {
            known.push("the loss rises with the first step: it goes up the gradient, or too far".to_owned());
        }
    }
    let moves = moves(context);
    if moves.is_empty() {
        known.push("dump `after5.*`, from which the optimizer's settings can be read".to_owned());
        return known;
    }
    let still = moves.iter().filter(|m| m.ours.iter().all(|&d| d == 0.0) && largest(&m.golden) > 0.0);
    let still: Vec<_> = crate::keys::patterns(still.map(|m| m.name)).into_iter().collect();
    for (pattern, count) in still.iter().take(4) {
        known.push(format!("`{pattern}` ({count}) has not moved: it is not trained"));
    }
    if still.len() > 4 {
        known.push(format!("{} groups more have not moved", still.len() - 4));
    }
    known.extend(step_sizes(context, &moves));
    known
}

fn golden_loss(context: &Context<'_>, step: usize) -> Option<f64> {
    context.case.golden(&format!("train.loss.{step}"))?.scalar()
}

/// A parameter's way in five steps.
struct Move<'a> {
    name: &'a str,
    initial: &'a [f64],
    ours: Vec<f64>,
    golden: Vec<f64>,
    grad: Option<&'a [f64]>,
}

fn moves<'a>(context: &Context<'a>) -> Vec<Move<'a>> {
    let after = context.dump.iter().filter(|(name, _)| name.starts_with("after5.") && !context.rules.is_null(name));
    let moves = after.filter_map(|(&name, tensor)| {
        let parameter = name.strip_prefix("after5.")?;
        let initial = context.own_or_golden(&format!("param.{parameter}"))?.values();
        let minus = |values: &[f64]| values.iter().zip(initial).map(|(after, before)| after - before).collect();
        let golden = minus(context.case.golden(name)?.values());
        let grad = context.own_or_golden(&format!("grad.{parameter}")).map(crate::Tensor::values);
        Some(Move { name, initial, ours: minus(tensor.values()), golden, grad })
    });
    moves.collect()
}

/// What the ratio of ways, and of ways and gradients, says.
fn step_sizes(context: &Context<'_>, moves: &[Move<'_>]) -> Vec<String> {
    let rate = context.case.config.learning_rate;
    // Where gradients are large, Adam moves every element by the learning rate in each step.
    let elements = || moves.iter().flat_map(|m| m.ours.iter().zip(&m.golden)).filter(|(_, d)| d.abs() > 4.5 * rate);
    let mut ratios: Vec<f64> = elements().map(|(ours, golden)| ours / golden).collect();
    ratios.sort_by(f64::total_cmp);
    let mut known = Vec::new();
    if ratios.len() > 100 {
        let [low, median, high] = [ratios.len() / 20, ratios.len() / 2, ratios.len() * 19 / 20].map(|i| ratios[i]);
        let told = (median - 1.0).abs() > 0.02 || high - low > 0.02;
        known.extend(told.then(|| {
            format!(
            "after five steps parameters moved by {median:.4} times the expected way (median; 5 to 95 %: {low:.4} to \
             {high:.4})"
        )}));
        if high - low < 0.02 && (median - 1.0).abs() > 0.02 {
            known.push(format!("as with a learning rate of {:.6}, or with {:.1} steps", median * rate, median * STEPS));
        }
    }
    known.extend(proportional(moves, rate));
    known.extend(decayed(moves));
    known
}

/// Whether ways are one factor times the first step's gradients: so moves SGD, while gradients hardly change.
fn proportional(moves: &[Move<'_>], rate: f64) -> Option<String> {
    let pairs = || moves.iter().filter_map(|m| Some(m.ours.iter().zip(m.grad?))).flatten();
    let [xy, xx, yy] = pairs().fold([0.0; 3], |[xy, xx, yy], (x, y)| [xy + x * y, xx + x * x, yy + y * y]);
    let (cosine, factor) = (xy / (xx * yy).sqrt(), xy / yy);
    (cosine.abs() > 0.99).then(|| {
        let up = if factor > 0.0 { ", up the gradient" } else { "" };
        format!(
            "parameters moved in proportion to their gradients (cosine {:.4}), as SGD does and Adam does not{up}: by {:.3e} \
             in a step, where the learning rate is {rate}",
            cosine.abs(),
            factor.abs() / STEPS
        )
    })
}

/// Whether elements without a gradient moved: weight decay moves them, Adam alone does not.
fn decayed(moves: &[Move<'_>]) -> Option<String> {
    let still = moves.iter().filter_map(|m| Some((m, m.grad?))).flat_map(|(m, grad)| {
        let elements = m.ours.iter().zip(m.initial).zip(&m.golden).zip(grad);
        elements.filter(|(((_, initial), golden), grad)| **grad == 0.0 && **golden == 0.0 && **initial != 0.0)
    });
    let shrunk: Vec<f64> = still.map(|(((ours, initial), _), _)| ours / initial).collect();
    let moved = shrunk.iter().filter(|ratio| **ratio != 0.0).count();
    (moved > 0).then(|| {
        let mean = shrunk.iter().sum::<f64>() / shrunk.len() as f64;
        format!(
            "{moved} elements without a gradient moved, by {mean:.2e} of their value on average: weight decay does that"
        )
    })
}
