//! The durable inbox: every request of Codex is a record, on disk before anyone is told, with one final state.
//!
//! **Order of an answer**: it is logged as `answered`, then sent. Were it sent first, a crash between the two would
//! leave a command that ran with nobody's approval on record. Logged first, the worst is an answer that Codex never
//! got: a child dies with codexd and takes its question with it, and an external app-server asks again, whereupon the
//! recorded answer is sent. If the app-server is found to be gone at that moment, the record becomes `orphaned`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use serde_json::value::RawValue;

use super::answer::{self, Outcome, Proposal};
use super::client::Client;
use super::connection::Connection;
use super::inbox_events::{opened, settled};
use crate::config::{Config, RequestPolicy, Strategy};
use crate::hub::drafts::Drafts;
use crate::hub::{Core, Hub, HubError};
use crate::model::members::Members;
use crate::model::record::{Extra, Request, RequestKind, RequestStatus, Session};
use crate::timer::Timer;
use crate::{clock, ids};

/// When an expiry that the hub could not record is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What Codex asked and what becomes of it; one in a daemon.
pub struct Inbox {
    hub: Hub,
    client: Arc<Client>,
    timer: Timer,
    policy: RequestPolicy,
    timeout: Option<Duration>,
    /// Whether the app-server outlives a connection, and asks again on the next one.
    external: bool,
}

/// A request as the reader saw it.
pub(super) struct Asked {
    pub(super) id: Box<RawValue>,
    pub(super) method: String,
    pub(super) kind: RequestKind,
    /// Whole; a file change's with its changes.
    pub(super) params: Box<RawValue>,
}

/// What ends requests on Codex's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// `serverRequest/resolved`: this one.
    Resolved { thread: Option<String>, id: String },
    /// `turn/completed`: all of the turn.
    TurnOver { thread: String, turn: String },
    /// `thread/closed`: all of the thread.
    ThreadClosed { thread: String },
}

/// What became of an answer.
#[derive(Debug, Clone)]
pub enum Settled {
    /// It is recorded and on its way, now or since an earlier, equal answer.
    Answered(Arc<Request>),
    /// The request is settled already, or cannot be answered any more; as it is.
    Closed(Arc<Request>),
    /// The external app-server is not connected now; it will ask again when it is.
    Away,
    /// There is no such request.
    Unknown,
}

/// Why an answer was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AnswerError {
    /// It does not fit; with what does.
    #[error("{0}")]
    Unfit(String),
    /// It could not be recorded.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// What the hub made of a request, to be acted on once it is in the log.
enum Opening {
    /// It waits, and is declined after that time; `None` for never, and for one that waited already.
    Waits(Option<(Duration, Deadline)>),
    /// It has an answer already: by policy, or from before a reconnect.
    Known { id: Box<RawValue>, answer: Box<RawValue> },
}

/// When a request is declined.
struct Deadline {
    request_id: String,
    /// As its record has it: one that was withdrawn and is asked again has another.
    at: String,
}

impl Inbox {
    /// An inbox with the daemon's policy; sessions may have their own.
    pub fn new(hub: Hub, client: Arc<Client>, timer: Timer, config: &Config) -> Self {
        Self {
            hub,
            client,
            timer,
            policy: config.server.request_policy,
            timeout: config.server.request_timeout,
            external: config.server.strategy == Strategy::External,
        }
    }

    /// Records what Codex asks, at its place among the app-server's messages; called by the reader.
    pub(super) fn ask(self: &Arc<Self>, connection: &Arc<Connection>, asked: Asked) {
        let (inbox, to) = (Arc::clone(self), Arc::clone(connection));
        let generation = connection.generation();
        let recorder = Arc::clone(self);
        let recorded = self.hub.transact_in_order(
            asked.params.get().len(),
            move |core, drafts| recorder.record(core, drafts, generation, asked),
            move |opening| match opening {
                Ok(Opening::Waits(Some((wait, deadline)))) => inbox.expire_after(wait, deadline),
                Ok(Opening::Waits(None)) => {}
                Ok(Opening::Known { id, answer }) => {
                    to.respond(&id, Outcome::of_record(&answer).as_ref());
                }
                // Only at the daemon's end: the app-server is told by the end of the connection.
                Err(error) => warn!("a request of Codex could not be recorded: {error}"),
            },
        );
        if let Err(error) = recorded {
            warn!("a request of Codex could not be recorded: {error}");
        }
    }

    fn record(&self, core: &Core, drafts: &mut Drafts, generation: u64, asked: Asked) -> Opening {
        let params = Members::of(&asked.params).unwrap_or_default();
        // The other names are those of the first version of the protocol, and of a tool's call.
        let thread = params.text("threadId").or_else(|| params.text("conversationId"));
        let item = params.text("itemId").or_else(|| params.text("callId"));
        let turn = params.text("turnId");
        let (thread, turn, item) = (thread.as_deref(), turn.as_deref(), item.as_deref());
        let known = core.state().request_with_id(thread, asked.id.get()).filter(|known| {
            (self.external || known.generation == generation)
                && known.turn_id.as_deref() == turn
                && known.item_id.as_deref() == item
        });
        let session = thread.and_then(|thread| session_of(core, thread));
        let (policy, timeout) = self.rules(session);
        let now = clock::unix_millis();
        let mut request = match known {
            Some(known) => match (known.status, &known.answer) {
                (RequestStatus::Pending, _) if known.generation == generation => return Opening::Waits(None),
                (RequestStatus::Pending, _) => Request::clone(known),
                (_, Some(answer)) => return Opening::Known { id: asked.id, answer: answer.clone() },
                (_, None) => {
                    let deadline = deadline(now, timeout);
                    Request { status: RequestStatus::Pending, deadline, ..Request::clone(known) }
                }
            },
            None => Request {
                request_id: ids::record_id("request"),
                method: asked.method,
                kind: asked.kind,
                session_id: None,
                thread_id: thread.map(str::to_owned),
                turn_id: turn.map(str::to_owned),
                item_id: item.map(str::to_owned),
                params: asked.params.clone(),
                status: RequestStatus::Pending,
                created_at: clock::iso(now),
                updated_at: String::new(),
                deadline: deadline(now, timeout),
                answer: None,
                app_server_request_id: Some(asked.id.clone()),
                generation,
                extra: Extra::new(),
            },
        };
        let again = known.is_some();
        // The session that was asked may be closed, and another one have taken its thread over.
        if let Some(session) = session {
            request.session_id = Some(session.session_id.clone());
        }
        request.generation = generation;
        request.updated_at = clock::iso(now);
        if policy == RequestPolicy::Decline {
            request.deadline = None;
        }
        let request = Arc::new(request);
        opened(drafts, &request, again);
        if policy == RequestPolicy::Decline {
            let answer = answer::decline(&request.method, &request.params).to_record();
            settled(drafts, &request, RequestStatus::Answered, Some(answer.clone()));
            return Opening::Known { id: asked.id, answer };
        }
        let expires = request.deadline.clone().and_then(|at| {
            let wait = Duration::from_millis(clock::parse_iso(&at)?.saturating_sub(now));
            Some((wait, Deadline { request_id: request.request_id.clone(), at }))
        });
        Opening::Waits(expires)
    }

    /// The session's own rules, or the daemon's.
    fn rules(&self, session: Option<&Session>) -> (RequestPolicy, Option<Duration>) {
        let policy = session.and_then(|session| session.request_policy).unwrap_or(self.policy);
        let timeout = match session.and_then(|session| session.request_timeout_ms) {
            None => self.timeout,
            Some(0) => None,
            Some(millis) => Some(Duration::from_millis(millis)),
        };
        (policy, timeout)
    }

    /// Logs `told`, the event of what withdraws requests, together with the end of those requests: one write, so
    /// that no crash can part them.
    pub(super) fn withdraw(&self, told: Drafts, withdrawn: Withdrawn) -> Result<(), HubError> {
        let bytes = told.len();
        let end = move |core: &mut Core, drafts: &mut Drafts| {
            *drafts = told;
            // Of what is told of threads that are not ours, nothing is logged; of our own records, all is.
            drafts.drop_foreign(|subject| core.is_foreign(subject));
            end_pending(core, drafts, RequestStatus::Cancelled, |request| withdrawn.concerns(request));
        };
        self.hub.transact_in_order(bytes, end, |_| {})
    }

    /// Answers a request. Of several at once one wins; a repeat of the answer that won is as good.
    ///
    /// # Errors
    /// When the answer does not fit the request, which waits, or cannot be recorded.
    pub fn answer(&self, request_id: &str, proposal: Proposal) -> Result<Settled, AnswerError> {
        let id = request_id.to_owned();
        let Some(request) = self.hub.ask(move |core| core.state().requests.get(&id).cloned())? else {
            return Ok(Settled::Unknown);
        };
        let outcome = match answer::shape(&request.method, &request.params, proposal) {
            Ok(outcome) => outcome,
            // What would fit a request that is settled is no help: it is settled.
            Err(_) if request.status != RequestStatus::Pending => return Ok(Settled::Closed(request)),
            Err(problem) => return Err(AnswerError::Unfit(problem)),
        };
        Ok(self.settle(request_id, RequestStatus::Answered, outcome)?)
    }

    /// Records the answer if the request still waits, then sends it.
    fn settle(&self, request_id: &str, status: RequestStatus, outcome: Outcome) -> Result<Settled, HubError> {
        let connection = self.client.present().filter(|connection| connection.closed().is_none());
        let generation = connection.as_ref().map(|connection| connection.generation());
        let (id, external, sends_later) = (request_id.to_owned(), self.external, self.external);
        let answer = outcome.to_record();
        let (became, in_vain) = self.hub.transact_then(
            move |core, drafts| {
                let Some(request) = core.state().requests.get(&id) else { return (Settled::Unknown, false) };
                let became = if request.status != RequestStatus::Pending {
                    let same = request.status == RequestStatus::Answered
                        && request.answer.as_deref().is_some_and(|given| same_json(given, &answer));
                    let request = Arc::clone(request);
                    if same { Settled::Answered(request) } else { Settled::Closed(request) }
                } else if generation == Some(request.generation) {
                    return (Settled::Answered(settled(drafts, request, status, Some(answer))), true);
                } else if external {
                    Settled::Away
                } else {
                    // The supervisor is about to say the same.
                    Settled::Closed(settled(drafts, request, RequestStatus::Orphaned, None))
                };
                (became, false)
            },
            move |(became, is_new)| {
                let sent = |request: &Request| {
                    let to = connection.zip(request.app_server_request_id.as_deref());
                    // An external app-server asks again, and gets the recorded answer then.
                    to.is_some_and(|(connection, id)| connection.respond(id, outcome.as_ref()) || sends_later)
                };
                let in_vain = matches!(&became, Settled::Answered(request) if is_new && !sent(request));
                (became, in_vain)
            },
        )?;
        match became {
            Settled::Answered(request) if in_vain => Ok(Settled::Closed(self.orphan(&request)?)),
            became => Ok(became),
        }
    }

    /// The answer was recorded, but the app-server is gone.
    fn orphan(&self, request: &Request) -> Result<Arc<Request>, HubError> {
        let request = request.clone();
        self.hub.transact(move |_, drafts| settled(drafts, &request, RequestStatus::Orphaned, None))
    }

    /// Declines the request after `wait` if nobody has answered by then.
    fn expire_after(self: &Arc<Self>, wait: Duration, deadline: Deadline) {
        let inbox = Arc::clone(self);
        self.timer.after(wait, move || match inbox.expire(&deadline) {
            Ok(()) | Err(HubError::Stopped) => {}
            Err(HubError::Stalled(_) | HubError::Timeout) => inbox.expire_after(RETRY, deadline),
        });
    }

    fn expire(&self, Deadline { request_id, at }: &Deadline) -> Result<(), HubError> {
        let id = request_id.clone();
        let request = self.hub.ask(move |core| core.state().requests.get(&id).cloned())?;
        let is_due = |request: &Arc<Request>| {
            request.status == RequestStatus::Pending && request.deadline.as_ref() == Some(at)
        };
        let Some(request) = request.filter(is_due) else { return Ok(()) };
        let outcome = answer::decline(&request.method, &request.params);
        // An app-server that is away asks again when it is back, and then the time is over at once.
        self.settle(request_id, RequestStatus::Expired, outcome)?;
        Ok(())
    }

    /// Nobody can answer any more: codexd stops in order.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn close(&self) -> Result<(), HubError> {
        self.hub.transact(|core, drafts| orphan_pending(core, drafts))
    }
}

/// Everything that waits is orphaned: the app-server that asked is gone.
pub fn orphan_pending(core: &Core, drafts: &mut Drafts) {
    end_pending(core, drafts, RequestStatus::Orphaned, |_| true);
}

/// The turn is over, which was learnt otherwise than by a notification: what it asked is withdrawn.
pub fn cancel_of_turn(core: &Core, drafts: &mut Drafts, thread: &str, turn: &str) {
    let over = Withdrawn::TurnOver { thread: thread.to_owned(), turn: turn.to_owned() };
    end_pending(core, drafts, RequestStatus::Cancelled, |request| over.concerns(request));
}

/// The thread is not loaded again, so nothing of it is asked again: what waits is orphaned, but for what was asked on
/// the `present` connection.
pub fn orphan_of_thread(core: &Core, drafts: &mut Drafts, thread: &str, present: Option<u64>) {
    end_pending(core, drafts, RequestStatus::Orphaned, |request| {
        request.thread_id.as_deref() == Some(thread) && Some(request.generation) != present
    });
}

/// The connection to an external app-server is lost: of threads without an active session nothing is asked again.
pub fn orphan_unattended(core: &Core, drafts: &mut Drafts) {
    end_pending(core, drafts, RequestStatus::Orphaned, |request| is_unattended(core, request));
}

fn is_unattended(core: &Core, request: &Request) -> bool {
    let thread = request.thread_id.as_deref();
    thread.is_some_and(|thread| core.state().active_session_of_thread(thread).is_none())
}

/// At the start: what an earlier life of the daemon left waiting. An external app-server still waits for an answer,
/// unless the daemon was told to use another one since, and asks again if somebody loads the thread.
pub fn orphan_left_over(core: &Core, drafts: &mut Drafts, config: &Config) {
    let elsewhere = |request: &Request| {
        let session = request.session_id.as_deref().and_then(|id| core.state().sessions.get(id));
        session.is_some_and(|session| session.endpoint != config.server.endpoint)
    };
    let spawned = config.server.strategy == Strategy::Spawn;
    end_pending(core, drafts, RequestStatus::Orphaned, |request| {
        spawned || elsewhere(request) || is_unattended(core, request)
    });
}

fn end_pending(core: &Core, drafts: &mut Drafts, status: RequestStatus, ends: impl Fn(&Request) -> bool) {
    for request in core.state().pending_requests().filter(|request| ends(request)) {
        settled(drafts, request, status, None);
    }
}

impl Withdrawn {
    /// What this notification withdraws, if it does.
    pub(super) fn of(method: &str, params: &RawValue) -> Option<Self> {
        if !matches!(method, "serverRequest/resolved" | "turn/completed" | "thread/closed") {
            return None;
        }
        let params = Members::of(params)?;
        let thread = params.text("threadId").map(Cow::into_owned);
        Some(match method {
            "serverRequest/resolved" => {
                Self::Resolved { thread, id: params.get("requestId")?.get().to_owned() }
            }
            "turn/completed" => {
                Self::TurnOver { thread: thread?, turn: params.object("turn")?.text("id")?.into_owned() }
            }
            _ => Self::ThreadClosed { thread: thread? },
        })
    }

    fn concerns(&self, request: &Request) -> bool {
        let asked_id = request.app_server_request_id.as_deref().map(RawValue::get);
        match self {
            Self::Resolved { thread, id } => request.thread_id == *thread && asked_id == Some(id),
            Self::TurnOver { thread, turn } => {
                request.thread_id.as_ref() == Some(thread) && request.turn_id.as_ref() == Some(turn)
            }
            Self::ThreadClosed { thread } => request.thread_id.as_ref() == Some(thread),
        }
    }
}

/// The active session on the thread, else the last one that was.
fn session_of<'a>(core: &'a Core, thread: &str) -> Option<&'a Session> {
    let state = core.state();
    state
        .active_session_of_thread(thread)
        .or_else(|| state.sessions_of_thread(thread).last())
        .map(AsRef::as_ref)
}

/// `timeout` after `now` (milliseconds since 1970), as a record has it.
fn deadline(now: u64, timeout: Option<Duration>) -> Option<String> {
    let millis = u64::try_from(timeout?.as_millis()).unwrap_or(u64::MAX);
    Some(clock::iso(now.saturating_add(millis)))
}

/// Whether two texts are the same JSON, whatever the order of their fields.
fn same_json(one: &RawValue, other: &RawValue) -> bool {
    let value = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    one.get() == other.get() || value(one) == value(other)
}
