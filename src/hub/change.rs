//! What an event does to the state, live and in replay alike.
//!
//! **Invariant**: the state of sessions, runs and requests is a fold of the log. Live, an event carries its
//! [`Change`]; in replay [`of_event`] reads the same change back from the event's JSON.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::model::event::{Event, EventType};
use crate::model::members::Members;
use crate::model::record::{Identity, Request, Run, Session};

/// One step of the state.
#[expect(missing_docs, reason = "the fields are ids and records named as everywhere else")]
#[derive(Debug, Clone)]
pub enum Change {
    /// The daemon's identity, as `daemon.started` carries it.
    Identity(Box<Identity>),
    /// The daemon stopped in order: turns still in flight were interrupted.
    DaemonStopped,
    /// A session as it is from now on.
    Session(Arc<Session>),
    /// A session is over.
    SessionClosed { session_id: String },
    /// A session's thread could not be loaded.
    SessionError { session_id: String, error: String },
    /// The app-server took a turn; with the type of its sandbox policy, if it had one of its own.
    TurnAccepted { session_id: String, turn_id: String, steered: bool, sandbox: Option<String> },
    /// A turn began.
    TurnStarted { thread_id: String, turn_id: String },
    /// A turn ended, with its status in the app-server's words.
    TurnCompleted { thread_id: String, turn_id: String, status: String },
    /// A turn met an error.
    TurnError { thread_id: String, turn_id: String, will_retry: bool },
    /// Something about a thread that only counts as a sign of life.
    ThreadTouched { thread_id: String },
    /// The app-server went away in the middle of a turn.
    TurnMissing { session_id: String },
    /// A run as it is from now on.
    Run(Arc<Run>),
    /// A run's process runs.
    RunStarted { run_id: String },
    /// A request of Codex as it is from now on.
    Request(Arc<Request>),
}

/// The fields that changes are read back from; each event type has some of them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    session_id: Option<String>,
    thread_id: Option<String>,
    turn_id: Option<String>,
    run_id: Option<String>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(default)]
    steered: bool,
    #[serde(borrow)]
    sandbox_policy: Option<&'a RawValue>,
    #[serde(default)]
    will_retry: Option<bool>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    #[serde(borrow)]
    identity: Option<&'a RawValue>,
}

/// The change that a logged event stands for; `None` for events that change nothing, for types of newer versions, and
/// for events of older versions that lack what would be needed.
pub fn of_event(event: &Event) -> Option<Change> {
    let read = reader(EventType::from_name(&event.kind)?)?;
    let detail = match &event.detail {
        Some(detail) => serde_json::from_str(detail.get()).ok()?,
        None => Detail::default(),
    };
    read(detail)
}

/// The type of a sandbox policy, empty when there is none.
pub fn sandbox_type(policy: &RawValue) -> String {
    Members::of(policy).and_then(|policy| policy.text("type")).unwrap_or_default().into_owned()
}

/// Whether events of this type can change the state at all; most of a log cannot and is not decoded in replay.
pub fn changes_state(kind: EventType) -> bool {
    reader(kind).is_some()
}

/// How the change is read from the detail of an event of that type.
type Reader = fn(Detail<'_>) -> Option<Change>;

/// The one list of the types that change the state.
fn reader(kind: EventType) -> Option<Reader> {
    use EventType as T;
    let reader: Reader = match kind {
        T::DaemonStarted => |detail| Some(Change::Identity(Box::new(decode(detail.identity)?))),
        T::DaemonStopped => |_| Some(Change::DaemonStopped),
        T::SessionRegistered | T::SessionCreated | T::SessionResumed | T::SessionRecovered => {
            |detail| Some(Change::Session(Arc::new(decode(detail.record)?)))
        }
        T::SessionClosed => |detail| Some(Change::SessionClosed { session_id: detail.session_id? }),
        T::SessionRecoveryFailed => |detail| {
            Some(Change::SessionError { session_id: detail.session_id?, error: decode(detail.error)? })
        },
        T::TurnAccepted => |detail| {
            Some(Change::TurnAccepted {
                session_id: detail.session_id?,
                turn_id: detail.turn_id?,
                steered: detail.steered,
                sandbox: detail.sandbox_policy.map(sandbox_type),
            })
        },
        T::TurnStarted => {
            |detail| Some(Change::TurnStarted { thread_id: detail.thread_id?, turn_id: detail.turn_id? })
        }
        T::TurnCompleted => |detail| {
            Some(Change::TurnCompleted {
                thread_id: detail.thread_id?,
                turn_id: detail.turn_id?,
                status: decode(detail.status)?,
            })
        },
        T::TurnError => |detail| {
            Some(Change::TurnError {
                thread_id: detail.thread_id?,
                turn_id: detail.turn_id?,
                will_retry: detail.will_retry.unwrap_or(false),
            })
        },
        T::ThreadStatusChanged => |detail| Some(Change::ThreadTouched { thread_id: detail.thread_id? }),
        T::TurnMissing => |detail| Some(Change::TurnMissing { session_id: detail.session_id? }),
        T::RunQueued | T::RunCompleted | T::RunFailed => {
            |detail| Some(Change::Run(Arc::new(decode(detail.record)?)))
        }
        T::RunStarted => |detail| Some(Change::RunStarted { run_id: detail.run_id? }),
        T::RequestOpened
        | T::RequestAnswered
        | T::RequestExpired
        | T::RequestCancelled
        | T::RequestOrphaned => |detail| Some(Change::Request(Arc::new(decode(detail.record)?))),
        _ => return None,
    };
    Some(reader)
}

fn decode<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    // From bytes, as the state files' are: what reads a record is 15 KB of code for each kind of input.
    serde_json::from_slice(raw?.get().as_bytes()).ok()
}
