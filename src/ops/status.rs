//! Looking at the whole.

use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::{OpError, Ops};
use crate::hub::Core;
use crate::model::record::{DaemonState, Identity, Run, Session};
use crate::model::view::{
    EventList, IdentityView, RecentEvents, RunRegistry, ServiceView, SessionRegistry, Snapshot, Summary,
};
use crate::threads::lock;

/// What `GET /v1/codexd/status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The port.
    pub service: ServiceView,
    /// Everything else.
    pub snapshot: Arc<Snapshot>,
}

/// Bytes of recent events up to which a snapshot is kept for whoever asks next. An event can have 20 MB, and one that the
/// hub has let go of should not stay for as long as nobody asks.
const KEPT: usize = 1024 * 1024;

/// The last snapshot that was asked for and the hub's version it is of.
pub(super) type LastSnapshot = Mutex<Option<(u64, Arc<Snapshot>)>>;

/// The state at one moment, taken in the hub's thread: only reference counts change hands there; the JSON is made by
/// whoever asked.
pub struct Moment {
    identity: Option<Identity>,
    daemon: DaemonState,
    sessions_at: Option<String>,
    sessions: Vec<Arc<Session>>,
    runs_at: Option<String>,
    runs: Vec<Arc<Run>>,
    recent: Vec<Arc<str>>,
    recent_at: Option<String>,
}

impl Moment {
    /// Now.
    pub fn take(core: &Core) -> Self {
        let state = core.state();
        let (recent, recent_at) = core.recent();
        Self {
            identity: state.identity.clone(),
            daemon: state.daemon.clone(),
            sessions_at: state.sessions.updated_at.clone(),
            sessions: state.sessions.all().to_vec(),
            runs_at: state.runs.updated_at.clone(),
            runs: state.runs.all().to_vec(),
            recent: recent.map(|recent| Arc::clone(&recent.json)).collect(),
            recent_at: recent_at.cloned(),
        }
    }
}

impl Ops {
    /// The port and the state.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn status(&self) -> Result<Status, OpError> {
        Ok(Status { service: self.service.view(), snapshot: self.current()? })
    }

    /// The state in short; of many records it costs no more than of few.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn summary(&self) -> Result<Summary, OpError> {
        self.hub
            .ask(|core| {
                let state = core.state();
                Some(Summary {
                    identity: IdentityView::from(state.identity.clone()?),
                    daemon: state.daemon.clone(),
                    sessions: state.sessions.all().len(),
                    runs: state.runs.all().len(),
                    recent_events: core.recent().0.count(),
                })
            })?
            .ok_or_else(no_identity)
    }

    /// Where nothing has changed, whoever asks again and again does not wake the hub for it.
    fn current(&self) -> Result<Arc<Snapshot>, OpError> {
        let version = self.hub.version();
        if let Some((of, snapshot)) = &*lock(&self.last_snapshot)
            && *of == version
        {
            return Ok(Arc::clone(snapshot));
        }
        let (version, moment) = self.hub.ask(|core| (core.version(), Moment::take(core)))?;
        let snapshot = Arc::new(self.snapshot(moment)?);
        let kept = snapshot.recent_events.events.bytes() <= KEPT;
        *lock(&self.last_snapshot) = kept.then(|| (version, Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    /// A moment as clients see it.
    ///
    /// # Errors
    /// Never in practice: the hub has an identity from the start.
    pub fn snapshot(&self, moment: Moment) -> Result<Snapshot, OpError> {
        let config = serde_json::value::to_raw_value(&self.config.view())
            .map_err(|error| OpError::Internal(error.to_string()))?;
        let identity = moment.identity.clone().ok_or_else(no_identity)?;
        Ok(Snapshot {
            config: Arc::from(config),
            identity: IdentityView::from(identity),
            daemon: moment.daemon,
            session_registry: SessionRegistry { updated_at: moment.sessions_at, sessions: moment.sessions },
            run_registry: RunRegistry { updated_at: moment.runs_at, runs: moment.runs },
            recent_events: RecentEvents {
                max_entries: self.config.event_cache_size,
                updated_at: moment.recent_at,
                events: EventList::new(moment.recent),
            },
        })
    }
}

fn no_identity() -> OpError {
    OpError::Internal("there is no identity".to_owned())
}
