//! One life of the app-server, seen from its callers: requests out, answers back, each with a deadline.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use log::warn;
use serde::Serialize;
use serde_json::value::RawValue;

use super::call::CallError;
use super::impression::Impression;
use super::outgoing::{self, Lines, Outgoing, Queued};
use super::wire::{self, OVERLOADED, RpcError};
use crate::clock;
use crate::hub::drafts::Drafts;
use crate::hub::{Core, Hub, HubError};
use crate::threads::answer::{Answer, answer};
use crate::threads::permits::Permits;
use crate::threads::{self, lock};

/// Lines that may wait for the app-server to read them. When they do a caller waits, up to its deadline.
const OUT_BOUND: usize = 256;
/// Requests in flight: Codex loses answers when some two hundred are.
const IN_FLIGHT: usize = 64;
/// So many calls in a row without an answer, and not a word on anything else either: it will say nothing more.
const SILENT_CALLS: u32 = 3;
/// The first wait after "overloaded"; doubled each time.
const OVERLOAD_BACKOFF: Duration = Duration::from_millis(100);
/// How often a caller that waits looks whether the log can be written.
const STALL_LOOK: Duration = Duration::from_secs(2);

/// What is done with an answer, in the reader's thread.
type Responder = Box<dyn FnOnce(Result<&RawValue, CallError>) + Send>;

struct Calls {
    next_id: i64,
    waiting: HashMap<i64, Waiting>,
    /// Why no more answers will come.
    closed: Option<String>,
}

struct Waiting {
    method: String,
    respond: Responder,
}

/// What is asked, and how long whoever asks waits.
#[derive(Clone, Copy)]
struct Call<'a> {
    method: &'a str,
    timeout: Duration,
    deadline: Instant,
}

impl<'a> Call<'a> {
    fn new(method: &'a str, timeout: Duration) -> Self {
        Self { method, timeout, deadline: Instant::now() + timeout }
    }

    fn timed_out(&self) -> CallError {
        CallError::Timeout { method: self.method.to_owned(), after: self.timeout }
    }
}

/// How far the handshake has come.
pub(super) enum Handshake {
    /// Nobody is at it; why the last attempt failed, if there was one.
    Open(Option<CallError>),
    /// Somebody is at it.
    Running,
    /// Done.
    Done,
}

/// One life of the app-server.
pub struct Connection {
    generation: u64,
    pid: Option<u32>,
    out: Outgoing,
    calls: Mutex<Calls>,
    /// One for each request in flight.
    permits: Permits,
    progress: AtomicBool,
    /// Calls without an answer since it last said anything.
    silent: AtomicU32,
    /// Why it is of no use any more, for its supervisor.
    hopeless: (Sender<String>, Receiver<String>),
    impression: Impression,
    pub(super) handshake: Mutex<Handshake>,
    pub(super) handshake_changed: Condvar,
}

impl Connection {
    /// A connection and the lines that are to be written to the app-server, in order. The receiver ends when the
    /// connection is closed.
    pub fn new(generation: u64, pid: Option<u32>) -> (Arc<Self>, Lines) {
        let (out, lines) = outgoing::queue(OUT_BOUND);
        let connection = Self {
            generation,
            pid,
            out,
            calls: Mutex::new(Calls { next_id: 1, waiting: HashMap::new(), closed: None }),
            permits: Permits::new(IN_FLIGHT),
            progress: AtomicBool::new(false),
            silent: AtomicU32::new(0),
            hopeless: bounded(1),
            impression: Impression::of(pid.is_none()),
            handshake: Mutex::new(Handshake::Open(None)),
            handshake_changed: Condvar::new(),
        };
        (Arc::new(connection), lines)
    }

    /// Which life of the app-server this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its process id, if it is a child.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether the handshake was done or at least begun: only then is its end worth an event.
    pub fn was_used(&self) -> bool {
        !matches!(*lock(&self.handshake), Handshake::Open(_))
    }

    /// Whether the handshake was done.
    pub fn was_met(&self) -> bool {
        matches!(*lock(&self.handshake), Handshake::Done)
    }

    /// What the program has shown of itself.
    pub fn impression(&self) -> &Impression {
        &self.impression
    }

    /// A turn was completed in this life: whatever ends it now, it was no crash loop.
    pub(super) fn note_progress(&self) {
        self.progress.store(true, Ordering::Relaxed);
    }

    /// Whether a turn was completed in this life.
    pub fn made_progress(&self) -> bool {
        self.progress.load(Ordering::Relaxed)
    }

    /// It has said something, whatever it was.
    pub(super) fn heard(&self) {
        self.silent.store(0, Ordering::Relaxed);
    }

    /// Whether it has left a call without an answer and said nothing since.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed) > 0
    }

    /// This life is of no use any more, for that reason: its supervisor is told, who ends it and closes this.
    pub fn give_up(&self, reason: &str) {
        // There is room for the first reason, which is the one that counts.
        let _ = self.hopeless.0.try_send(reason.to_owned());
    }

    /// Has one message, the reason, when this life is of no use any more.
    pub fn hopeless(&self) -> &Receiver<String> {
        &self.hopeless.1
    }

    fn unanswered(&self) {
        if self.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT_CALLS {
            self.give_up("the app-server answers nothing any more");
        }
    }

    /// Why the connection is closed, if it is.
    pub fn closed(&self) -> Option<String> {
        lock(&self.calls).closed.clone()
    }

    /// A request whose result only its caller needs. While the app-server says that it is overloaded, the request is
    /// sent again, up to the deadline.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(
        &self,
        method: &str,
        params: &impl Serialize,
        timeout: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        self.retried(Call::new(method, timeout), |call| {
            let (reply, answer) = answer();
            let respond: Responder = Box::new(move |outcome| reply.give(outcome.map(ToOwned::to_owned)));
            self.ask(None, call, params, respond, &answer)
        })
    }

    /// A request whose result belongs to the state: `run` is given it in the hub's thread, at the answer's place
    /// among the app-server's messages, and the caller gets what it makes of it once that is in the log.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_in_order<T: Send + 'static>(
        &self,
        hub: &Hub,
        method: &str,
        params: &impl Serialize,
        timeout: Duration,
        run: impl FnOnce(&mut Core, &mut Drafts, &RawValue) -> Result<T, String> + Clone + Send + 'static,
    ) -> Result<T, CallError> {
        self.retried(Call::new(method, timeout), |call| {
            let (reply, answer) = answer();
            let (run, inner, asked) = (run.clone(), hub.clone(), method.to_owned());
            let respond: Responder = Box::new(move |outcome| match outcome {
                Err(error) => reply.give(Err(error)),
                Ok(result) => {
                    let result = result.to_owned();
                    let then = move |outcome: Result<Result<T, String>, HubError>| {
                        let outcome = match outcome {
                            Ok(Ok(value)) => Ok(value),
                            Ok(Err(problem)) => Err(CallError::Unreadable { method: asked, problem }),
                            Err(error) => Err(error.into()),
                        };
                        reply.give(outcome);
                    };
                    // A hub that has stopped drops `then`, and with it the caller's channel.
                    let bytes = result.get().len();
                    let _ =
                        inner.transact_in_order(bytes, move |core, drafts| run(core, drafts, &result), then);
                }
            });
            self.ask(Some(hub), call, params, respond, &answer)
        })
    }

    /// A notification.
    ///
    /// # Errors
    /// When the connection is closed or its queue stays full up to `timeout`.
    pub fn notify(&self, method: &str, timeout: Duration) -> Result<(), CallError> {
        let line = wire::notification(method).map_err(|error| CallError::unreadable(method, &error))?;
        self.send_line(line, Call::new(method, timeout))
    }

    /// Answers a request of the app-server; whether the answer is on its way. Never waits: of an app-server that asks and
    /// asks and does not read the answers this life is given up, so that none is lost in silence.
    pub fn respond(&self, id: &RawValue, outcome: Result<&RawValue, &RpcError>) -> bool {
        let queued = wire::response(id, outcome).map_or(Queued::Closed, |line| self.out.answer(line));
        match queued {
            Queued::Yes => {}
            Queued::Closed => warn!("an answer could not be sent to the app-server: it is gone"),
            Queued::Full => self.give_up("the app-server asks and does not read the answers"),
        }
        queued == Queued::Yes
    }

    /// Ends the connection: nothing more is written, every caller is told `reason`.
    pub fn close(&self, reason: &str) {
        self.out.close();
        let waiting = {
            let mut calls = lock(&self.calls);
            if calls.closed.is_some() {
                return;
            }
            calls.closed = Some(reason.to_owned());
            std::mem::take(&mut calls.waiting)
        };
        for (_, waiting) in waiting {
            (waiting.respond)(Err(CallError::closed(reason)));
        }
        self.handshake_changed.notify_all();
    }

    /// An answer has come; in the reader's thread.
    pub(super) fn answered(&self, id: i64, outcome: Result<&RawValue, RpcError>) {
        let waiting = lock(&self.calls).waiting.remove(&id);
        let Some(Waiting { method, respond }) = waiting else {
            warn!("the app-server answered request {id} too late or twice");
            return;
        };
        respond(outcome.map_err(|error| match self.impression.refused(&method, &error) {
            Some(reason) => CallError::Unfit(reason),
            None => CallError::Refused { method, error },
        }));
    }

    /// The answer to a request of ours cannot be read, for that reason.
    pub(super) fn unreadable(&self, id: i64, reason: &str) {
        if let Some(Waiting { method, respond }) = lock(&self.calls).waiting.remove(&id) {
            respond(Err(CallError::Unreadable { method, problem: reason.to_owned() }));
        }
    }

    /// A request of ours came back as it was: whatever is there, it will never answer.
    pub(super) fn echoed(&self, id: i64) {
        if let Some(waiting) = lock(&self.calls).waiting.remove(&id) {
            let reason = self.impression.no_app_server("it sends back what it is sent");
            (waiting.respond)(Err(CallError::Unfit(reason)));
        }
    }

    fn retried<'a, T>(
        &self,
        call: Call<'a>,
        attempt: impl Fn(Call<'a>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let _permit = self.permits.take_within(call.timeout).ok_or_else(|| call.timed_out())?;
        let mut backoff = OVERLOAD_BACKOFF;
        loop {
            match attempt(call) {
                Err(CallError::Refused { error, .. })
                    // The wait is at most one and a half times the backoff; the rest is for the answer.
                    if error.code == OVERLOADED && Instant::now() + backoff * 2 < call.deadline =>
                {
                    // Not in step with other callers.
                    threads::pause(backoff / 2 + clock::jitter(backoff));
                    backoff *= 2;
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends a request and waits for what `respond` makes of the answer. `hub`: where that has to pass.
    fn ask<T>(
        &self,
        hub: Option<&Hub>,
        call: Call<'_>,
        params: &impl Serialize,
        respond: Responder,
        answer: &Answer<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let id = {
            let mut calls = lock(&self.calls);
            if let Some(reason) = &calls.closed {
                return Err(CallError::closed(reason));
            }
            let id = calls.next_id;
            calls.next_id += 1;
            calls.waiting.insert(id, Waiting { method: call.method.to_owned(), respond });
            id
        };
        let outcome = wire::request(id, call.method, params)
            .map_err(|error| CallError::unreadable(call.method, &error))
            .and_then(|line| self.send_line(line, call))
            .and_then(|()| self.wait(hub, call, answer));
        if outcome.is_err() {
            lock(&self.calls).waiting.remove(&id);
        }
        outcome
    }

    fn send_line(&self, line: Vec<u8>, call: Call<'_>) -> Result<(), CallError> {
        self.out.send(line, call.deadline).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => {
                self.unanswered();
                call.timed_out()
            }
            SendTimeoutError::Disconnected(_) => {
                CallError::closed(self.closed().as_deref().unwrap_or("the app-server takes no more input"))
            }
        })
    }

    /// While the log cannot be written the answer stands before the hub, and so may the app-server's: then the caller is
    /// told so, rather than left to its deadline.
    fn wait<T>(
        &self,
        hub: Option<&Hub>,
        call: Call<'_>,
        answer: &Answer<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        loop {
            let look = hub.map_or(call.deadline, |_| call.deadline.min(Instant::now() + STALL_LOOK));
            match answer.wait(look) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Err(HubError::Stopped.into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(reason) = hub.and_then(stalled) {
                return Err(HubError::Stalled(reason).into());
            }
            if look == call.deadline {
                self.unanswered();
                return Err(call.timed_out());
            }
        }
    }
}

/// Why the log cannot be written, if it cannot.
fn stalled(hub: &Hub) -> Option<String> {
    hub.ask_within(Duration::from_secs(1), |core| core.stalled().map(str::to_owned)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_calls_are_in_flight_than_may_be() {
        const LONG: Duration = Duration::from_secs(60);
        let (connection, lines) = Connection::new(1, None);
        std::thread::scope(|scope| {
            for _ in 0..IN_FLIGHT {
                scope.spawn(|| connection.call("turn/start", &(), LONG).unwrap_err());
            }
            for _ in 0..IN_FLIGHT {
                lines.recv_deadline(Instant::now() + LONG).unwrap();
            }
            let one_more = connection.call("turn/start", &(), Duration::from_millis(1));
            assert!(matches!(one_more, Err(CallError::Timeout { .. })));
            assert!(lines.try_recv().is_err(), "it was sent all the same");
            connection.close("enough");
        });
    }
}
