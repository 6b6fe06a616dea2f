//! What the hub starts with: the state files, then the log's tail since they were written.
//!
//! Log and files heal each other. A lost state folder is rebuilt from the log with the same daemonId; a lost log goes
//! on from the last seq the files knew; only when both are gone does a new daemon begin at seq 1.

use std::hint::black_box;
use std::io;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::actor::records;
use super::change::{self, Change};
use super::core::Start;
use super::persister::{self, FileExtras, Job};
use super::recent::{Recent, RecentEvents};
use super::recent_file::{self, RecentFile};
use super::replay::Logged;
use super::state::{Record, Registry, State};
use crate::clock;
use crate::config::{Config, Strategy};
use crate::ids;
use crate::model::event::{Event, EventType};
use crate::model::record::{DaemonState, Extra, Identity, Request, Run, Session};
use crate::store::files::{self, RegistryFile};
use crate::store::journal::{Journal, Limits, Opened};
use crate::store::reader::EventReader;
use crate::store::segments::MAX_SEQ;
use crate::store::{Repair, StoreError};
use crate::threads;

/// A run registry of so many bytes, some hundred runs, is read in a thread of its own.
const LARGE_REGISTRY: u64 = 512 * 1024;

/// glibc maps anything larger, whatever was given back (DEFAULT_MMAP_THRESHOLD_MAX), in bytes.
const MOST_ROOM: usize = 32 * 1024 * 1024 - 64 * 1024;

/// Everything read back.
pub struct Recovered {
    /// For [`super::Hub::start`].
    pub start: Start,
    /// For [`super::Hub::start`].
    pub extras: FileExtras,
    /// What had to be repaired, to be told in `store.repaired` events.
    pub repairs: Vec<Repair>,
}

/// How far each registry's file had come; replay gives each only what is newer.
struct Applied {
    sessions: u64,
    runs: u64,
    requests: u64,
    identity: bool,
}

impl Applied {
    /// Up to where the log holds nothing that the files have not.
    fn everything(&self) -> u64 {
        if self.identity { self.sessions.min(self.runs).min(self.requests) } else { 0 }
    }
}

/// Reads files and log, and lets segments go that are more than are kept. The folders exist and the lock is held.
///
/// # Errors
/// When a file cannot be read, or a damaged one cannot be set aside.
pub fn recover(config: &Config) -> Result<Recovered, StoreError> {
    let paths = &config.paths;
    let mut repairs = Vec::new();
    for folder in [&paths.state_dir, &paths.logs_dir] {
        files::remove_temporary(folder)?;
    }
    let run_registry = paths.run_registry();
    let read_runs = || {
        let mut repairs = Vec::new();
        load_registry::<Run>(&run_registry, &mut repairs).map(|runs| (runs, repairs))
    };
    // The largest file after a long life, and independent of the others: the rest is read meanwhile. A young daemon is
    // spared the memory of the thread.
    let size = std::fs::metadata(&run_registry).map_or(0, |file| file.len());
    let (runs, rest) = if size > LARGE_REGISTRY {
        let read_runs = || {
            make_room(size);
            read_runs()
        };
        threads::beside("load-runs", read_runs, || Rest::read(config, &mut repairs))
            .map_err(StoreError::at("cannot start a thread to read", &run_registry))?
    } else {
        (read_runs(), Rest::read(config, &mut repairs))
    };
    let Rest { identity, daemon, mut recent, sessions, requests, mut journal, log_last, recent_logged } =
        rest?;
    let (runs, repaired) = runs?;
    repairs.extend(repaired);

    let recent_extra = recent.as_mut().map(|recent| std::mem::take(&mut recent.extra)).unwrap_or_default();
    let checkpoint = recent.as_ref().map_or(0, |recent| possible(recent.applied_seq));
    let applied = Applied {
        sessions: sessions.come.to(checkpoint, log_last),
        runs: runs.come.to(checkpoint, log_last),
        requests: requests.come.to(checkpoint, log_last),
        identity: identity.is_some(),
    };
    let last_recent = recent.as_ref().map_or(0, |recent| possible(recent.last_seq));
    let known = [checkpoint, applied.sessions, applied.runs, applied.requests, last_recent];
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
        config.daemon_state(daemon),
        sessions.registry,
        runs.registry,
        requests.registry,
    );
    let damaged = replay(&mut state, &journal, &applied, log_last)
        .map_err(StoreError::at("cannot read", &paths.events()))?;
    repairs.extend(damaged);
    // A life may be over before the state files have been written and the hub was told: were it not for this, nothing
    // would be let go as long as lives are that short.
    journal.dispose_up_to(applied.everything());
    let identity = identity_now(state.identity.clone(), config);
    state.identity_dirty |= state.identity.as_ref() != Some(&identity);
    state.identity = Some(identity);
    state.begin_life(config.server.strategy == Strategy::External);

    let unsaid = [sessions.come, runs.come, requests.come].contains(&Come::Unsaid);
    let extras = FileExtras {
        sessions: sessions.extra,
        runs: runs.extra,
        requests: requests.extra,
        recent: recent_extra,
    };
    if unsaid {
        // Before this version logs anything: what comes after the older one's last event is to be replayed the next time.
        let mut job = Job {
            applied_seq: Some(log_last),
            sessions: Some(records(&state.sessions)),
            runs: Some(records(&state.runs)),
            requests: Some(records(&state.requests)),
            ..Job::default()
        };
        persister::write(paths, &extras, &mut job)?;
    }

    let recent_updated_at = recent.and_then(|recent| recent.updated_at);
    let recent = if last_seq == log_last {
        recent_logged
    } else {
        let mut recent = RecentEvents::new(config.event_cache_size);
        recent_file::events(&paths.recent_events(), &mut repairs)?
            .into_iter()
            .for_each(|event| recent.push(event));
        recent
    };
    Ok(Recovered {
        start: Start { state, journal, next_seq: last_seq + 1, recent, recent_updated_at },
        extras,
        repairs,
    })
}

/// Prepares a thread for the memory that a registry of so many bytes needs. glibc grows the heap of any thread but the
/// first by pages, each with a call of mprotect(2), which holds up the page faults of the others; room that was taken and
/// given back stays the heap's. That is one part in sixteen of a start with 10,000 runs.
fn make_room(registry: u64) {
    let room = usize::try_from(registry).map_or(MOST_ROOM, |room| room.min(MOST_ROOM));
    // The first is mapped; giving it back makes the next of that size a part of the heap (mallopt(3), M_MMAP_THRESHOLD).
    for _ in 0..2 {
        drop(black_box(Vec::<u8>::with_capacity(room)));
    }
}

/// Everything but the runs.
struct Rest {
    identity: Option<Identity>,
    daemon: Option<DaemonState>,
    recent: Option<RecentFile>,
    sessions: Loaded<Session>,
    requests: Loaded<Request>,
    journal: Journal,
    log_last: u64,
    /// The log's last events.
    recent_logged: RecentEvents,
}

impl Rest {
    fn read(config: &Config, repairs: &mut Vec<Repair>) -> Result<Self, StoreError> {
        let (paths, logs) = (&config.paths, &config.logs);
        let identity = files::load(&paths.identity(), repairs)?;
        let daemon = files::load(&paths.daemon_state(), repairs)?;
        let recent = RecentFile::load(&paths.recent_events(), repairs)?;
        let sessions = load_registry(&paths.session_registry(), repairs)?;
        let requests = load_registry(&paths.request_registry(), repairs)?;
        let limits = Limits { max_bytes: logs.max_bytes, keep: logs.keep_segments, sync: logs.sync };
        let Opened { journal, last_seq: log_last, repairs: torn } = Journal::open(&paths.logs_dir, limits)?;
        repairs.extend(torn);
        let recent_logged = read_recent(&journal, config.event_cache_size, log_last)
            .map_err(StoreError::at("cannot read", &paths.events()))?;
        Ok(Self { identity, daemon, recent, sessions, requests, journal, log_last, recent_logged })
    }
}

struct Loaded<T> {
    registry: Registry<T>,
    come: Come,
    extra: Extra,
}

/// How far a registry's file had come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Come {
    /// It was lost: everything the log still has is replayed.
    Nowhere,
    /// Up to this event.
    UpTo(u64),
    /// An older version wrote it and does not say. Its log tells of beginnings, but its ends carry no record: to replay it
    /// would undo them.
    Unsaid,
}

impl Come {
    /// The last event that is in it, given that everything had come to `checkpoint`, and the log goes to `log_last`.
    fn to(self, checkpoint: u64, log_last: u64) -> u64 {
        match self {
            Self::Nowhere => 0,
            Self::UpTo(seq) => seq.max(checkpoint),
            Self::Unsaid => log_last.max(checkpoint),
        }
    }
}

fn load_registry<T: Record + Clone + DeserializeOwned>(
    path: &std::path::Path,
    repairs: &mut Vec<Repair>,
) -> Result<Loaded<T>, StoreError> {
    let file = files::load_registry::<Arc<T>>(path, repairs)?;
    let come = match &file {
        None => Come::Nowhere,
        Some(RegistryFile { applied_seq: None, .. }) => Come::Unsaid,
        Some(RegistryFile { applied_seq: Some(seq), .. }) => Come::UpTo(possible(*seq)),
    };
    let RegistryFile { updated_at, records, extra, .. } = file.unwrap_or_default();
    let mut registry = Registry::load(updated_at, records);
    // One that is lost, or as an older version wrote it, is written anew; the others once something in them changes.
    registry.dirty = matches!(come, Come::Nowhere | Come::Unsaid | Come::UpTo(0));
    Ok(Loaded { registry, come, extra })
}

/// What a damaged file says has been applied may be more than there ever was: then everything is replayed.
fn possible(seq: u64) -> u64 {
    if seq <= MAX_SEQ { seq } else { 0 }
}

/// Applies the log's tail. Damaged lines in it are reported and stay where they are.
fn replay(state: &mut State, journal: &Journal, applied: &Applied, last: u64) -> io::Result<Option<Repair>> {
    let mut reader = EventReader::new(journal.view(), applied.everything() + 1, last);
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

fn read_recent(journal: &Journal, most: usize, last: u64) -> io::Result<RecentEvents> {
    let first = (last + 1).saturating_sub(most as u64).max(1);
    let mut reader = EventReader::new(journal.view(), first, last);
    let mut recent = RecentEvents::new(most);
    while let Some(line) = reader.read()? {
        let Some(logged) = Logged::parse(line.json) else { continue };
        recent.push(Recent { seq: line.seq, subject: logged.subject(), json: Arc::from(logged.json) });
    }
    Ok(recent)
}

/// The id stays for ever; the rest is what this start is configured to be.
fn identity_now(known: Option<Identity>, config: &Config) -> Identity {
    let (daemon_id, created_at, extra) = match known {
        Some(known) => (known.daemon_id, known.created_at, known.extra),
        None => (ids::daemon_id(), clock::now_iso(), Extra::new()),
    };
    Identity {
        daemon_id,
        node_id: config.node_id.clone(),
        repo_root: config.paths.repo_root.display().to_string(),
        created_at,
        version: config.version.clone(),
        extra,
    }
}
