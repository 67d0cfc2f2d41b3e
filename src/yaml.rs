//! YAML whose aliases cannot repeat more than was written.
//!
//! An alias (`*a`) stands for all that its anchor (`&a`) holds, and aliases within anchors multiply: a line or two can
//! describe more values than fit into memory. Without aliases each value takes at least half a byte of text.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde_yaml::Result;

/// Reads YAML as `serde_yaml::from_str` does, and as PyYAML does where a byte-order mark comes first: without it.
///
/// # Errors
/// Those of `serde_yaml`, and aliases that make it more than two values for each byte of `text`.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('*') {
        let left = Cell::new(2 * text.len());
        Count { left: &left }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    }
    serde_yaml::from_str(text)
}

/// Walks over a value without keeping it, and fails when there is more to it than `left`.
#[derive(Clone, Copy)]
struct Count<'a> {
    left: &'a Cell<usize>,
}

impl Count<'_> {
    fn one<E: Error>(self) -> std::result::Result<(), E> {
        let problem = "aliases that repeat more than the text has characters";
        self.left.set(self.left.get().checked_sub(1).ok_or_else(|| E::custom(problem))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> std::result::Result<(), E> {
        self.one()
    }

    fn visit_i64<E: Error>(self, _: i64) -> std::result::Result<(), E> {
        self.one()
    }

    fn visit_u64<E: Error>(self, _: u64) -> std::result::Result<(), E> {
        self.one()
    }

    fn visit_f64<E: Error>(self, _: f64) -> std::result::Result<(), E> {
        self.one()
    }

    /// A repeated text counts with its length.
    fn visit_str<E: Error>(self, text: &str) -> std::result::Result<(), E> {
        self.left.set(self.left.get().saturating_sub(text.len()));
        self.one()
    }

    fn visit_unit<E: Error>(self) -> std::result::Result<(), E> {
        self.one()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        self.one()?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> std::result::Result<(), A::Error> {
        self.one()?;
        while pairs.next_key_seed(self)?.is_some() {
            pairs.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> std::result::Result<(), A::Error> {
        let (_, value) = tagged.variant::<IgnoredAny>()?;
        value.newtype_variant_seed(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_yaml::Value;

    use super::*;

    #[test]
    fn what_is_written_out_is_read_whatever_it_is() {
        for text in ["[*a]", "- '*'\n- !tag [~, 1, -1, 1.5, true]", "{a, b: '*', ? c}", "*", "[,*", "a: &a [1]\nb: *a"]
        {
            let ours = from_str::<Value>(text).map_err(|e| e.to_string());
            assert_eq!(ours, serde_yaml::from_str(text).map_err(|e| e.to_string()), "{text}");
        }
    }

    #[test]
    fn aliases_may_repeat_no_more_than_was_written() {
        let doubled =
            |n| (1..n).fold("a0: &a0 [1]\n".to_owned(), |t, i| t + &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1));
        assert!(from_str::<Value>(&doubled(3)).is_ok());
        let long = format!("a: &a '{}'\nb: [{}]", "x".repeat(1000), "*a, ".repeat(100));
        for text in [doubled(30), long] {
            let error = from_str::<Value>(&text).unwrap_err().to_string();
            assert!(error.contains("aliases that repeat more than"), "{error}");
        }
    }
}
