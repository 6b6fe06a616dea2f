//! The daemon's events over any number of connections to it: none missing, none twice, also when it is started anew.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::reach::{self, Problem};
use crate::api_client::{ClientError, EventStream};
use crate::config::Config;
use crate::threads;

/// Between two tries to reach a daemon that is gone: at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What came.
#[derive(Debug)]
pub enum Heard {
    /// An event, as the daemon wrote it.
    Event(Box<RawValue>),
    /// The log holds the events from the first seq to the second no more.
    Gap(u64, u64),
    /// Everything there was has come; from here on it is live.
    Synced,
    /// The log ends at this seq, before the cursor: it is another one. The cursor has been set there.
    Rewound(u64),
    /// The daemon does not answer any more. It is tried again with each call.
    Lost(ClientError),
    /// It answers again.
    Back,
    /// Nothing, for as long as was asked for.
    Silence,
}

/// A message of the stream, as far as it matters here.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    seq: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

enum Connection {
    /// `heard` is whether it brought anything: if it ends, there is no need to wait before the next.
    Open { stream: Box<EventStream>, heard: bool },
    /// Since when, and when it is tried again: a time, for whoever has less patience than that must come to it too.
    Lost { since: Instant, again: Instant },
}

/// A cursor in the events, and the connection that moves it.
pub struct Events<'a> {
    config: &'a Config,
    /// Each beginning with `&`.
    filters: String,
    cursor: u64,
    connection: Connection,
    /// Before the next try.
    wait: Duration,
}

impl<'a> Events<'a> {
    /// Connects. The events begin after the cursor `after`, or with the first that happens from now on.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn open(config: &'a Config, filters: &[(&str, &str)], after: Option<u64>) -> Result<Self, Problem> {
        let cursor = match after {
            Some(after) => after,
            None => latest(config)?,
        };
        let now = Instant::now();
        let connection = Connection::Lost { since: now, again: now };
        let mut events = Self { config, filters: String::new(), cursor, connection, wait: RETRY.0 };
        filters.iter().for_each(|(name, value)| events.narrow(name, value));
        let stream = events.connect()?;
        events.connection = Connection::Open { stream, heard: false };
        Ok(events)
    }

    /// Adds a filter, for the connections from the next one on.
    pub fn narrow(&mut self, name: &str, value: &str) {
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        self.filters.push_str(&format!("&{name}={value}"));
    }

    /// How long the daemon has been away; `None` while it is there.
    pub fn lost_for(&self) -> Option<Duration> {
        match &self.connection {
            Connection::Open { .. } => None,
            Connection::Lost { since, .. } => Some(since.elapsed()),
        }
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// When the daemon is there and refuses for good.
    pub fn next(&mut self, patience: Duration) -> Result<Heard, Problem> {
        let until = Instant::now() + patience;
        loop {
            let lost = match &mut self.connection {
                Connection::Open { stream, heard } => match stream.next_text(until) {
                    Ok(text) => match take(&mut self.cursor, &text) {
                        Ok(Some(message)) => {
                            *heard = true;
                            self.wait = RETRY.0;
                            return Ok(message);
                        }
                        Ok(None) => continue,
                        Err(error) => stream.not_codexd(&error),
                    },
                    Err(error) if error.is_timeout() => return Ok(Heard::Silence),
                    Err(error) => error,
                },
                Connection::Lost { since, again } => {
                    if !pause_until(*again, until) {
                        return Ok(Heard::Silence);
                    }
                    let since = *since;
                    self.wait = (self.wait * 2).min(RETRY.1);
                    self.connection = Connection::Lost { since, again: Instant::now() + self.wait };
                    match self.connect() {
                        Ok(stream) => {
                            self.connection = Connection::Open { stream, heard: false };
                            return Ok(Heard::Back);
                        }
                        Err(problem) if is_final(&problem) => return Err(problem),
                        Err(_) => continue,
                    }
                }
            };
            // A stream that was cut off for being slow goes on at once, and nobody needs to know.
            if matches!(self.connection, Connection::Open { heard: true, .. })
                && let Ok(stream) = self.connect()
            {
                self.connection = Connection::Open { stream, heard: false };
                continue;
            }
            let now = Instant::now();
            self.connection = Connection::Lost { since: now, again: now + self.wait };
            return Ok(Heard::Lost(lost));
        }
    }

    fn connect(&self) -> Result<Box<EventStream>, Problem> {
        // The token is read each time: a daemon that comes back may have another.
        let api = reach::client(self.config)?;
        let path = format!("{}?after={}{}", self.config.service.event_stream_path, self.cursor, self.filters);
        api.stream(&path).map(Box::new).map_err(|error| reach::explain(self.config, error))
    }
}

/// The last event there is.
fn latest(config: &Config) -> Result<u64, Problem> {
    let api = reach::client(config)?;
    let page = api
        .get(&format!("{}?limit=1", config.service.event_stream_path))
        .map_err(|error| reach::explain(config, error))?;
    page["latestSeq"].as_u64().ok_or_else(|| {
        Problem::here(format!("what answers at {} is not codexd", config.service.local_api_base.text))
    })
}

/// Whether it would be refused the next time too.
fn is_final(problem: &Problem) -> bool {
    let is_final = |error: &_| {
        matches!(error, ClientError::Refused { status: 400..=499, .. } | ClientError::OtherUser { .. })
    };
    matches!(problem, Problem::Client(error) if is_final(error))
}

/// What a message means, and the cursor moved by it; `None` if it means nothing here.
fn take(cursor: &mut u64, text: &str) -> serde_json::Result<Option<Heard>> {
    let message: Message<'_> = serde_json::from_str(text)?;
    let Message { kind, event, seq, from, to } = message;
    Ok(match (kind.as_ref(), event, seq, from.zip(to)) {
        ("event", Some(event), ..) => {
            let Numbered { seq } = serde_json::from_str(event.get())?;
            (seq > *cursor).then(|| {
                *cursor = seq;
                Heard::Event(event.to_owned())
            })
        }
        ("gap", _, _, Some((from, to))) => {
            *cursor = to.max(*cursor);
            Some(Heard::Gap(from, to))
        }
        ("synced", _, Some(seq), _) => {
            let rewound = seq < *cursor;
            *cursor = seq;
            Some(if rewound { Heard::Rewound(seq) } else { Heard::Synced })
        }
        _ => None,
    })
}

/// Waits until `then`, but no longer than `until`; whether it was the former.
fn pause_until(then: Instant, until: Instant) -> bool {
    threads::pause(then.min(until).saturating_duration_since(Instant::now()));
    then <= until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(cursor: &mut u64, text: &str) -> String {
        format!("{:?}", take(cursor, text).unwrap())
    }

    #[test]
    fn the_cursor_goes_with_what_came_and_nothing_comes_twice() {
        let mut cursor = 3;
        let event = r#"{"type":"event","event":{"seq":4,"x":"\n"}}"#;
        assert!(heard(&mut cursor, event).contains(r#"{"seq":4,"x":"\n"}"#));
        assert_eq!((heard(&mut cursor, event).as_str(), cursor), ("None", 4));
        assert_eq!(heard(&mut cursor, r#"{"type":"hello","seq":1,"event":null}"#), "None");
        assert_eq!(heard(&mut cursor, r#"{"type":"gap","from":5,"to":9}"#), "Some(Gap(5, 9))");
        assert_eq!(
            (heard(&mut cursor, r#"{"type":"synced","seq":12}"#).as_str(), cursor),
            ("Some(Synced)", 12)
        );
        assert_eq!(
            (heard(&mut cursor, r#"{"seq":2,"type":"synced"}"#).as_str(), cursor),
            ("Some(Rewound(2))", 2)
        );
        assert!(take(&mut cursor, "[]").is_err());
    }
}
