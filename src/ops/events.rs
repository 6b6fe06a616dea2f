//! The past: what a client asks of the log, and pages of it.

use std::io;

use serde::Serialize;

use super::query::{MAX_LIMIT, Query, number};
use super::{OpError, Ops};
use crate::hub::filter::Wanted;
use crate::hub::replay::{Gap, Position, Step, Walk};

/// Events of a page unless the client says otherwise.
const DEFAULT_LIMIT: usize = 500;
/// Bytes of a page's events after which it ends early; one event longer than this still makes a page.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Times that retention may remove what a page is just reading.
const MAX_LOST: u32 = 100;

/// What stands in the query of the event path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// The cursor: events after this seq.
    pub after: Option<u64>,
    /// Events of a page, 1 to 10000.
    pub limit: Option<usize>,
    /// Filters.
    pub wanted: Wanted,
}

impl EventQuery {
    /// Reads a query. Names it does not know are left to others (`token`).
    ///
    /// # Errors
    /// [`OpError::BadRequest`], naming the parameter.
    pub fn parse(query: &str) -> Result<Self, OpError> {
        let query = Query::parse(query)?;
        let limit = query.number("limit", 1, MAX_LIMIT)?;
        Ok(Self {
            after: query.number("after", 0, u64::MAX)?,
            limit: limit.and_then(|limit| usize::try_from(limit).ok()),
            wanted: Wanted {
                types: query.texts("type")?,
                session: query.text("sessionId")?,
                thread: query.text("threadId")?,
                run: query.text("runId")?,
            },
        })
    }

    /// Takes the cursor of a `Last-Event-ID` header, which beats `after`; blank is as good as none.
    ///
    /// # Errors
    /// [`OpError::BadRequest`] when it is no seq.
    pub fn resume_from(&mut self, last_event_id: Option<&str>) -> Result<(), OpError> {
        if let Some(id) = last_event_id.map(str::trim).filter(|id| !id.is_empty()) {
            self.after = Some(number("Last-Event-ID", id, 0, u64::MAX)?);
        }
        Ok(())
    }
}

/// A page of events.
#[derive(Debug)]
pub struct Page {
    /// The events' JSON, separated by commas, in order of seq and without holes between them.
    events: String,
    about: About,
}

/// What a page says beside its events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct About {
    /// The oldest seq still in the log.
    oldest_seq: u64,
    /// The last one.
    latest_seq: u64,
    /// Whether there are more after these.
    more: bool,
    /// What was asked for, but is not there any more; it stands before the events.
    gap: Option<Gap>,
}

impl Page {
    /// The page as compact JSON. Not by way of a [`serde_json::value::RawValue`]: that would check each event anew.
    ///
    /// # Errors
    /// [`OpError::Internal`]; none is known.
    pub fn json(&self) -> Result<String, OpError> {
        let about = serde_json::to_string(&self.about)
            .map_err(|error| OpError::Internal(format!("A page could not be serialised: {error}.")))?;
        // After the events the members follow, and the brace that closes them.
        Ok(format!("{{\"events\":[{}],{}", self.events, about.trim_start_matches('{')))
    }
}

impl Ops {
    /// The events after a cursor, or from the oldest on, that pass the filters.
    ///
    /// # Errors
    /// When the hub does not answer or the log cannot be read.
    pub fn events(&self, query: EventQuery) -> Result<Page, OpError> {
        let EventQuery { after, limit, wanted } = query;
        let (mut filter, Position { mut view, oldest, latest }) = self.hub.filter(wanted)?;
        // Without a cursor nothing in particular was asked for that could be missing.
        let mut next = after.map_or(oldest, |after| after.saturating_add(1));
        let mut draft = Draft::new(limit.unwrap_or(DEFAULT_LIMIT));
        let mut lost = 0;
        'views: loop {
            let mut walk = Walk::new(view, next, latest);
            loop {
                match walk.step() {
                    Ok(Step::End) => break 'views,
                    Ok(Step::Gap(gap)) => {
                        if !draft.gap(gap) {
                            break 'views;
                        }
                    }
                    Ok(Step::Line) => {
                        let goes_on = match walk.event() {
                            Ok(event) => !event.passes(&mut filter) || draft.event(event.json),
                            Err(gap) => draft.gap(gap),
                        };
                        if !goes_on {
                            break 'views;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound && lost < MAX_LOST => {
                        lost += 1;
                        next = walk.next();
                        break;
                    }
                    Err(error) => {
                        return Err(OpError::Internal(format!("The event log cannot be read: {error}.")));
                    }
                }
            }
            view = self.hub.position()?.view;
        }
        // Retention may have gone on meanwhile.
        let oldest = draft.gap.map_or(oldest, |gap| oldest.max(gap.to + 1)).min(latest + 1);
        Ok(draft.finish(oldest, latest))
    }
}

/// A page in the making.
struct Draft {
    events: String,
    count: usize,
    limit: usize,
    more: bool,
    gap: Option<Gap>,
}

impl Draft {
    fn new(limit: usize) -> Self {
        Self { events: String::new(), count: 0, limit, more: false, gap: None }
    }

    /// Takes an event; `false` when the page is full without it.
    fn event(&mut self, json: &str) -> bool {
        if self.count == self.limit || (self.count > 0 && self.events.len() + json.len() > PAGE_BYTES) {
            self.more = true;
            return false;
        }
        if self.count > 0 {
            self.events.push(',');
        }
        self.events.push_str(json);
        self.count += 1;
        true
    }

    /// Takes a gap; `false` when it stands behind events, and so begins the next page. Of several gaps between events
    /// that the filters pass over one is made: an empty page with a cursor in the middle would stop simple clients.
    fn gap(&mut self, gap: Gap) -> bool {
        if self.count > 0 {
            self.more = true;
            return false;
        }
        self.gap = Some(Gap { from: self.gap.map_or(gap.from, |before| before.from), to: gap.to });
        true
    }

    fn finish(self, oldest_seq: u64, latest_seq: u64) -> Page {
        let Self { events, more, gap, .. } = self;
        Page { events, about: About { oldest_seq, latest_seq, more, gap } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let query = "after=12&limit=10000&type=turn.&type=app%2Dserver&sessionId=s+1&threadId=&x=y&token=%ff";
        let parsed = EventQuery::parse(query).unwrap();
        assert_eq!((parsed.after, parsed.limit), (Some(12), Some(10_000)));
        let wanted = Wanted {
            types: vec!["turn.".to_owned(), "app-server".to_owned()],
            session: Some("s 1".to_owned()),
            ..Wanted::default()
        };
        assert_eq!(parsed.wanted, wanted);
        assert_eq!(EventQuery::parse("").unwrap(), EventQuery::default());
        assert_eq!(EventQuery::parse("after=&limit=").unwrap(), EventQuery::default());
    }

    #[test]
    fn a_wrong_query_is_told_by_name() {
        for (query, name) in [
            ("after=-1", "after"),
            ("after=%2B1", "after"),
            ("after=x", "after"),
            ("after=1.5", "after"),
            ("after=18446744073709551616", "after"),
            ("limit=0", "limit"),
            ("limit=10001", "limit"),
            ("limit=ten", "limit"),
            ("after=1&after=2", "after"),
            ("sessionId=a&sessionId=b", "sessionId"),
            ("type=%ff", "type"),
        ] {
            match EventQuery::parse(query) {
                Err(OpError::BadRequest(text)) => {
                    assert!(text.contains(&format!("`{name}`")), "{query}: {text}")
                }
                other => panic!("{query}: {other:?}"),
            }
        }
    }

    #[test]
    fn last_event_id_beats_after() {
        let mut query = EventQuery::parse("after=3").unwrap();
        query.resume_from(None).unwrap();
        query.resume_from(Some(" ")).unwrap();
        assert_eq!(query.after, Some(3));
        query.resume_from(Some("7")).unwrap();
        assert_eq!(query.after, Some(7));
        assert!(query.resume_from(Some("x")).is_err());
    }

    #[test]
    fn a_page_ends_before_it_is_too_long_and_has_one_event_at_least() {
        let event = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
        let mut draft = Draft::new(10);
        assert!(draft.event(&event(2 * PAGE_BYTES)));
        assert!(!draft.event(&event(1)));
        let mut draft = Draft::new(10);
        assert!(draft.event(&event(PAGE_BYTES / 2)) && draft.event(&event(PAGE_BYTES / 4)));
        assert!(!draft.event(&event(PAGE_BYTES / 2)));
        let page = draft.finish(1, 3);
        assert!(page.about.more);
    }
}
