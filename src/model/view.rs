//! What clients see of the whole: service and snapshot.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::{DaemonState, Extra, Identity, Run, Session};

/// The REST service and the event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// The API base as configured.
    pub configured_base_url: String,
    /// Path of the event stream.
    pub event_stream_path: String,
    /// Its whole URL while listening.
    pub event_stream_url: Option<String>,
    /// Whether the port is open.
    pub listening: bool,
    /// The API base with the address and port it really has.
    pub resolved_base_url: Option<String>,
    /// Clients of the event stream that are connected by WebSocket now; those of Server-Sent Events do not count.
    pub websocket_clients: u64,
}

/// The sessions, with the time of the last change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRegistry {
    /// When one of them last changed.
    pub updated_at: Option<String>,
    /// In order of creation.
    pub sessions: Vec<Arc<Session>>,
}

/// The runs, with the time of the last change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRegistry {
    /// When one of them last changed.
    pub updated_at: Option<String>,
    /// In order of creation.
    pub runs: Vec<Arc<Run>>,
}

/// The last events.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentEvents {
    /// How many are kept.
    pub max_entries: usize,
    /// When the last one came.
    pub updated_at: Option<String>,
    /// In order of seq.
    pub events: EventList,
}

/// Events as the text they are in the log. Their list is put together when it is first asked for: whoever only counts
/// them, as the start line does, does not pay for it.
#[derive(Debug, Clone, Default)]
pub struct EventList {
    events: Vec<Arc<str>>,
    json: OnceLock<Box<RawValue>>,
}

impl EventList {
    /// These events, each a JSON object.
    pub fn new(events: Vec<Arc<str>>) -> Self {
        Self { events, json: OnceLock::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How long they are in all, in bytes.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.len()).sum()
    }

    fn json(&self) -> &RawValue {
        self.json.get_or_init(|| {
            let mut text = String::with_capacity(self.bytes() + self.len() + 2);
            text.push('[');
            for (at, event) in self.events.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(event);
            }
            text.push(']');
            // They come from the log, so they are JSON.
            RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
        })
    }
}

impl Serialize for EventList {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EventList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let events = Vec::<Box<RawValue>>::deserialize(deserializer)?;
        Ok(Self::new(events.iter().map(|event| Arc::from(event.get())).collect()))
    }
}

/// The identity, or what is known where no daemon was ever started.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityView {
    /// Null where no daemon was ever started.
    pub daemon_id: Option<String>,
    /// Name of the host among its kind.
    pub node_id: String,
    /// Root of the repository it works for.
    pub repo_root: String,
    /// When the identity was made; null where there is none.
    pub created_at: Option<String>,
    /// The version given by configuration.
    pub version: Option<String>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

impl From<Identity> for IdentityView {
    fn from(identity: Identity) -> Self {
        Self {
            daemon_id: Some(identity.daemon_id),
            node_id: identity.node_id,
            repo_root: identity.repo_root,
            created_at: Some(identity.created_at),
            version: identity.version,
            extra: identity.extra,
        }
    }
}

/// Everything, at one moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The resolved configuration.
    pub config: Arc<RawValue>,
    /// Who the daemon is.
    pub identity: IdentityView,
    /// The daemon and its child.
    pub daemon: DaemonState,
    /// The sessions.
    pub session_registry: SessionRegistry,
    /// The runs.
    pub run_registry: RunRegistry,
    /// The last events.
    pub recent_events: RecentEvents,
}

/// What there is, at one moment, counted.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Who the daemon is.
    pub identity: IdentityView,
    /// The daemon and its child.
    pub daemon: DaemonState,
    /// How many sessions there are.
    pub sessions: usize,
    /// How many runs there are.
    pub runs: usize,
    /// How many of the last events are kept.
    pub recent_events: usize,
}

impl From<&Snapshot> for Summary {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            identity: snapshot.identity.clone(),
            daemon: snapshot.daemon.clone(),
            sessions: snapshot.session_registry.sessions.len(),
            runs: snapshot.run_registry.runs.len(),
            recent_events: snapshot.recent_events.events.len(),
        }
    }
}
