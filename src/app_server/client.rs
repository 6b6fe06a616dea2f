//! The app-server as the verbs see it: whichever life it is in, connected when first needed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::call::CallError;
use super::connection::{Connection, Handshake};
use super::wire;
use crate::hub::Hub;
use crate::model::event::EventType;
use crate::threads::{lock, sound};

/// How long a call waits for an app-server that is being started again.
const WAIT_FOR_CHILD: Duration = Duration::from_secs(5);

/// How long a call waits for one that is being dialled; the dial itself gives up before.
const WAIT_FOR_DIAL: Duration = Duration::from_secs(30);

/// Where the app-server is in its life, as its supervisor tells.
enum Slot {
    /// It runs; whether anybody has connected yet is the connection's business.
    Up(Arc<Connection>),
    /// It does not run, but will be started again.
    Down(String),
    /// It does not run and will not.
    Gone(String),
    /// It is reached elsewhere, when somebody wants it.
    Away(Away),
}

/// An external app-server without a connection.
struct Away {
    /// Why there is none now.
    reason: String,
    /// How many such reasons were given before: who waits for another one compares.
    said: u64,
    /// Whether nobody needs it.
    at_rest: bool,
}

/// Who is asking, for `initialize`.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The version sent in clientInfo.
    pub version: String,
    /// The endpoint's name for events.
    pub endpoint: String,
    /// The deadline of a call.
    pub timeout: Duration,
}

/// Hands out the present connection. One in a daemon, shared by all.
pub struct Client {
    slot: Mutex<Slot>,
    changed: Condvar,
    /// One message while somebody waits for an app-server that is away.
    wanted: (Sender<()>, Receiver<()>),
    /// How often it was said to be away.
    said: AtomicU64,
    introduction: Introduction,
    hub: Hub,
}

/// The params of `initialize`. Without the experimental API, Codex refuses a turn's collaborationMode and asks its client no
/// questions.
fn initialize_params(version: &str) -> Value {
    json!({
        "clientInfo": { "name": "baa-conductor-codexd", "title": "codexd local service", "version": version },
        "capabilities": { "experimentalApi": true },
    })
}

/// `initialize` as a line.
///
/// # Errors
/// Never in practice.
pub fn introduction(id: i64, version: &str) -> serde_json::Result<Vec<u8>> {
    wire::request(id, "initialize", &initialize_params(version))
}

/// What `initialize` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Server {
    user_agent: Option<String>,
    platform_family: Option<String>,
    platform_os: Option<String>,
}

impl Client {
    /// A client of an app-server that has not been started yet.
    pub fn new(hub: Hub, introduction: Introduction) -> Self {
        Self {
            slot: Mutex::new(Slot::Down("the app-server has not been started yet".to_owned())),
            changed: Condvar::new(),
            wanted: bounded(1),
            said: AtomicU64::new(0),
            introduction,
            hub,
        }
    }

    /// The deadline of a call.
    pub fn timeout(&self) -> Duration {
        self.introduction.timeout
    }

    /// A new life has begun.
    pub fn up(&self, connection: Arc<Connection>) {
        self.set(Slot::Up(connection));
    }

    /// The life is over, the next one will come.
    pub fn down(&self, reason: impl Into<String>) {
        self.set(Slot::Down(reason.into()));
    }

    /// The life is over and no other will come.
    pub fn gone(&self, reason: impl Into<String>) {
        self.set(Slot::Gone(reason.into()));
    }

    /// There is no connection, but one can be made: whoever waits is told that reason, whoever comes next shows in
    /// [`Client::wanted`]. `at_rest`: nobody needs one now, so this is no fault.
    pub fn away(&self, reason: impl Into<String>, at_rest: bool) {
        let mut slot = lock(&self.slot);
        // Those who asked before now are answered.
        let _ = self.wanted.1.try_recv();
        let said = self.said.fetch_add(1, Ordering::Relaxed);
        *slot = Slot::Away(Away { reason: reason.into(), said, at_rest });
        self.changed.notify_all();
    }

    /// Has a message when somebody wants an app-server that is away.
    pub fn wanted(&self) -> &Receiver<()> {
        &self.wanted.1
    }

    /// Why there is no connection, if that is a fault: an external app-server may rest until somebody wants it.
    pub fn absence(&self) -> Option<String> {
        match &*lock(&self.slot) {
            Slot::Up(_) | Slot::Away(Away { at_rest: true, .. }) => None,
            Slot::Down(reason) | Slot::Gone(reason) | Slot::Away(Away { reason, .. }) => Some(reason.clone()),
        }
    }

    fn set(&self, slot: Slot) {
        *lock(&self.slot) = slot;
        self.changed.notify_all();
    }

    /// The present connection, connected or not; `None` while there is none.
    pub fn present(&self) -> Option<Arc<Connection>> {
        match &*lock(&self.slot) {
            Slot::Up(connection) => Some(Arc::clone(connection)),
            Slot::Down(_) | Slot::Gone(_) | Slot::Away(..) => None,
        }
    }

    /// A connection whose handshake is done. Waits up to 5 s for an app-server that is being started again, also when a
    /// child ends once more during the handshake; of concurrent callers one does the handshake and the others
    /// wait for it.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] when there is no app-server, and what the handshake may fail with.
    pub fn connect(&self) -> Result<Arc<Connection>, CallError> {
        let deadline = Instant::now() + WAIT_FOR_CHILD;
        loop {
            let connection = self.wait_until_up(deadline)?;
            match self.greet(&connection) {
                Err(CallError::Unavailable { retry_after: Some(_), .. })
                    if connection.pid().is_some() && connection.closed().is_some() => {}
                greeted => return greeted.map(|()| connection),
            }
        }
    }

    /// Does the handshake of a connection, or waits for whoever is doing it and shares what comes of it; the connection's
    /// end is the end of that.
    ///
    /// # Errors
    /// What the handshake may fail with, [`CallError::Unavailable`] when the connection is closed.
    pub fn greet(&self, connection: &Connection) -> Result<(), CallError> {
        let deadline = Instant::now() + self.introduction.timeout;
        let mut handshake = lock(&connection.handshake);
        let mut waited = false;
        loop {
            match &*handshake {
                Handshake::Done => return Ok(()),
                Handshake::Open(Some(error)) if waited => return Err(error.clone()),
                Handshake::Open(_) => break,
                Handshake::Running => {
                    waited = true;
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(CallError::Timeout {
                            method: "initialize".to_owned(),
                            after: self.introduction.timeout,
                        });
                    }
                    handshake = sound(connection.handshake_changed.wait_timeout(handshake, left)).0;
                }
            }
        }
        *handshake = Handshake::Running;
        drop(handshake);
        let mut greeting = Greeting { connection, ended: Handshake::Open(None) };
        let mut outcome = self.initialize(connection, deadline.saturating_duration_since(Instant::now()));
        if let Err(error @ CallError::Timeout { .. }) = &outcome {
            let text = connection.impression().mute(&error.to_string());
            // Asked again it would refuse ("Already initialized"); only a new life can be talked to.
            connection.give_up(&text);
            outcome = Err(CallError::Mute(text));
        }
        greeting.ended = match &outcome {
            Ok(()) => Handshake::Done,
            Err(error) => Handshake::Open(Some(error.clone())),
        };
        drop(greeting);
        if let Err(error) = &outcome {
            self.tell_failure(&error.to_string());
        }
        outcome
    }

    fn wait_until_up(&self, mut deadline: Instant) -> Result<Arc<Connection>, CallError> {
        let mut asked = None;
        let mut slot = lock(&self.slot);
        loop {
            let reason = match &*slot {
                Slot::Away(Away { reason, said, .. }) => {
                    match asked {
                        // Full means that somebody has asked already.
                        None => drop(self.wanted.0.try_send(())),
                        Some(before) if before != *said => {
                            return Err(CallError::Unavailable {
                                reason: reason.clone(),
                                retry_after: Some(5),
                            });
                        }
                        Some(_) => {}
                    }
                    if asked.replace(*said).is_none() {
                        deadline = Instant::now() + WAIT_FOR_DIAL;
                    }
                    reason.clone()
                }
                Slot::Up(connection) => match connection.closed() {
                    None => return Ok(Arc::clone(connection)),
                    // Its supervisor is about to take it down.
                    Some(reason) => reason,
                },
                Slot::Gone(reason) => {
                    return Err(CallError::Unavailable { reason: reason.clone(), retry_after: None });
                }
                Slot::Down(reason) => reason.clone(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CallError::Unavailable { reason, retry_after: Some(5) });
            }
            slot = sound(self.changed.wait_timeout(slot, left)).0;
        }
    }

    fn initialize(&self, connection: &Connection, timeout: Duration) -> Result<(), CallError> {
        let Introduction { version, endpoint, .. } = &self.introduction;
        let params = initialize_params(version);
        let endpoint = endpoint.clone();
        let user_agent = connection.call_in_order(
            &self.hub,
            "initialize",
            &params,
            timeout,
            move |core, drafts, result| {
                let server: Server = serde_json::from_str(result.get()).map_err(|error| error.to_string())?;
                // Kept until here, so that a crash loop shows in the status also while the child is up.
                core.update_child(|child| child.last_error = None);
                drafts.note(
                    EventType::AppServerConnected,
                    format_args!("Connected codexd to app-server {endpoint}."),
                    &json!({
                        "endpoint": endpoint,
                        "platformFamily": server.platform_family,
                        "platformOs": server.platform_os,
                        "userAgent": server.user_agent,
                    }),
                );
                Ok(server.user_agent)
            },
        )?;
        connection.impression().met(user_agent.as_deref());
        connection.notify("initialized", timeout)
    }

    /// Logs that no connection was made, and why.
    pub fn tell_failure(&self, error: &str) {
        let endpoint = self.introduction.endpoint.clone();
        let message = format!("Could not connect to app-server {endpoint}: {error}.");
        let told = self.hub.transact(move |_, drafts| {
            drafts.note(
                EventType::AppServerConnectFailed,
                format_args!("{message}"),
                &json!({ "endpoint": endpoint }),
            );
        });
        if let Err(error) = told {
            log::warn!("app-server.connect.failed could not be logged: {error}");
        }
    }

    /// A request on `connection`, with the usual deadline.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(
        &self,
        connection: &Connection,
        method: &str,
        params: &impl Serialize,
    ) -> Result<Box<RawValue>, CallError> {
        connection.call(method, params, self.introduction.timeout)
    }
}

/// A handshake under way; whoever waits for it goes on when it is dropped, also by a panic.
struct Greeting<'a> {
    connection: &'a Connection,
    ended: Handshake,
}

impl Drop for Greeting<'_> {
    fn drop(&mut self) {
        *lock(&self.connection.handshake) = std::mem::replace(&mut self.ended, Handshake::Open(None));
        self.connection.handshake_changed.notify_all();
    }
}
