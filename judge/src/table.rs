//! What each known fault makes of every tensor of a case: a table of signatures, computed once by the PyTorch peer.
//!
//! A signature is two projections of the tensor on fixed vectors of pseudo-random numbers, and its largest absolute value. Two tensors of
//! equal signature are equal but for an accident of about one in a billion, so that a few numbers stand for thousands.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::tensor::{self, File};
use crate::{Error, Result, Tensor, Tolerance};

/// How many times `tolerance · √n` a projection of n elements may depart.
///
/// The weights are uniform in [−1, 1], of variance 1/3: errors of at most e in each element, which know nothing of the
/// weights, move the sum by less than 4 · e · √n, seven standard deviations; and by no more than e · n.
const DEVIATIONS: f64 = 4.0;

/// Projections 0 and 1, and the largest absolute value. NaN: the fault leaves nothing to be dumped.
pub(crate) type Signature = [f64; 3];

/// A tensor in a few numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed {
    pub signature: Signature,
    elements: usize,
    all_zero: bool,
}

/// A fault of the table.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fault {
    /// The name that `--accept` takes.
    pub id: String,
    /// What is wrong, beside what is right.
    pub text: String,
    /// Other faults that the case cannot tell from this one, which `text` describes too.
    #[serde(default)]
    pub twins: Vec<String>,
}

/// The table of a case.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub faults: Vec<Fault>,
    /// Stages that the golden files do not hold.
    pub further: BTreeMap<String, Tensor>,
    /// The number of each key.
    keys: BTreeMap<String, usize>,
    /// `[K]`
    golden: Vec<Signature>,
    /// `[F][K]`: `None` where rounding alone moves what the fault gives.
    single: Vec<Vec<Option<Signature>>>,
    /// Two faults, and projection 0 of each of `pair_keys` under both.
    pairs: Vec<([usize; 2], Vec<f64>)>,
    /// The place of each key of pairs.
    pair_keys: BTreeMap<String, usize>,
}

impl Observed {
    pub fn of(tensor: &Tensor) -> Self {
        let values = tensor.values();
        Self {
            signature: [project(values, 0), project(values, 1), values.iter().map(|v| v.abs()).fold(0.0, f64::max)],
            elements: values.len(),
            all_zero: values.iter().all(|&value| value == 0.0),
        }
    }

    /// Its largest absolute value.
    pub fn largest(&self) -> f64 {
        self.signature[2]
    }

    /// Whether the tensor may be the one of this signature.
    pub fn agrees(&self, expected: Signature, tolerance: Tolerance) -> bool {
        self.gap(expected) <= allowed(expected, tolerance)
    }

    /// How far the tensor is from one of this signature, as an error of its elements: 0 if they may be equal.
    pub fn gap(&self, expected: Signature) -> f64 {
        let [first, second, most] = expected;
        let only_if = |equal: bool| if equal { 0.0 } else { f64::INFINITY };
        match () {
            // A gradient that does not exist may be dumped as zeros.
            () if most.is_nan() => only_if(self.all_zero),
            // Of a tensor that holds −∞ the sums say nothing.
            () if most.is_infinite() => only_if(self.signature[2] == most),
            () => self.gap_of(0, first).max(self.gap_of(1, second)).max(distance(self.signature[2], most)),
        }
    }

    fn gap_of(&self, k: usize, expected: f64) -> f64 {
        let elements = self.elements as f64;
        distance(self.signature[k], expected) / elements.min(DEVIATIONS * elements.sqrt())
    }
}

/// Infinite of what is not a number.
fn distance(a: f64, b: f64) -> f64 {
    let distance = (a - b).abs();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// How large a gap may be.
pub(crate) fn allowed([_, _, most]: Signature, tolerance: Tolerance) -> f64 {
    if most.is_finite() { tolerance.bound(most) } else { 0.0 }
}

/// Whether two signatures of the same tensor can be told apart.
fn differ(a: Signature, b: Signature, elements: usize, tolerance: Tolerance) -> bool {
    let known = |signature| Observed { signature, elements, all_zero: false };
    if a[2].is_nan() || b[2].is_nan() { a[2].is_nan() != b[2].is_nan() } else { !known(a).agrees(b, tolerance) }
}

impl Table {
    /// Reads a table; `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let File { mut tensors, metadata } = tensor::parse(path, bytes)?;
        let wrong = |problem: &str| {
            Error::new(format!("expected a table of causes, found {problem}"))
                .at(path)
                .hint("write it with `python -m dif_sr_peer.signatures`")
        };
        let mut take = |name: &str, width: usize| {
            let tensor = tensors.remove(name).ok_or_else(|| wrong(&format!("no tensor `{name}`")))?;
            let rows: Vec<Vec<f64>> = tensor.values().chunks(width.max(1)).map(<[f64]>::to_vec).collect();
            match rows.iter().all(|row| row.len() == width) {
                true => Ok(rows),
                false => Err(wrong(&format!("`{name}` with rows that are not of {width} numbers"))),
            }
        };
        let text = |name: &str| metadata.get(name).ok_or_else(|| wrong(&format!("no metadata `{name}`")));
        let json = |e: serde_json::Error| wrong(&format!("metadata that cannot be read: {e}"));
        let faults: Vec<Fault> = serde_json::from_str(text("faults")?).map_err(json)?;
        let keys: Vec<String> = serde_json::from_str(text("keys")?).map_err(json)?;
        let pair_keys: Vec<String> = serde_json::from_str(text("pair_keys")?).map_err(json)?;
        let numbered = |keys: Vec<String>| keys.into_iter().enumerate().map(|(i, key)| (key, i)).collect();

        let signatures = |rows: Vec<Vec<f64>>| -> Vec<Signature> {
            rows.into_iter().filter_map(|row| Signature::try_from(row).ok()).collect()
        };
        let golden = signatures(take("golden", 3)?);
        let single = signatures(take("single", 3)?);
        let pairs = take("pairs", 2)?;
        let pair = take("pair", pair_keys.len())?;
        if golden.len() != keys.len() || single.len() != keys.len() * faults.len() || pairs.len() != pair.len() {
            return Err(wrong("tensors of other sizes than its metadata says"));
        }
        let unstable: Vec<bool> =
            tensors.remove("unstable").map_or_else(Vec::new, |t| t.values().iter().map(|&u| u != 0.0).collect());
        let left_out = |i: usize| unstable.get(i).copied().unwrap_or(false);
        let single: Vec<_> = single.into_iter().enumerate().map(|(i, s)| (!left_out(i)).then_some(s)).collect();
        let indices = pairs.into_iter().map(|pair| <[f64; 2]>::try_from(pair).map(|p| p.map(|i| i as usize)));
        let indices: Vec<[usize; 2]> = indices.filter_map(std::result::Result::ok).collect();
        if indices.len() != pair.len() || indices.iter().flatten().any(|&fault| fault >= faults.len()) {
            return Err(wrong("pairs of faults that it does not list"));
        }
        let further = tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix("stage.")?.to_owned(), t)));
        Ok(Self {
            further: further.collect(),
            single: single.chunks(keys.len().max(1)).map(<[_]>::to_vec).collect(),
            keys: numbered(keys),
            pair_keys: numbered(pair_keys),
            pairs: indices.into_iter().zip(pair).collect(),
            faults,
            golden,
        })
    }

    /// The number of the fault of this name.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.faults.iter().position(|fault| fault.id == id || fault.twins.iter().any(|twin| twin == id))
    }

    /// How many pairs it holds.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Whether it says something of a tensor.
    pub fn knows(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The signature of a tensor under a fault; `None` of a tensor that the table does not know, or cannot know.
    pub fn single(&self, fault: usize, key: &str) -> Option<Signature> {
        self.single[fault][*self.keys.get(key)?]
    }

    /// The signature of a tensor that is right.
    pub fn golden(&self, key: &str) -> Option<Signature> {
        Some(self.golden[*self.keys.get(key)?])
    }

    /// Whether a fault can be seen in a tensor.
    pub fn shows(&self, fault: usize, key: &str, elements: usize, tolerance: Tolerance) -> bool {
        self.keys.get(key).is_some_and(|&i| {
            self.single[fault][i].is_none_or(|expected| differ(expected, self.golden[i], elements, tolerance))
        })
    }

    /// Whether two faults differ in a tensor.
    pub fn tells(&self, faults: [usize; 2], key: &str, elements: usize, tolerance: Tolerance) -> bool {
        let [a, b] = faults.map(|fault| &self.single[fault]);
        let both = self.keys.get(key).and_then(|&i| Some((a[i]?, b[i]?)));
        both.is_some_and(|(a, b)| differ(a, b, elements, tolerance))
    }

    /// Pairs of faults, by number.
    pub fn all_pairs(&self) -> impl Iterator<Item = (usize, [usize; 2])> {
        self.pairs.iter().enumerate().map(|(i, (faults, _))| (i, *faults))
    }

    /// How far a tensor is from what a pair of faults makes of it; `None` of a tensor that is kept for no pair.
    pub fn pair_gap(&self, pair: usize, key: &str, found: &Observed) -> Option<f64> {
        let expected = self.pairs[pair].1[*self.pair_keys.get(key)?];
        Some(if expected.is_nan() && found.all_zero { 0.0 } else { found.gap_of(0, expected) })
    }
}

/// `Σ t_i · w(k, i)`, with weights that are the same for every tensor.
pub(crate) fn project(values: &[f64], k: u64) -> f64 {
    values.iter().enumerate().map(|(i, value)| value * weight((k << 40) + i as u64)).sum()
}

/// A number in [−1, 1) that depends on `state` alone: SplitMix64's output, whose upper 53 bits are taken.
fn weight(state: u64) -> f64 {
    let mut z = state.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Case;

    #[test]
    fn the_golden_signatures_of_a_table_are_those_of_its_case() {
        for name in Case::names() {
            let case = Case::bundled(name).unwrap_or_else(|e| panic!("{e}"));
            let table = case.table.as_ref().expect("a bundled case has a table");
            // After losses that were summed in float32, another processor's rounding.
            let rtol = if case.config.predicts_attributes() { 1e-7 } else { Tolerance::FLOAT64.rtol };
            for key in table.keys.keys() {
                let found = Observed::of(case.golden(key).unwrap_or_else(|| panic!("{name}: {key}")));
                let expected = table.golden(key).expect("of the table");
                assert!(found.agrees(expected, Tolerance { rtol, ..Tolerance::FLOAT64 }), "{name}: {key}");
            }
        }
    }
}
