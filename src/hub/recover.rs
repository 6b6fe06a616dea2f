//! What the hub starts with: the state files, then the log's tail since they were written.
//!
//! Log and files heal each other. A lost state folder is rebuilt from the log with the same daemonId; a lost log goes
//! on from the last seq the files knew; only when both are gone does a new daemon begin at seq 1.

use std::io;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::batch::Subject;
use super::change::{self, Change};
use super::core::{Recent, Start};
use super::persister::FileExtras;
use super::replay::Logged;
use super::state::{Record, Registry, State};
use crate::clock;
use crate::config::Config;
use crate::ids;
use crate::model::event::{Event, EventType};
use crate::model::record::{DaemonState, Extra, Identity, Request, Run, Session};
use crate::store::files::{self, RegistryFile};
use crate::store::journal::{Journal, Limits, Opened};
use crate::store::reader::EventReader;
use crate::store::segments::MAX_SEQ;
use crate::store::{Repair, StoreError};

/// Everything read back.
pub struct Recovered {
    /// For [`super::Hub::start`].
    pub start: Start,
    /// For [`super::Hub::start`].
    pub extras: FileExtras,
    /// What had to be repaired, to be told in `store.repaired` events.
    pub repairs: Vec<Repair>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecentFile {
    #[serde(default)]
    updated_at: Option<String>,
    events: Vec<Box<RawValue>>,
    #[serde(default)]
    applied_seq: u64,
    /// Made anew from the configuration.
    #[serde(default, rename = "maxEntries")]
    _max_entries: u64,
    #[serde(flatten)]
    extra: Extra,
}

/// How far each registry's file had come; replay gives each only what is newer.
struct Applied {
    sessions: u64,
    runs: u64,
    requests: u64,
    identity: bool,
}

/// Reads files and log. The folders exist and the lock is held.
///
/// # Errors
/// When a file cannot be read, or a damaged one cannot be set aside.
pub fn recover(config: &Config) -> Result<Recovered, StoreError> {
    let paths = &config.paths;
    let mut repairs = Vec::new();
    files::remove_temporary(&paths.state_dir)?;
    let identity: Option<Identity> = files::load(&paths.identity(), &mut repairs)?;
    let daemon: Option<DaemonState> = files::load(&paths.daemon_state(), &mut repairs)?;
    let mut recent: Option<RecentFile> = files::load(&paths.recent_events(), &mut repairs)?;
    let recent_extra = recent.as_mut().map(|recent| std::mem::take(&mut recent.extra)).unwrap_or_default();
    let checkpoint = recent.as_ref().map_or(0, |recent| possible(recent.applied_seq));
    let sessions = load_registry::<Session>(&paths.session_registry(), checkpoint, &mut repairs)?;
    let runs = load_registry::<Run>(&paths.run_registry(), checkpoint, &mut repairs)?;
    let requests = load_registry::<Request>(&paths.request_registry(), checkpoint, &mut repairs)?;

    let limits =
        Limits { max_bytes: config.logs.max_bytes, keep: config.logs.keep_segments, sync: config.logs.sync };
    let Opened { journal, last_seq: log_last, repairs: torn } = Journal::open(&paths.logs_dir, limits)?;
    repairs.extend(torn);

    let applied = Applied {
        sessions: sessions.applied,
        runs: runs.applied,
        requests: requests.applied,
        identity: identity.is_some(),
    };
    let known = [checkpoint, sessions.applied, runs.applied, requests.applied, last_recent(recent.as_ref())];
    let last_seq = known.into_iter().max().unwrap_or(0).max(log_last);
    if last_seq > log_last {
        repairs.push(Repair {
            file: paths.events(),
            problem: format!("it ends at seq {log_last}, but events up to {last_seq} had been logged"),
            kept_as: None,
        });
    }

    let mut state = State::new(
        identity,
        daemon_state(config, daemon),
        sessions.registry,
        runs.registry,
        requests.registry,
    );
    let damaged = replay(&mut state, &journal, &applied, log_last)
        .map_err(StoreError::at("cannot read", &paths.events()))?;
    repairs.extend(damaged);
    if state.identity.is_none() {
        state.identity = Some(new_identity(config));
    }
    state.begin_life();

    let (recent, recent_updated_at) = if last_seq == log_last {
        let capacity = config.event_cache_size as u64;
        let events = read_recent(&journal, (log_last + 1).saturating_sub(capacity).max(1), log_last)
            .map_err(StoreError::at("cannot read", &paths.events()))?;
        (events, recent.and_then(|recent| recent.updated_at))
    } else {
        recent.map_or_else(Default::default, |recent| {
            (recent.events.iter().filter_map(|event| cached(event.get())).collect(), recent.updated_at)
        })
    };
    Ok(Recovered {
        start: Start {
            state,
            journal,
            next_seq: last_seq + 1,
            recent,
            recent_updated_at,
            recent_capacity: config.event_cache_size,
        },
        extras: FileExtras {
            sessions: sessions.extra,
            runs: runs.extra,
            requests: requests.extra,
            recent: recent_extra,
        },
        repairs,
    })
}

struct Loaded<T> {
    registry: Registry<T>,
    applied: u64,
    extra: Extra,
}

fn load_registry<T: Record + Clone + DeserializeOwned>(
    path: &std::path::Path,
    checkpoint: u64,
    repairs: &mut Vec<Repair>,
) -> Result<Loaded<T>, StoreError> {
    Ok(match files::load::<RegistryFile<T>>(path, repairs)? {
        Some(file) => Loaded {
            registry: Registry::load(file.updated_at, file.records),
            applied: possible(file.applied_seq).max(checkpoint),
            extra: file.extra,
        },
        // Lost: everything the log still has is replayed.
        None => Loaded { registry: Registry::default(), applied: 0, extra: Extra::new() },
    })
}

fn last_recent(recent: Option<&RecentFile>) -> u64 {
    recent
        .and_then(|recent| recent.events.last())
        .and_then(|event| cached(event.get()))
        .map_or(0, |last| possible(last.seq))
}

/// What a damaged file says has been applied may be more than there ever was: then everything is replayed.
fn possible(seq: u64) -> u64 {
    if seq <= MAX_SEQ { seq } else { 0 }
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
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct CompactEvent<'a> {
    seq: u64,
    created_at: &'a str,
    level: crate::model::event::Level,
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

/// Applies the log's tail. Damaged lines in it are reported and stay where they are.
fn replay(state: &mut State, journal: &Journal, applied: &Applied, last: u64) -> io::Result<Option<Repair>> {
    let mut from = applied.sessions.min(applied.runs).min(applied.requests) + 1;
    if !applied.identity {
        from = 1;
    }
    let mut reader = EventReader::new(journal.view(), from, last);
    while let Some(seq) = reader.advance()? {
        let line = reader.line();
        // Most events change nothing and are decoded no further.
        let Some(logged) = Logged::parse(line) else {
            reader.note_damaged();
            continue;
        };
        if !EventType::from_name(&logged.kind).is_some_and(change::changes_state) {
            continue;
        }
        let Ok(event) = serde_json::from_str::<Event>(logged.json) else {
            reader.note_damaged();
            continue;
        };
        let Some(change) = change::of_event(&event) else { continue };
        let wanted = match &change {
            Change::Identity(_) => !applied.identity,
            Change::Run(_) | Change::RunStarted { .. } => seq > applied.runs,
            Change::Request(_) => seq > applied.requests,
            _ => seq > applied.sessions,
        };
        if wanted {
            state.apply(change, &event.created_at);
        }
    }
    Ok(reader.damaged().map(|(lines, path)| Repair {
        file: path.to_owned(),
        problem: format!("{lines} of its lines held no event; they were passed over and kept"),
        kept_as: None,
    }))
}

fn read_recent(journal: &Journal, from: u64, to: u64) -> io::Result<Vec<Recent>> {
    let mut reader = EventReader::new(journal.view(), from, to);
    let mut recent = Vec::new();
    while let Some(line) = reader.read()? {
        let Ok(json) = std::str::from_utf8(line.json) else { continue };
        let Ok(event) = serde_json::from_str::<Event>(json) else { continue };
        recent.push(Recent {
            seq: line.seq,
            subject: Subject::of_detail(event.detail.as_deref()),
            json: Arc::from(json),
        });
    }
    Ok(recent)
}

fn new_identity(config: &Config) -> Identity {
    Identity {
        daemon_id: ids::daemon_id(),
        node_id: config.node_id.clone(),
        repo_root: config.paths.repo_root.display().to_string(),
        created_at: clock::now_iso(),
        version: config.version.clone(),
        extra: Extra::new(),
    }
}

/// The recorded state with what the present configuration says of the child; the default where there is none.
fn daemon_state(config: &Config, recorded: Option<DaemonState>) -> DaemonState {
    let mut state = recorded.unwrap_or_else(|| DaemonState {
        started: false,
        started_at: None,
        stopped_at: None,
        updated_at: clock::now_iso(),
        pid: None,
        child: config.idle_child(),
        extra: Extra::new(),
    });
    config.refresh_child(&mut state.child);
    state
}
