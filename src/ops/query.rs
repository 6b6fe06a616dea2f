//! What stands after `?`: cursors, filters and pages, each with an error that names the parameter.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::OpError;
use super::body::{word_of, wrong};
use crate::model;

/// The most records or events in one page.
pub const MAX_LIMIT: u64 = 10_000;

/// The parameters; those that are not known are ignored, like unknown fields of a body.
#[derive(Debug, Default)]
pub struct Query<'a> {
    /// Names decoded, values as they came: what nobody asks for need not be readable.
    given: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Query<'a> {
    /// Reads `a=1&b=2`, percent-encoded, `+` for a space.
    ///
    /// # Errors
    /// When a name is not UTF-8.
    pub fn parse(text: &'a str) -> Result<Self, OpError> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let given = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| Ok((decode(name, "a name in the query")?, value)))
            .collect::<Result<_, OpError>>()?;
        Ok(Self { given })
    }

    /// Every value of that name, trimmed; blank ones are none.
    ///
    /// # Errors
    /// When one is not UTF-8.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, OpError> {
        let mut texts = Vec::new();
        for (_, value) in self.given.iter().filter(|(given, _)| given == name) {
            let value = decode(value, name)?;
            let value = value.trim();
            if !value.is_empty() {
                texts.push(value.to_owned());
            }
        }
        Ok(texts)
    }

    /// The value of that name, trimmed; blank is none.
    ///
    /// # Errors
    /// When there are several, or it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, OpError> {
        let mut texts = self.texts(name)?;
        match texts.len() {
            0 | 1 => Ok(texts.pop()),
            _ => Err(OpError::BadRequest(format!("`{name}` may be given once."))),
        }
    }

    /// A whole number from `min` to `max`, digits and nothing else.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, OpError> {
        self.text(name)?.map(|text| number(name, &text, min, max)).transpose()
    }

    /// One of these words.
    ///
    /// # Errors
    /// When it is another, naming those that are known.
    pub fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>, OpError> {
        self.text(name)?.map(|given| word_of(name, &given, known)).transpose()
    }

    /// `limit` and `after`.
    ///
    /// # Errors
    /// When the limit is no number from 1 to [`MAX_LIMIT`].
    pub fn page(&self) -> Result<Page, OpError> {
        let limit = self.number("limit", 1, MAX_LIMIT)?;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Ok(Page { limit, after: self.text("after")? })
    }
}

/// That text as a whole number from `min` to `max`.
///
/// # Errors
/// When it is none, naming `name`.
pub fn number(name: &str, text: &str, min: u64, max: u64) -> Result<u64, OpError> {
    // u64 would take a sign as well.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && (min..=max).contains(number)).ok_or_else(|| {
        let shown = model::preview(text);
        OpError::BadRequest(format!("`{name}` must be a whole number from {min} to {max}, not {shown:?}."))
    })
}

/// As forms encode: `+` is a blank.
fn decode<'a>(text: &'a str, what: &str) -> Result<Cow<'a, str>, OpError> {
    if !text.contains(['+', '%']) {
        return Ok(Cow::Borrowed(text));
    }
    let blanks = text.replace('+', " ");
    match percent_decode_str(&blanks).decode_utf8() {
        Ok(decoded) => Ok(Cow::Owned(decoded.into_owned())),
        Err(_) => Err(OpError::BadRequest(format!("`{what}` must be percent-encoded UTF-8."))),
    }
}

/// Which part of a list is wanted: up to `limit` records behind the one with the id `after`.
#[derive(Debug, Clone)]
pub struct Page {
    limit: usize,
    after: Option<String>,
}

impl Page {
    /// That part of `all`, of those that `fit`.
    ///
    /// # Errors
    /// When no record has the id `after`.
    pub fn take<T: Clone>(
        &self,
        all: &[T],
        id: impl Fn(&T) -> &str,
        fit: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>, OpError> {
        let from = match &self.after {
            None => 0,
            Some(after) => match all.iter().position(|record| id(record) == after) {
                Some(at) => at + 1,
                None => return Err(wrong("after", "the id of a record in this list")),
            },
        };
        Ok(all[from..].iter().filter(|record| fit(record)).take(self.limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("a=%2Fx+y&b=&&c&t=1&%74=+&t=%32&a=+&z=%ff").unwrap();
        assert_eq!(query.text("a").unwrap().as_deref(), Some("/x y"));
        for absent in ["b", "c", "e"] {
            assert_eq!(query.text(absent).unwrap(), None);
        }
        assert_eq!(query.texts("t").unwrap(), ["1", "2"]);
        assert_eq!(query.one_of("a", &[("/x y", 7)]).unwrap(), Some(7));
        let told = |error: OpError| error.to_string();
        assert!(told(query.one_of("a", &[("x", 7)]).unwrap_err()).contains("`a` must be one of \"x\""));
        assert!(told(query.text("t").unwrap_err()).contains("`t` may be given once"));
        assert!(told(query.text("z").unwrap_err()).contains("`z`"));
        assert!(Query::parse("%ff=1").is_err());
    }

    #[test]
    fn pages_follow_each_other() {
        let all = ["a", "b", "c", "d"];
        let page =
            |text: &str| Query::parse(text).unwrap().page().unwrap().take(&all, |id| id, |id| *id != "b");
        assert_eq!(page("").unwrap(), ["a", "c", "d"]);
        assert_eq!(page("limit=2").unwrap(), ["a", "c"]);
        assert_eq!(page("limit=2&after=b").unwrap(), ["c", "d"]);
        assert!(page("after=x").is_err());
        for wrong in
            ["limit=0", "limit=x", "limit=-1", "limit=10001", "limit=%2B5", "limit=1&limit=2", "after=%ff"]
        {
            assert!(Query::parse(wrong).unwrap().page().is_err(), "{wrong}");
        }
    }
}
