//! Whether JSON that is passed on as text can be read at the other end.
//!
//! JSON's grammar allows what its readers refuse: half of a surrogate pair, a number beyond all range, nesting without
//! end. Codex drops a line that it cannot read without a word, so such a value must be refused here: its caller would
//! wait for an answer that never comes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Objects and arrays within each other. Readers with serde_json stop at 128, and a value stands some levels deep in a
/// message, in an event's record and in a state file.
const MAX_DEPTH: usize = 100;

/// Reads `json` to its end and keeps nothing of it.
///
/// # Errors
/// What a reader would say.
pub(super) fn check(json: &str) -> serde_json::Result<()> {
    Level(MAX_DEPTH).deserialize(&mut serde_json::Deserializer::from_str(json))
}

/// A value that may have that many more levels within it.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn below<E: Error>(self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self).ok_or_else(|| E::custom(format_args!("more than {MAX_DEPTH} levels deep")))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while items.next_element_seed(below)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while entries.next_key_seed(below)?.is_some() {
            entries.next_value_seed(below)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_reader_takes_is_refused() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let good = ["null", "true", "-1.5e3", r#"{"a\n":[1,"\ud83d\ude00",{}]}"#, "18446744073709551616"];
        for json in good.into_iter().map(str::to_owned).chain([nested(MAX_DEPTH)]) {
            check(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        }
        let bad = [r#"{"a":"\ud83d"}"#, r#"{"\ude00":1}"#, "[1e999]"];
        for json in bad.into_iter().map(str::to_owned).chain([nested(MAX_DEPTH + 1), nested(100_000)]) {
            assert!(check(&json).is_err(), "{}", &json[..json.len().min(40)]);
        }
    }
}
