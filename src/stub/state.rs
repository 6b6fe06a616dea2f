//! What the reader and the running turns share.

use super::output::Output;
use super::shapes::{VERSION, active, now_ms, sandbox};
use crossbeam_channel::Sender;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks a mutex; a turn that panicked leaves nothing half done that matters to the others.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Input of the user: the first of a turn, or one that steers it.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// All text parts, joined by line ends.
    pub(super) text: String,
    /// `clientUserMessageId` of the request.
    pub(super) client_id: Value,
}

/// What the reader tells a running turn.
#[derive(Debug)]
pub(super) enum Control {
    /// More input.
    Steer(Input),
    /// `turn/interrupt`, already answered.
    Interrupt,
    /// The client's answer to a request; `Err` is a JSON-RPC error.
    Answer(u64, Result<Value, Value>),
    /// The process ends.
    Gone,
}

/// Requests to the client that have no answer yet.
#[derive(Default)]
pub(super) struct Requests {
    /// The next id: a counter of its own, from 0 in every process.
    pub(super) next: u64,
    /// Whom an answer concerns.
    pub(super) waiting: HashMap<u64, Sender<Control>>,
}

/// Everything of one connection.
pub(super) struct Shared {
    /// Standard output.
    pub(super) out: Output,
    /// Where the threads are kept.
    pub(super) rollouts: PathBuf,
    /// The loaded threads by id.
    pub(super) threads: Mutex<HashMap<String, Arc<Thread>>>,
    /// Open requests to the client.
    pub(super) requests: Mutex<Requests>,
    /// Numbers of the items.
    pub(super) items: AtomicU64,
    /// Ends the process with a code.
    pub(super) exit: Sender<u8>,
    /// Set by `deaf:`.
    pub(super) deaf: AtomicBool,
}

impl Shared {
    /// The number of the next item.
    pub(super) fn item_number(&self) -> u64 {
        self.items.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A loaded thread.
    pub(super) fn thread(&self, id: &str) -> Option<Arc<Thread>> {
        lock(&self.threads).get(id).cloned()
    }

    /// Tells every running turn that it is over.
    pub(super) fn abandon_turns(&self) {
        for thread in lock(&self.threads).values() {
            // A turn that waits for the writer may hold its lock; it notices the closed output instead.
            if let Ok(state) = thread.state.try_lock()
                && let Some(turn) = &state.active
            {
                let _ = turn.control.try_send(Control::Gone);
            }
        }
    }
}

/// The turn that runs in a thread.
pub(super) struct ActiveTurn {
    /// Its id.
    pub(super) id: String,
    /// Whether `turn/started` is out; before it a turn can be neither steered nor interrupted.
    pub(super) started: bool,
    /// The way to its thread.
    pub(super) control: Sender<Control>,
}

/// What changes in a thread.
#[derive(Default)]
pub(super) struct ThreadState {
    /// `approvalPolicy`, a name or an object.
    pub(super) approval_policy: Value,
    /// The running turn.
    pub(super) active: Option<ActiveTurn>,
    /// The status as last reported.
    pub(super) status: Value,
    /// The first prompt.
    pub(super) preview: String,
    /// When a turn last ran, in seconds.
    pub(super) updated_at: u64,
    /// Commands and files accepted for the whole session.
    pub(super) allowed: HashSet<String>,
    /// Answers of the model so far.
    pub(super) answers: u64,
    /// The finished turns.
    pub(super) turns: Vec<Value>,
    /// Whether its file exists.
    pub(super) persisted: bool,
}

/// One thread: a conversation.
pub(super) struct Thread {
    /// Its id.
    pub(super) id: String,
    /// Its working folder.
    pub(super) cwd: String,
    /// Its model.
    pub(super) model: String,
    /// Its model provider.
    pub(super) provider: String,
    /// The name of its sandbox.
    pub(super) sandbox: Option<String>,
    /// Whether it leaves no file behind.
    pub(super) ephemeral: bool,
    /// When it was made, in seconds.
    pub(super) created_at: u64,
    /// What changes.
    pub(super) state: Mutex<ThreadState>,
}

impl Thread {
    /// A thread as the params of `thread/start` describe it.
    pub(super) fn new(params: &Value) -> Self {
        let text = |name: &str| params[name].as_str().map(str::to_owned);
        let current = || std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned();
        let created_at = now_ms() / 1000;
        let policy = &params["approvalPolicy"];
        let state = ThreadState {
            approval_policy: if policy.is_null() { json!("on-request") } else { policy.clone() },
            status: json!({"type": "idle"}),
            updated_at: created_at,
            ..ThreadState::default()
        };
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            cwd: text("cwd").unwrap_or_else(current),
            model: text("model").unwrap_or_else(|| "stub-model".into()),
            provider: text("modelProvider").unwrap_or_else(|| "stub".into()),
            sandbox: text("sandbox"),
            ephemeral: params["ephemeral"].as_bool().unwrap_or(false),
            created_at,
            state: Mutex::new(state),
        }
    }

    /// The `thread` object of the protocol.
    pub(super) fn json(&self, shared: &Shared, turns: &[Value]) -> Value {
        let state = lock(&self.state);
        let path = (!self.ephemeral)
            .then(|| super::rollout::path(&shared.rollouts, &self.id).to_string_lossy().into_owned());
        json!({
            "id": self.id,
            "environments": [{"environmentId": "local", "cwd": self.cwd, "runtimeWorkspaceRoots": [self.cwd]}],
            "extra": null, "sessionId": self.id, "forkedFromId": null, "attachedToThreadId": null,
            "parentThreadId": null, "preview": state.preview, "ephemeral": self.ephemeral, "section": null,
            "sectionEnteredAt": null, "projectId": null, "historyMode": "paginated",
            "modelProvider": self.provider, "model": self.model, "reasoningEffort": null,
            "createdAt": self.created_at, "updatedAt": state.updated_at, "recencyAt": state.updated_at,
            "status": state.status, "path": path, "cwd": self.cwd, "cliVersion": VERSION, "originator": "codexd",
            "source": "vscode", "canAcceptDirectInput": true, "threadSource": null, "agentNickname": null,
            "agentRole": null, "gitInfo": null, "name": null, "daybreakEnabled": null, "turns": turns,
        })
    }

    /// The result of `thread/start`, and most of that of `thread/resume`.
    pub(super) fn opened(&self, shared: &Shared, turns: &[Value]) -> Value {
        let thread = self.json(shared, turns);
        json!({
            "thread": thread, "model": self.model, "modelProvider": self.provider, "serviceTier": null,
            "disabledPluginIds": [], "cwd": self.cwd, "runtimeWorkspaceRoots": [self.cwd],
            "instructionSources": [], "approvalPolicy": lock(&self.state).approval_policy,
            "approvalsReviewer": "user", "sandbox": sandbox(self.sandbox.as_deref()),
            "activePermissionProfile": null, "reasoningEffort": null, "multiAgentMode": "explicitRequestOnly",
        })
    }

    /// Records and reports a status of the thread.
    pub(super) fn report(
        &self,
        shared: &Shared,
        state: &mut ThreadState,
        status: Value,
    ) -> Result<(), super::output::Closed> {
        state.status = status;
        shared.out.notify("thread/status/changed", &json!({"threadId": self.id, "status": state.status}))
    }

    /// Records and reports that a turn runs, and what it waits for.
    pub(super) fn report_active(&self, shared: &Shared, flags: &[&str]) -> Result<(), super::output::Closed> {
        self.report(shared, &mut lock(&self.state), active(flags))
    }
}
