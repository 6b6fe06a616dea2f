//! What stands after `?`: filters and pages of the lists, each with an error that names the parameter.

use percent_encoding::percent_decode_str;

use super::OpError;
use super::body::wrong;

/// The most records in one page.
const MOST: usize = 10_000;

/// The parameters, decoded; those that are not known are ignored, like unknown fields of a body.
#[derive(Debug, Default)]
pub struct Query {
    given: Vec<(String, String)>,
}

impl Query {
    /// Reads `a=1&b=2`, percent-encoded, `+` for a space.
    pub fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().trim().to_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let given = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        Self { given }
    }

    /// The first value of that name; blank counts as absent.
    pub fn text(&self, name: &str) -> Option<&str> {
        let first = self.given.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
        first.filter(|value| !value.is_empty())
    }

    /// One of these words.
    ///
    /// # Errors
    /// When it is another, naming those that are known.
    pub fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>, OpError> {
        let Some(given) = self.text(name) else { return Ok(None) };
        known.iter().find(|(word, _)| *word == given).map(|(_, value)| Some(*value)).ok_or_else(|| {
            let words: Vec<String> = known.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            wrong(name, &format!("one of {}", words.join(", ")))
        })
    }

    /// `limit` and `after`.
    ///
    /// # Errors
    /// When the limit is no number from 1 to 10000.
    pub fn page(&self) -> Result<Page, OpError> {
        let limit = match self.text("limit").map(str::parse) {
            None => usize::MAX,
            Some(Ok(limit @ 1..=MOST)) => limit,
            Some(_) => return Err(wrong("limit", &format!("a whole number from 1 to {MOST}"))),
        };
        Ok(Page { limit, after: self.text("after").map(str::to_owned) })
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
        let query = Query::parse("a=%2Fx+y&b=&&c&a=2&d=%ff");
        assert_eq!(query.text("a"), Some("/x y"));
        assert_eq!((query.text("b"), query.text("c"), query.text("e")), (None, None, None));
        assert_eq!(query.text("d"), Some("\u{fffd}"));
        assert_eq!(query.one_of("a", &[("/x y", 7)]).unwrap(), Some(7));
        assert!(query.one_of("a", &[("x", 7)]).unwrap_err().to_string().contains("`a` must be one of \"x\""));
    }

    #[test]
    fn pages_follow_each_other() {
        let all = ["a", "b", "c", "d"];
        let page = |text: &str| Query::parse(text).page().unwrap().take(&all, |id| id, |id| *id != "b");
        assert_eq!(page("").unwrap(), ["a", "c", "d"]);
        assert_eq!(page("limit=2").unwrap(), ["a", "c"]);
        assert_eq!(page("limit=2&after=b").unwrap(), ["c", "d"]);
        assert!(page("after=x").is_err());
        for wrong in ["limit=0", "limit=x", "limit=-1", "limit=10001"] {
            assert!(Query::parse(wrong).page().is_err(), "{wrong}");
        }
    }
}
