//! Tokens and their ids, both ways.

use std::collections::HashMap;
use std::sync::Arc;

/// The token of id 0.
pub const PAD: &str = "[PAD]";

/// Distinct tokens, numbered from 1 in the order in which they were first seen; id 0 is [`PAD`].
///
/// ```
/// use dif_sr::data::Vocabulary;
/// let mut vocabulary = Vocabulary::default();
/// assert_eq!((vocabulary.intern("b"), vocabulary.intern("a"), vocabulary.intern("b")), (1, 2, 1));
/// assert_eq!(vocabulary.iter().collect::<Vec<_>>(), ["[PAD]", "b", "a"]);
/// assert_eq!((vocabulary.id("a"), vocabulary.token(2)), (Some(2), Some("a")));
/// ```
#[derive(Debug, Clone)]
pub struct Vocabulary {
    tokens: Vec<Arc<str>>,
    /// Without the padding, so that data may hold a token that is spelt `[PAD]`: it gets an id of its own.
    ids: HashMap<Arc<str>, i64>,
}

impl Default for Vocabulary {
    /// The padding alone.
    fn default() -> Self {
        Self { tokens: vec![PAD.into()], ids: HashMap::new() }
    }
}

impl Vocabulary {
    /// The id of `token`, which becomes the last one if it is new.
    pub fn intern(&mut self, token: &str) -> i64 {
        match self.ids.get(token) {
            Some(&id) => id,
            None => self.push(token.into()),
        }
    }

    /// Adds a token that is known to be new.
    fn push(&mut self, token: Arc<str>) -> i64 {
        let id = self.tokens.len() as i64;
        self.tokens.push(token.clone());
        self.ids.insert(token, id);
        id
    }

    /// The id of `token`, if it has one.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.ids.get(token).copied().or((token == PAD).then_some(0))
    }

    /// The token of `id`, if there is one.
    pub fn token(&self, id: i64) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(|token| &**token)
    }

    /// The id in `other` of each of these ids; `other` gets the tokens that it lacks.
    pub(super) fn ids_in(&self, other: &mut Self) -> Vec<i64> {
        std::iter::once(0).chain(self.iter().skip(1).map(|token| other.intern(token))).collect()
    }

    /// All tokens in the order of their ids, the padding first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tokens.iter().map(|token| &**token)
    }

    /// The number of tokens, the padding included.
    #[expect(clippy::len_without_is_empty, reason = "the padding is always there")]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// Gives the ids of one vocabulary new numbers, in the order in which they are asked for.
pub(super) struct Renumbering<'a> {
    from: &'a Vocabulary,
    /// The new id of each old one; 0 where none has been given.
    new: Vec<i64>,
    to: Vocabulary,
}

impl<'a> Renumbering<'a> {
    pub fn new(from: &'a Vocabulary) -> Self {
        Self { from, new: vec![0; from.len()], to: Vocabulary::default() }
    }

    /// The new id of `old`, an id of the old vocabulary; padding stays padding.
    pub fn id(&mut self, old: i64) -> i64 {
        let old = old as usize;
        if old != 0 && self.new[old] == 0 {
            self.new[old] = self.to.push(self.from.tokens[old].clone());
        }
        self.new[old]
    }

    pub fn finish(self) -> Vocabulary {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_spelt_like_the_padding_has_an_id_of_its_own() {
        let mut vocabulary = Vocabulary::default();
        assert_eq!(vocabulary.id(PAD), Some(0));
        assert_eq!(vocabulary.intern(PAD), 1);
        assert_eq!(vocabulary.id(PAD), Some(1));
    }

    #[test]
    fn ids_outside_the_vocabulary_have_no_token() {
        let vocabulary = Vocabulary::default();
        assert_eq!((vocabulary.token(-1), vocabulary.token(1), vocabulary.id("a")), (None, None, None));
    }

    #[test]
    fn renumbering_follows_the_order_of_asking_and_drops_the_rest() {
        let mut old = Vocabulary::default();
        assert_eq!(["a", "b", "c"].map(|token| old.intern(token)), [1, 2, 3]);
        let mut renumbering = Renumbering::new(&old);
        assert_eq!([3, 0, 1, 3].map(|id| renumbering.id(id)), [1, 0, 2, 1]);
        assert_eq!(renumbering.finish().iter().collect::<Vec<_>>(), [PAD, "c", "a"]);
    }
}
