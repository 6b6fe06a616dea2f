//! JSON objects one level at a time.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json;

/// The members of an object, each value the text it came as. Only the object itself is looked at, so nothing within a
/// value makes it unreadable: no depth, no number beyond all range, no half of a surrogate pair.
#[derive(Debug, Default, Clone)]
pub struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The members of an object; `None` for any other value.
    pub fn of(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    /// Names, with their quotes, and values, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&'a RawValue, &'a RawValue)> + '_ {
        self.0.iter().copied()
    }

    /// The value of that name; the last one, if there are several.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| is_name(key, name)).map(|(_, value)| *value)
    }

    /// The string of that name; half of a surrogate pair in it becomes U+FFFD.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// The object of that name.
    pub fn object(&self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::of)
    }

    /// The elements of the array of that name.
    pub fn list(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// The number of that name, whatever its size, as it was written.
    pub fn number(&self, name: &str) -> Option<&'a str> {
        let text = self.get(name)?.get();
        text.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then_some(text)
    }
}

/// The string that `value` is, if it is one; half of a surrogate pair in it becomes U+FFFD.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let inside = value.get().strip_prefix('"')?.strip_suffix('"')?;
    Some(match inside.contains('\\') {
        false => Cow::Borrowed(inside),
        true => Cow::Owned(json::string_chars(value.get()).collect()),
    })
}

/// Whether that is the name of a member, whose key is given with its quotes.
pub fn is_name(key: &RawValue, name: &str) -> bool {
    text(key).is_some_and(|key| key == name)
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(&'de RawValue, &'de RawValue)>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn nothing_within_a_value_makes_an_object_unreadable() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let object = raw(&format!(
            r#"{{ "deep" : {deep}, "huge":1e999999, "half":"a\ud800b", "t\u0065xt":"x\ny", "n":-12345678901234567890123,
                "o":{{"a":1}}, "list":[1,"two"], "\udead":true, "o":{{"b":2}} }}"#
        ));
        let members = Members::of(&object).unwrap();
        assert_eq!(members.iter().count(), 9);
        assert_eq!(members.get("deep").unwrap().get(), deep);
        assert_eq!(members.number("huge"), Some("1e999999"));
        assert_eq!(members.number("n"), Some("-12345678901234567890123"));
        assert_eq!(members.text("half").unwrap(), "a\u{fffd}b");
        assert_eq!(members.text("text").unwrap(), "x\ny");
        assert_eq!(members.object("o").unwrap().number("b"), Some("2"), "the last of a name counts");
        assert_eq!(members.list("list").unwrap().len(), 2);
        assert!(
            members.get("none").is_none() && members.text("huge").is_none() && members.number("o").is_none()
        );
        for other in ["null", "[]", "7", "\"{}\""] {
            assert!(Members::of(&raw(other)).is_none(), "{other}");
        }
    }
}
