//! recent-events.json. What it says of the events is the end of the log, and is taken from there: they come last in the
//! file, and of 10,000 none is read. All are only where the log has lost its end.

use std::path::Path;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::batch::Subject;
use super::persister;
use super::recent::Recent;
use crate::model::event::Event;
use crate::model::json;
use crate::model::record::Extra;
use crate::store::files;
use crate::store::{Repair, StoreError};

/// The events come last, in newer versions too: a start reads what is before them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File<E, X = Extra> {
    #[serde(default)]
    max_entries: usize,
    #[serde(default)]
    updated_at: Option<String>,
    #[serde(default)]
    applied_seq: u64,
    /// Absent in files of older versions.
    #[serde(default)]
    latest_seq: Option<u64>,
    #[serde(flatten)]
    extra: X,
    events: E,
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
        let head: Option<File<IgnoredAny>> = files::peek_head(path, "events");
        if let Some(File { updated_at, applied_seq, latest_seq: Some(last_seq), extra, .. }) = head {
            return Ok(Some(Self { updated_at, applied_seq, last_seq, extra }));
        }
        let file: Option<File<Vec<Box<RawValue>>>> = files::load(path, repairs)?;
        Ok(file.map(|File { updated_at, events, applied_seq, extra, .. }| {
            let last_seq = events.last().and_then(|last| cached(last.get())).map_or(0, |last| last.seq);
            Self { updated_at, applied_seq, last_seq, extra }
        }))
    }
}

/// See [`files::replace`]. `applied_seq`: up to where all registries are on disk.
pub(super) fn replace(
    path: &Path,
    recent: &persister::Recent,
    applied_seq: u64,
    extra: &Extra,
) -> Result<(), StoreError> {
    let persister::Recent { max_entries, ref updated_at, latest_seq, ref events } = *recent;
    let (updated_at, latest_seq) = (updated_at.clone(), Some(latest_seq));
    files::replace(path, &File { max_entries, updated_at, applied_seq, latest_seq, extra, events })
}

/// The events of the file. Those that are none are left out.
pub(super) fn events(path: &Path, repairs: &mut Vec<Repair>) -> Result<Vec<Recent>, StoreError> {
    let file: Option<File<Vec<Box<RawValue>>>> = files::load(path, repairs)?;
    let events = file.map(|file| file.events).unwrap_or_default();
    Ok(events.iter().filter_map(|event| cached(event.get())).collect())
}

fn cached(json: &str) -> Option<Recent> {
    let event: Event = serde_json::from_str(json).ok()?;
    Some(Recent {
        seq: event.seq,
        subject: Subject::of_detail(event.detail.as_deref()),
        // The file's events are indented; in memory and on the wire an event is one line, and otherwise what it was.
        json: Arc::from(json::compact(json)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::view::EventList;

    fn event(seq: u64) -> String {
        // With numbers that no value in memory holds.
        format!(
            r#"{{"seq":{seq},"createdAt":"c","level":"info","type":"t","message":"m","detail":{{"a":[1e400,0.10,12345678901234567890123," \" b"]}}}}"#
        )
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recent-events.json");
        let recent = persister::Recent {
            max_entries: 3,
            updated_at: Some("u".to_owned()),
            latest_seq: 9,
            events: EventList::new(vec![Arc::from(event(8)), Arc::from(event(9))]),
        };
        let extra = Extra::from_iter([("newer".to_owned(), json!(1))]);
        replace(&path, &recent, 7, &extra).unwrap();
        let mut repairs = Vec::new();
        let file = RecentFile::load(&path, &mut repairs).unwrap().unwrap();
        assert_eq!((file.updated_at.as_deref(), file.applied_seq, file.last_seq), (Some("u"), 7, 9));
        assert_eq!(file.extra, extra);
        let read = events(&path, &mut repairs).unwrap();
        assert_eq!(read.iter().map(|recent| recent.seq).collect::<Vec<_>>(), [8, 9]);
        assert_eq!(read.iter().map(|recent| &*recent.json).collect::<Vec<_>>(), [event(8), event(9)]);
        assert!(repairs.is_empty());
    }

    #[test]
    fn a_file_of_an_older_version_tells_by_its_last_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recent-events.json");
        let load = |text: &str| {
            files::replace_text(&path, text.as_bytes()).unwrap();
            let mut repairs = Vec::new();
            (RecentFile::load(&path, &mut repairs).unwrap(), repairs.len())
        };
        let events = format!("[{},{}]", event(8), event(9));
        let (file, repaired) = load(&format!("{{\"maxEntries\":3,\"updatedAt\":null,\"events\":{events}}}"));
        assert_eq!((file.map(|file| (file.applied_seq, file.last_seq)), repaired), (Some((0, 9)), 0));
        let (file, repaired) = load(&format!("{{\"events\":{events},\"appliedSeq\":7,\"newer\":1}}"));
        let file = file.unwrap();
        assert_eq!((file.applied_seq, file.last_seq, file.extra.len(), repaired), (7, 9, 1, 0));
        // Nothing else tells of these events any more.
        let (file, repaired) = load(&format!("{{\"events\":{}", events.trim_end_matches(']')));
        assert!(file.is_none() && repaired == 1);
    }
}
