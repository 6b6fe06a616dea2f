//! Reading recent-events.json. What it says of the events is the end of the log, and is taken from there: of 10,000 only
//! the last one is looked at. All are only where the log has lost its end.

use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::batch::Subject;
use super::core::Recent;
use crate::model::event::{Event, Level};
use crate::model::record::Extra;
use crate::store::files::{self, Peeked};
use crate::store::{Repair, StoreError};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File<E> {
    #[serde(default)]
    updated_at: Option<String>,
    events: E,
    #[serde(default)]
    applied_seq: u64,
    /// Made anew from the configuration.
    #[serde(default, rename = "maxEntries")]
    _max_entries: u64,
    #[serde(flatten)]
    extra: Extra,
}

/// The file but for its events.
pub(super) struct RecentFile {
    pub(super) updated_at: Option<String>,
    /// Up to where all registries are on disk.
    pub(super) applied_seq: u64,
    /// The seq of its last event; 0 where there is none that can be read.
    pub(super) last_seq: u64,
    /// Fields of newer versions.
    pub(super) extra: Extra,
}

impl RecentFile {
    /// See [`files::load`].
    pub(super) fn load(path: &Path, repairs: &mut Vec<Repair>) -> Result<Option<Self>, StoreError> {
        let file: Option<File<Last>> = files::load(path, repairs)?;
        Ok(file.map(|File { updated_at, events: Last(last), applied_seq, extra, .. }| {
            let last_seq = last.and_then(|last| cached(last.get())).map_or(0, |last| last.seq);
            Self { updated_at, applied_seq, last_seq, extra }
        }))
    }
}

/// The events of a file that could be read before. Those that are none are left out.
pub(super) fn events(path: &Path) -> Result<Vec<Recent>, StoreError> {
    Ok(match files::peek::<File<Vec<Box<RawValue>>>>(path)? {
        Peeked::Whole(file) => file.events.iter().filter_map(|event| cached(event.get())).collect(),
        Peeked::Missing | Peeked::Damaged(_) => Vec::new(),
    })
}

/// The last of a list, whose others are passed over.
struct Last(Option<Box<RawValue>>);

impl<'de> Deserialize<'de> for Last {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Last;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Last, A::Error> {
                let mut last = None;
                while let Some(element) = elements.next_element()? {
                    last = Some(element);
                }
                Ok(Last(last))
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}

fn cached(json: &str) -> Option<Recent> {
    let event: Event = serde_json::from_str(json).ok()?;
    // The file's events are indented; in memory and on the wire an event is one line.
    let compact = serde_json::to_string(&CompactEvent::of(&event)).ok()?;
    Some(Recent {
        seq: event.seq,
        subject: Subject::of_detail(event.detail.as_deref()),
        json: Arc::from(compact.as_str()),
    })
}

/// An event whose detail is decoded, so that its white space goes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CompactEvent<'a> {
    seq: u64,
    created_at: &'a str,
    level: Level,
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
    detail: Option<serde_json::Value>,
}

impl<'a> CompactEvent<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            seq: event.seq,
            created_at: &event.created_at,
            level: event.level,
            kind: &event.kind,
            message: &event.message,
            detail: event.detail.as_ref().and_then(|detail| serde_json::from_str(detail.get()).ok()),
        }
    }
}
