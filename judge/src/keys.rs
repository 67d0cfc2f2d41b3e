//! A dump's keys: which the case knows, which are misspelt, and what those that are absent or too many say.

use std::collections::BTreeMap;

use crate::error::nearest;
use crate::relations::axes_in_order;
use crate::{Case, Dtype, Dump, Error, Result, Stage, Tensor};

/// First parts behind which a parameter's name stands.
const OF_PARAMETERS: [&str; 3] = ["param", "grad", "after5"];
/// Two names are taken for one that is misspelt from here on: two wrong letters in a dozen.
const ALIKE: f64 = 0.8;

/// A dump's tensors, sorted.
#[derive(Debug, Default)]
pub(crate) struct Keys<'a> {
    /// Those that the case has, each of the case's shape.
    pub known: BTreeMap<&'a str, &'a Tensor>,
    /// `init.<parameter>`
    pub initial: BTreeMap<&'a str, &'a Tensor>,
    /// `param.`, `grad.` and `after5.` of what the case has no such tensor of.
    pub extra: BTreeMap<&'a str, &'a Tensor>,
    /// All others.
    pub foreign: Vec<String>,
}

impl<'a> Keys<'a> {
    /// # Errors
    /// A key is misspelt, a tensor has another shape or another type than the case's, or there is nothing of the case.
    pub fn sort(case: &Case, dump: &'a Dump) -> Result<Self> {
        let mut keys = Self::default();
        for (name, tensor) in &dump.tensors {
            let prefix = name.split_once('.').map_or("", |(prefix, _)| prefix);
            if let Some(golden) = case.golden(name) {
                fits(name, tensor, golden).map_err(|error| error.at(&dump.path).tensor(name))?;
                keys.known.insert(name, tensor);
            } else if prefix == "init" {
                readable(tensor).map_err(|error| error.at(&dump.path).tensor(name))?;
                keys.initial.insert(name, tensor);
            } else {
                let of_parameter = OF_PARAMETERS.contains(&prefix);
                // A stage that this case does not hold is no mistake: `fused_scores` under `sum`, say.
                let other_stage = !of_parameter && Stage::of(name).is_some();
                if other_stage {
                    keys.foreign.push(name.clone());
                } else if let Some(meant) = misspelt(name, prefix, case, dump) {
                    return Err(Error::new(format!("found `{name}`, which is no key of {}", case.name))
                        .at(&dump.path)
                        .hint(format!("is `{meant}` meant? Rename it, or leave it out")));
                } else if of_parameter {
                    if is_of_table(name) {
                        readable(tensor).map_err(|error| error.at(&dump.path).tensor(name))?;
                    }
                    keys.extra.insert(name, tensor);
                } else {
                    keys.foreign.push(name.clone());
                }
            }
        }
        if keys.known.is_empty() && keys.initial.is_empty() {
            let found: Vec<String> = dump.tensors.keys().take(5).map(|name| format!("`{name}`")).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(Error::new(format!(
                "expected tensors named as in the case (`out.scores`, `out.layer.0.attention_probs`, …), found {found}"
            ))
            .at(&dump.path)
            .hint("name them as docs/verify.md lists them"));
        }
        Ok(keys)
    }

    /// What absent and additional keys say.
    pub fn evidence(&self, case: &Case) -> Vec<String> {
        let mut said: Vec<String> = OF_PARAMETERS.iter().flat_map(|prefix| self.absent(case, prefix)).collect();
        said.extend(self.trained_tables(case));
        let others = self.extra.keys().filter(|name| !is_of_table(name));
        for (pattern, count) in patterns(others.copied()) {
            said.push(format!("`{pattern}` ({}) is of a parameter that DIF-SR does not have here", tensors(count)));
        }
        said
    }

    /// Parameters of which the dump has nothing, though it has others of the kind.
    fn absent(&self, case: &Case, prefix: &str) -> Vec<String> {
        let of = |name: &str| name.split_once('.').is_some_and(|(first, _)| first == prefix);
        if !self.known.keys().any(|name| of(name)) {
            return Vec::new();
        }
        let missing =
            case.tensors.keys().map(String::as_str).filter(|&name| of(name) && !self.known.contains_key(name));
        let said = patterns(missing).into_iter().map(|(pattern, count)| {
            let parameters = pattern.split_once('.').map_or("", |(_, rest)| rest);
            let whose = whose(parameters).map_or(String::new(), |whose| format!(", {whose}"));
            let mut known = self.known.keys().filter_map(|name| name.strip_prefix("param."));
            let exists = known.any(|name| generic(name) == parameters);
            let means = match prefix {
                "grad" if exists => {
                    "the parameter is there and has no gradient: detached, frozen, unused, or not dumped"
                }
                "after5" if exists => "the parameter is there and is not among those after training",
                _ => "the model has none, or they are not dumped",
            };
            format!("no `{pattern}` ({}{whose}): {means}", tensors(count))
        });
        said.collect()
    }

    /// Attribute tables that have gradients, or have moved.
    fn trained_tables(&self, case: &Case) -> Vec<String> {
        let tables = self.extra.iter().filter(|(name, _)| is_of_table(name));
        let said = tables.filter_map(|(name, tensor)| {
            let (prefix, table) = name.split_once('.')?;
            let initial = case.tensors.get(&format!("param.{table}"))?;
            let moved = initial.values().iter().zip(tensor.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            match prefix {
                "grad" if tensor.values().iter().any(|&value| value != 0.0) => Some(format!(
                    "`{name}`: the attribute table has a gradient, so it is trained unless the optimizer is not given it; \
                     the reference trains none"
                )),
                "after5" if moved > 0.0 => Some(format!(
                    "`{name}`: the attribute table is trained, it has moved by up to {moved:.1e}; the reference trains none"
                )),
                _ => None,
            }
        });
        said.collect()
    }
}

fn is_of_table(name: &str) -> bool {
    name.contains(".feature_embed_layer_list.")
}

fn tensors(count: usize) -> String {
    if count == 1 { "1 tensor".into() } else { format!("{count} tensors") }
}

/// Names that differ in the layer's number alone, or in `weight` and `bias`, as one, with how many they are.
pub(crate) fn patterns<'n>(names: impl Iterator<Item = &'n str>) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(generic(name)).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// A name with `*` for the layer's number and for `weight` or `bias`.
fn generic(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let stars = parts.iter().enumerate().map(|(i, part)| match *part {
        "weight" | "bias" if i + 1 == parts.len() => "*",
        part if i > 0 && parts[i - 1] == "layer" && part.parse::<usize>().is_ok() => "*",
        part => part,
    });
    stars.collect::<Vec<_>>().join(".")
}

/// What a group of parameters is for.
fn whose(pattern: &str) -> Option<&'static str> {
    let known = [
        ("fusion_layer", "the fusion's own"),
        ("query_layers", "the attribute stream's queries"),
        ("key_layers", "the attribute stream's keys"),
        ("query_p", "the position stream's queries"),
        ("key_p", "the position stream's keys"),
        ("position_embedding", "the positions"),
        ("ap.", "the attribute predictor's"),
        ("feature_embed_layer_list", "the attribute table"),
    ];
    known.into_iter().find(|(part, _)| pattern.contains(part)).map(|(_, whose)| whose)
}

/// The key that is meant by one that the case does not know.
fn misspelt<'c>(name: &str, prefix: &str, case: &'c Case, dump: &Dump) -> Option<&'c str> {
    let exact = ["out", "train", "in"].contains(&prefix);
    let table = case.tensors.keys().filter_map(|key| key.strip_prefix("param.feature_embed_layer_list."));
    let of_table = OF_PARAMETERS.contains(&prefix) && table.into_iter().any(|rest| name.ends_with(rest));
    if of_table && is_of_table(name) {
        return None;
    }
    // A key that is there under its own name is not what another one means.
    let absent = case.keys().filter(|key| !dump.tensors.contains_key(*key));
    let same_prefix = absent.filter(|key| !OF_PARAMETERS.contains(&prefix) || key.starts_with(&format!("{prefix}.")));
    let (near, alike) = nearest(name, same_prefix)?;
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let spelt = alike >= ALIKE && (digits(near) == digits(name) || exact);
    (spelt || exact).then_some(near)
}

fn readable(tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        Dtype::Half(name) => Err(Error::new(format!("expected float64 or float32, found {name}"))
            .hint("half precision rounds by as much as faults change: run the model in float64, or in float32")),
        Dtype::Other => Err(Error::new("expected float64 or float32, found another type").hint("convert the tensor")),
        _ => Ok(()),
    }
}

/// Whether a tensor of the dump has the type and the shape of the case's.
fn fits(name: &str, tensor: &Tensor, golden: &Tensor) -> Result<()> {
    readable(tensor)?;
    if tensor.dtype().is_float() != golden.dtype().is_float() {
        let named = if golden.dtype().is_float() { "float64 or float32" } else { "int64 or int32" };
        return Err(Error::new(format!("expected {named}, found {}", tensor.dtype())).hint("convert the tensor"));
    }
    if tensor.shape() != golden.shape() {
        let turned = axes_in_order(tensor, golden)
            .map(|axes| format!("permute its axes to {axes:?}: it then holds what is expected of `{name}`"));
        return Err(Error::new(format!("expected shape {:?}, found {:?}", golden.shape(), tensor.shape()))
            .hint(turned.unwrap_or_else(|| "dump the tensor in the case's layout (docs/verify.md)".into())));
    }
    Ok(())
}
