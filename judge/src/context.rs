//! A dump at its first departure: what every rule that reads its numbers is given.

use std::collections::BTreeMap;

use crate::relations::Pair;
use crate::rules::Rules;
use crate::{Case, Comparison, Stage, Tensor};

/// A dump at its first departure.
pub(crate) struct Context<'a> {
    pub case: &'a Case,
    pub rules: &'a Rules,
    /// The tensors that the case knows.
    pub dump: &'a BTreeMap<&'a str, &'a Tensor>,
    pub first: &'a Comparison,
    pub stage: Stage,
    /// Whether it computed in float32.
    pub single: bool,
}

impl<'a> Context<'a> {
    /// The dump's tensor of a name, or else the case's.
    pub fn own_or_golden(&self, name: &str) -> Option<&'a Tensor> {
        self.dump.get(name).copied().or_else(|| self.case.golden(name))
    }

    /// A tensor of the dump beside what it should be.
    pub fn pair(&self, name: &str) -> Option<Pair<'a>> {
        let tolerance = self.rules.tolerance(name);
        Some(Pair { ours: self.dump.get(name).copied()?, golden: self.case.golden(name)?, tolerance })
    }
}
