//! An external app-server: nothing is started; one connection is kept up while somebody needs it.
//!
//! It is made when the first session or turn asks for it. When it is lost and there are active sessions, it is made
//! again after a backoff, and their threads are loaded again: a turn that went on meanwhile delivers its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select};
use log::{info, warn};

use super::backoff::Backoff;
use super::{Parts, StartError, farewell};
use crate::app_server::connection::Connection;
use crate::app_server::dial::{DIAL_TIMEOUT, DialError, Target};
use crate::app_server::reader::End;
use crate::app_server::websocket::Socket;
use crate::duplex;
use crate::hub::HubError;
use crate::model::event::EventType;
use crate::model::record::{ChildStatus, SessionStatus};
use crate::os;
use crate::threads::answer::{Reply, answer};
use crate::threads::{self, Thread};

/// How long a dial may take: its own deadline, and the resolution of a name, which has none.
const LONGEST_DIAL: Duration = DIAL_TIMEOUT.saturating_mul(2);
/// How long a dial that was broken off may take to notice.
const AFTER_CANCEL: Duration = Duration::from_secs(1);

/// The thread that owns the connection.
pub(super) struct External {
    parts: Parts,
    stops: Receiver<()>,
    generation: u64,
    /// Whether a connection was lost that active sessions had need of.
    lost: bool,
    /// The last failure that was told, so that an app-server that stays away does not fill the log.
    told: Option<String>,
}

/// What became of a connection.
enum Outcome {
    Asked,
    Lost { progress: bool },
}

/// A connection that was asked for.
type Dialled = Result<(duplex::Reader, duplex::Writer), DialError>;

impl External {
    pub(super) fn new(parts: Parts, stops: Receiver<()>) -> Self {
        Self { parts, stops, generation: 0, lost: false, told: None }
    }

    /// Runs until the daemon stops.
    pub(super) fn run(mut self, first: Reply<Result<(), StartError>>) {
        if let Err(error) = self.begin() {
            return first.give(Err(error.into()));
        }
        self.parts.client.away("there is no connection to the app-server yet", !self.lost);
        first.give(Ok(()));
        self.keep_connected();
        self.parts.client.gone("codexd is stopping");
        self.parts.update(|child| {
            child.status = ChildStatus::Idle;
            child.connected = Some(false);
        });
    }

    /// Records what there is, and the turns that a crash of codexd cut us off from.
    fn begin(&mut self) -> Result<(), HubError> {
        (self.generation, self.lost) = self.parts.hub.transact(|core, drafts| {
            core.update_child(|child| {
                child.status = ChildStatus::External;
                child.pid = None;
                child.last_error = None;
                child.connected = Some(false);
            });
            drafts.note(
                EventType::ChildExternal,
                format_args!("codexd uses an external app-server; no child is started."),
                &(),
            );
            let before = drafts.count();
            farewell::turns_cut_off_by_a_crash(core, drafts);
            (core.state().daemon.child.generation, drafts.count() > before)
        })?;
        Ok(())
    }

    fn keep_connected(&mut self) {
        let mut backoff = Backoff::new();
        let mut delay = Duration::ZERO;
        loop {
            let due = if self.lost && self.is_needed() { after(delay) } else { never() };
            let asked = select! {
                recv(self.stops) -> _ => return,
                recv(self.parts.client.wanted()) -> _ => true,
                recv(due) -> _ => false,
            };
            let began = Instant::now();
            let progress = match self.dial() {
                None => return,
                Some(Ok(ends)) => match self.live(ends) {
                    Outcome::Asked => return,
                    Outcome::Lost { progress } => progress,
                },
                Some(Err(error)) => {
                    self.tell_failure(&error, asked);
                    false
                }
            };
            delay = backoff.next(began.elapsed(), progress);
        }
    }

    /// Whether there is a session that will want its events, or its next turn.
    fn is_needed(&self) -> bool {
        let needed = self.parts.hub.ask(|core| {
            let mut sessions = core.state().sessions.all().iter();
            sessions.any(|session| session.status == SessionStatus::Active && session.thread_id.is_some())
        });
        needed.unwrap_or(false)
    }

    /// Dials in a thread of its own, so that the stop need not wait for it; `None` at the stop.
    fn dial(&self) -> Option<Dialled> {
        let target = match Target::of(&self.parts.config.server) {
            Ok(target) => target,
            Err(error) => return Some(Err(error)),
        };
        let system =
            |error: std::io::Error| Some(Err(DialError(format!("no dial is possible now: {error}"))));
        let (cancelled, cancel) = match os::pipe() {
            Ok(ends) => ends,
            Err(error) => return system(error),
        };
        let (done, outcome) = answer();
        let dialling = threads::spawn(format!("dial-{}", self.generation + 1), move || {
            // Nobody waits any more after a stop.
            done.give(target.dial(&cancelled));
        });
        let thread = match dialling {
            Ok(thread) => thread,
            Err(error) => return system(error),
        };
        let dialled = select! {
            recv(outcome.given()) -> _ => outcome.take(),
            recv(self.stops) -> _ => None,
            default(LONGEST_DIAL) => {
                let millis = LONGEST_DIAL.as_millis();
                Some(Err(DialError(format!(
                    "the host was not resolved within {millis} ms: check --server-endpoint and DNS"
                ))))
            }
        };
        drop(cancel);
        leave(thread);
        dialled
    }

    /// One connection, from its beginning to its end.
    fn live(&mut self, ends: (duplex::Reader, duplex::Writer)) -> Outcome {
        self.generation += 1;
        let generation = self.generation;
        let (connection, lines) = Connection::new(generation, None);
        let (hub, inbox) = (self.parts.hub.clone(), Arc::clone(&self.parts.inbox));
        let started = Socket::start(ends, connection.clone(), lines, hub, inbox);
        let socket = match started {
            Ok(socket) => socket,
            Err(error) => {
                self.tell_failure(&DialError(format!("no thread for the connection: {error}")), true);
                return Outcome::Lost { progress: false };
            }
        };
        self.told = None;
        self.parts.update(move |child| {
            child.connected = Some(true);
            child.generation = generation;
            child.last_error = None;
        });
        self.parts.client.up(connection.clone());
        if std::mem::take(&mut self.lost) {
            info!("connected to the external app-server again");
            // Full means that it is told already.
            let _ = self.parts.revived.try_send(());
        }
        let ended = select! {
            recv(self.stops) -> _ => None,
            recv(socket.end().given()) -> _ => Some(socket.end().take().unwrap_or_else(End::unexplained)),
            recv(connection.hopeless()) -> reason => {
                Some(End { source: "websocket.silent", message: reason.unwrap_or_default(), ..End::unexplained() })
            }
        };
        let Some(end) = ended else {
            self.parts.client.gone("codexd is stopping");
            if !socket.close("codexd is stopping") {
                self.parts.note(
                    EventType::AppServerCloseFailed,
                    format_args!("The app-server did not answer the end of the connection; it was cut."),
                    &(),
                );
            }
            return Outcome::Asked;
        };
        warn!("the connection to the external app-server has ended: {}", end.message);
        self.lost = true;
        let reason = format!("the connection to the app-server has ended: {}", end.message);
        // One that could not be worked with is a fault until the next one can.
        let was_well = connection.was_met() && connection.impression().trouble().is_none();
        self.parts.client.away(reason, was_well && !self.is_needed());
        socket.bury(&end.message);
        farewell::tell_lost(&self.parts, end, connection.was_used());
        Outcome::Lost { progress: connection.made_progress() }
    }

    /// Callers are told each time; the log, of a failure nobody asked for, when it is a new one.
    fn tell_failure(&mut self, error: &DialError, asked: bool) {
        let text = error.to_string();
        if asked || self.told.as_ref() != Some(&text) {
            self.parts.client.tell_failure(&text);
            let shown = format!("The app-server cannot be reached: {text}.");
            self.parts.update(move |child| child.last_error = Some(shown));
            self.told = Some(text.clone());
        }
        self.parts.client.away(format!("the app-server cannot be reached: {text}"), false);
    }
}

/// getaddrinfo(3) cannot be broken off: a thread that still waits for it is left to itself. It holds nothing of ours
/// but the answer's channel, and what it sends there is dropped.
fn leave(thread: Thread) {
    if !thread.wait(AFTER_CANCEL) {
        thread.leave();
    }
}
