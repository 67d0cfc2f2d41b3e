//! The module tree: what is registered where, in RecBole's order.
//!
//! It is the one register of the parameters. Everything that depends on their order or names asks it: checkpoints, the
//! optimizer, the device that they move to, the order in which initial values are drawn, and what printing the model shows.

use std::fmt;
use std::ops::Range;

use tch::Tensor;

use super::names;

/// A module and its sub-modules in order of registration.
#[derive(Debug)]
pub struct Tree {
    label: String,
    leaf: Leaf,
    children: Vec<(String, Tree)>,
}

/// What a module without sub-modules holds.
#[derive(Debug)]
pub(super) enum Leaf {
    /// Nothing to train.
    Inert,
    Linear {
        weight: Tensor,
        bias: Tensor,
    },
    /// `weight` has the rows `held` of a table of `rows`.
    Embedding {
        weight: Tensor,
        held: Range<i64>,
        rows: i64,
    },
    LayerNorm {
        weight: Tensor,
        bias: Tensor,
    },
    /// An attribute table, which RecBole keeps outside of `parameters()`.
    Frozen {
        table: Tensor,
    },
}

impl Tree {
    /// A module with sub-modules.
    pub(super) fn node(class: &str, children: Vec<(&str, Tree)>) -> Self {
        Self::parent(class, children.into_iter().map(|(name, tree)| (name.to_owned(), tree)).collect())
    }

    /// PyTorch's `ModuleList` or `Sequential`: children named by their position.
    pub(super) fn list(class: &str, children: impl IntoIterator<Item = Tree>) -> Self {
        Self::parent(class, children.into_iter().enumerate().map(|(i, tree)| (i.to_string(), tree)).collect())
    }

    fn parent(class: &str, children: Vec<(String, Tree)>) -> Self {
        // PyTorch writes brackets after a class even if nothing stands in them.
        let label = if children.is_empty() { format!("{class}()") } else { class.to_owned() };
        Self { label, leaf: Leaf::Inert, children }
    }

    /// A module without parameters.
    pub(super) fn inert(label: impl Into<String>) -> Self {
        Self::leaf(label.into(), Leaf::Inert)
    }

    /// A [`FeatureSeqEmbLayer`](super::FeatureSeqEmbLayer), whose table is no parameter.
    pub(super) fn frozen(table: &Tensor) -> Self {
        Self::leaf("FeatureSeqEmbLayer()".to_owned(), Leaf::Frozen { table: table.shallow_clone() })
    }

    /// A module with parameters.
    pub(super) fn leaf(label: String, leaf: Leaf) -> Self {
        Self { label, leaf, children: Vec::new() }
    }

    /// Every trained parameter under its `state_dict` name, in order of registration.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let mut found = Vec::new();
        self.visit("", &mut |prefix, leaf| match leaf {
            Leaf::Inert | Leaf::Frozen { .. } => {}
            Leaf::Embedding { weight, .. } => found.push((names::weight(prefix), weight.shallow_clone())),
            Leaf::Linear { weight, bias } | Leaf::LayerNorm { weight, bias } => {
                found.push((names::weight(prefix), weight.shallow_clone()));
                found.push((names::bias(prefix), bias.shallow_clone()));
            }
        });
        found
    }

    /// Calls `f` with the path and content of every module, children before their parent, in order of registration.
    pub(super) fn visit(&self, path: &str, f: &mut impl FnMut(&str, &Leaf)) {
        for (name, child) in &self.children {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            child.visit(&path, f);
        }
        f(path, &self.leaf);
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        if self.children.is_empty() {
            return f.write_str(&self.label);
        }
        writeln!(f, "{}(", self.label)?;
        for (name, child) in &self.children {
            write!(f, "{:indent$}({name}): ", "", indent = indent + 2)?;
            child.write(f, indent + 2)?;
            writeln!(f)?;
        }
        write!(f, "{:indent$})", "")
    }
}

/// As PyTorch prints a model.
impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}
