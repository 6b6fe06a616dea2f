//! The body of a POST: an object whose fields are taken one by one, each with an error that names it. Values that are
//! passed on to the app-server stay the text they came as.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::fields::{Field, param};
use super::{OpError, readable};
use crate::model;
use crate::model::members::Members;

/// How many ignored fields are named.
const MOST_IGNORED: usize = 16;

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A string; trimmed, blank counts as absent.
    Text,
    /// `true` or `false`.
    Flag,
    /// An object.
    Object,
    /// A string or an object: the app-server knows both forms.
    TextOrObject,
    /// A whole number, at least this one.
    Number(u64),
    /// One of these words.
    OneOf(fn() -> Vec<&'static str>),
    /// An array of strings.
    List,
    /// An object of strings.
    Texts,
    /// An object of strings, or null in the place of one.
    TextsOrNulls,
    /// A turn's input: a non-empty string, or a non-empty array of objects.
    Input,
}

impl Kind {
    /// For people: `a string`.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::TextOrObject => "a string or an object".to_owned(),
            Self::Number(least) => format!("a whole number of at least {least}"),
            Self::OneOf(words) => {
                let words: Vec<String> = words().iter().map(|word| format!("\"{word}\"")).collect();
                format!("one of {}", words.join(", "))
            }
            Self::List => "an array of strings".to_owned(),
            Self::Texts => "an object whose values are strings".to_owned(),
            Self::TextsOrNulls => {
                "an object whose values are strings, or null to remove a variable".to_owned()
            }
            Self::Input => "a non-empty string or a non-empty array of input items".to_owned(),
        }
    }
}

/// The fields of a body that were given: present and not null.
#[derive(Debug, Default)]
pub struct Body {
    /// By name; each with its place in the body.
    fields: BTreeMap<String, (usize, Box<RawValue>)>,
    /// The tables of the fields that may be asked for, if that is watched.
    declared: Option<&'static [&'static [Field]]>,
}

impl Body {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is empty, no JSON, or no object.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(OpError::BadRequest(
                "The body is empty; it must be a JSON object (at least {}).".to_owned(),
            ));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| OpError::BadRequest(format!("The body is not UTF-8: {error}.")))?;
        let whole: &RawValue = serde_json::from_str(text)
            .map_err(|error| OpError::BadRequest(format!("The body is not JSON: {error}.")))?;
        if !whole.get().starts_with('{') {
            return Err(OpError::BadRequest("The body must be a JSON object.".to_owned()));
        }
        let broken = |error| OpError::BadRequest(format!("The body is not JSON: {error}."));
        let members: Members<'_> = serde_json::from_str(text).map_err(broken)?;
        let mut fields = BTreeMap::new();
        for (at, (name, value)) in members.iter().enumerate() {
            let name: String = serde_json::from_str(name.get()).map_err(broken)?;
            // Of several with one name the last counts, also if it is null.
            match value.get() {
                "null" => fields.remove(&name),
                _ => fields.insert(name, (at, value.to_owned())),
            };
        }
        Ok(Self { fields, declared: None })
    }

    /// These are the fields that are known. From here on (in debug builds) no other is given out: a verb that reads
    /// another has an undocumented one.
    #[must_use]
    pub fn declared(mut self, tables: &'static [&'static [Field]]) -> Self {
        self.declared = Some(tables);
        self
    }

    fn is_known(&self, name: &str) -> bool {
        self.declared.is_none_or(|tables| tables.iter().copied().flatten().any(|field| field.name == name))
    }

    /// The names of the fields that were given and are not known, in the order in which they came: at most
    /// 16 of them, each as a preview. A misspelt `sandbox` has no effect, and nothing else would tell.
    pub fn ignored(&self) -> Vec<String> {
        let unknown = self.fields.iter().filter(|(name, _)| !self.is_known(name));
        let mut unknown: Vec<_> = unknown.map(|(name, (at, _))| (at, name)).collect();
        unknown.sort_unstable();
        unknown.into_iter().take(MOST_IGNORED).map(|(_, name)| model::preview(name)).collect()
    }

    /// Reads the body of an action without required fields: it may be missing.
    ///
    /// # Errors
    /// As [`Body::parse`], but for an empty one.
    pub fn parse_optional(bytes: &[u8]) -> Result<Self, OpError> {
        if bytes.iter().all(u8::is_ascii_whitespace) { Ok(Self::default()) } else { Self::parse(bytes) }
    }

    /// A field as it came.
    pub fn raw(&self, name: &str) -> Option<&RawValue> {
        debug_assert!(self.is_known(name), "`{name}` stands in no table of fields");
        self.fields.get(name).map(|(_, value)| value.as_ref())
    }

    /// A field as a value of the type that stands for that kind.
    ///
    /// # Errors
    /// When it is something else.
    pub fn value<T: DeserializeOwned>(&self, name: &str, kind: Kind) -> Result<Option<T>, OpError> {
        let read =
            |raw: &RawValue| serde_json::from_str(raw.get()).map_err(|_| wrong(name, &kind.describe()));
        self.raw(name).map(read).transpose()
    }

    /// A string, trimmed; blank is none.
    ///
    /// # Errors
    /// When it is no string.
    pub fn text(&self, name: &str) -> Result<Option<String>, OpError> {
        let text: Option<String> = self.value(name, Kind::Text)?;
        Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// When it is missing, blank or no string.
    pub fn required_text(&self, name: &str) -> Result<String, OpError> {
        self.text(name)?
            .ok_or_else(|| OpError::BadRequest(format!("`{name}` is required: a non-empty string.")))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, OpError> {
        self.value(name, Kind::Flag)
    }

    /// A whole number of at least `least`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, name: &str, least: u64) -> Result<Option<u64>, OpError> {
        let read = |raw: &RawValue| {
            let number = whole(raw.get()).filter(|number| *number >= least);
            number.ok_or_else(|| wrong(name, &Kind::Number(least).describe()))
        };
        self.raw(name).map(read).transpose()
    }

    /// A list of strings, each trimmed, blank ones dropped.
    ///
    /// # Errors
    /// When it is something else.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, OpError> {
        let texts: Vec<String> = self.value(name, Kind::List)?.unwrap_or_default();
        Ok(texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).map(str::to_owned).collect())
    }

    /// One of these words.
    ///
    /// # Errors
    /// When it is another, naming those that are known.
    pub fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>, OpError> {
        self.text(name)?.map(|given| word_of(name, &given, known)).transpose()
    }

    /// The client's own notes: strings by name, both trimmed, blank ones dropped.
    ///
    /// # Errors
    /// When it is no object of strings.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>, OpError> {
        let given: Option<BTreeMap<String, Option<String>>> = self.value("metadata", Kind::Texts)?;
        Ok(given
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(key, value)| Some((key.trim().to_owned(), value?.trim().to_owned())))
            .filter(|(key, value)| !key.is_empty() && !value.is_empty())
            .collect())
    }

    /// A field to be passed on: checked for its JSON type only. Strings are trimmed, blank ones are none.
    ///
    /// # Errors
    /// When it has another type.
    pub fn passed_on(&self, name: &str, kind: Kind) -> Result<Option<Box<RawValue>>, OpError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let first = raw.get().as_bytes().first();
        let fits = match kind {
            Kind::Text => first == Some(&b'"'),
            Kind::Flag => matches!(raw.get(), "true" | "false"),
            Kind::Object => first == Some(&b'{'),
            Kind::TextOrObject => matches!(first, Some(b'"' | b'{')),
            // Of what codexd reads itself nothing is passed on.
            Kind::Number(_)
            | Kind::OneOf(_)
            | Kind::List
            | Kind::Texts
            | Kind::TextsOrNulls
            | Kind::Input => false,
        };
        if !fits {
            return Err(wrong(name, &kind.describe()));
        }
        if first != Some(&b'"') {
            check_readable(name, raw)?;
            return Ok(Some(raw.to_owned()));
        }
        self.text(name)?.map(|text| param(&text)).transpose()
    }
}

/// A whole number, however JSON writes it: a client whose numbers are all floats says `1000.0` or `1e3`.
fn whole(json: &str) -> Option<u64> {
    json.parse().ok().or_else(|| {
        let float: f64 = serde_json::from_str(json).ok()?;
        // With a fraction it would be rounded.
        if float.fract() == 0.0 { format!("{float:.0}").parse().ok() } else { None }
    })
}

/// Refuses a field that the app-server could not read.
///
/// # Errors
/// See `readable.rs`.
pub fn check_readable(name: &str, raw: &RawValue) -> Result<(), OpError> {
    readable::check(raw.get())
        .map_err(|error| OpError::BadRequest(format!("`{name}` cannot be passed on: {error}.")))
}

/// What that word means.
///
/// # Errors
/// When it is none of those that are known, naming them and `name`.
pub fn word_of<T: Copy>(name: &str, given: &str, known: &[(&str, T)]) -> Result<T, OpError> {
    known.iter().find(|(word, _)| *word == given).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<String> = known.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        wrong(name, &format!("one of {}", words.join(", ")))
    })
}

/// `name` is not what it must be.
pub fn wrong(name: &str, right: &str) -> OpError {
    OpError::BadRequest(format!("`{name}` must be {right}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Body {
        Body::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_objects_are_bodies() {
        for text in ["", "  \n", "7", "[]", "null", "\"x\"", "{", "{\"a\":1,}", "{} {}"] {
            assert!(matches!(Body::parse(text.as_bytes()), Err(OpError::BadRequest(_))), "{text}");
        }
        assert!(Body::parse(b"\xff").is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = Body::parse(deep.as_bytes());
    }

    #[test]
    fn strings_are_trimmed_and_blank_is_absent() {
        let body = body(r#"{"a":"  x ","b":"  ","c":null,"d":7}"#);
        assert_eq!(body.text("a").unwrap().as_deref(), Some("x"));
        assert_eq!(body.text("b").unwrap(), None);
        assert_eq!(body.text("c").unwrap(), None);
        assert!(body.text("d").unwrap_err().to_string().contains("`d`"));
        assert!(body.required_text("b").is_err());
        assert_eq!(body.passed_on("a", Kind::Text).unwrap().unwrap().get(), "\"x\"");
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let body = body(r#"{"a":1,"b":2,"\u0061":3,"b":null}"#);
        assert_eq!(body.raw("a").map(RawValue::get), Some("3"));
        assert!(body.raw("b").is_none());
        assert!(Body::parse(br#"{"\ud800":1}"#).is_err());
    }

    #[test]
    fn what_is_not_known_is_named_in_order_up_to_a_bound() {
        use super::super::fields;
        let given = body(r#"{"zzz":1,"prompt":"x","sandboxMode":"read-only","aaa":[1],"none":null}"#);
        assert_eq!(given.declared(&[fields::RUN]).ignored(), ["zzz", "sandboxMode", "aaa"]);
        assert!(body(r#"{"prompt":"x"}"#).declared(&[fields::RUN]).ignored().is_empty());
        let many: Vec<String> = (0..20).map(|number| format!("\"{number}{}\":1", "x".repeat(500))).collect();
        let ignored = body(&format!("{{{}}}", many.join(","))).declared(&[fields::RUN]).ignored();
        assert_eq!(ignored.len(), MOST_IGNORED);
        assert!(ignored[15].starts_with("15x") && ignored[15].ends_with("..."), "{}", ignored[15]);
    }

    #[test]
    fn metadata_is_trimmed() {
        let metadata = body(r#"{"metadata":{" a ":" b ","c":" ","":"d","e":null}}"#).metadata().unwrap();
        assert_eq!(metadata.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "b".to_owned())]);
        assert!(body(r#"{"metadata":{"a":1}}"#).metadata().is_err());
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(body(r#"{"n":5}"#).number("n", 1).unwrap(), Some(5));
        for (whole, value) in [("5.0", 5), ("1e3", 1000), ("18446744073709551615", u64::MAX)] {
            assert_eq!(body(&format!("{{\"n\":{whole}}}")).number("n", 1).unwrap(), Some(value), "{whole}");
        }
        for wrong in ["0", "0.0", "-1", "-5.0", "1.5", "\"5\"", "1e30", "1e400", "true"] {
            assert!(body(&format!("{{\"n\":{wrong}}}")).number("n", 1).is_err(), "{wrong}");
        }
    }
}
