//! What an external app-server asks again after its connection was cut is the same request: proved on the reader and
//! the hub themselves, with pipes in the place of the connections.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use codexd::app_server::answer::Proposal;
use codexd::app_server::client::{Client, Introduction};
use codexd::app_server::connection::Connection;
use codexd::app_server::inbox::{self, Inbox, Settled};
use codexd::app_server::outgoing::Lines;
use codexd::app_server::reader::Reader;
use codexd::cli::low::LowArgs;
use codexd::cli::resolve::resolve;
use codexd::config::{Config, Strategy};
use codexd::hub::batch::Subject;
use codexd::hub::change::Change;
use codexd::hub::drafts::Drafts;
use codexd::hub::{Core, Hub, HubThreads};
use codexd::model::event::EventType;
use codexd::model::record::{Request, RequestStatus};
use codexd::store::raw_log::RawLog;
use codexd::timer::{Timer, TimerThread};
use crossbeam_channel::bounded;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{DEADLINE, lone_hub};

/// The parts of a daemon that a request goes through.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) hub: Hub,
    hub_threads: Option<HubThreads>,
    client: Arc<Client>,
    pub(crate) inbox: Arc<Inbox>,
    _timer: TimerThread,
    folder: Arc<TempDir>,
}

/// One connection to the app-server, whose side the test plays.
pub(crate) struct Wire {
    pub(crate) connection: Arc<Connection>,
    /// What codexd writes.
    written: Lines,
    says: Option<PipeWriter>,
    reader: Option<JoinHandle<()>>,
    _cancel: OwnedFd,
}

impl Parts {
    pub(crate) fn start(strategy: Strategy, timeout: Duration) -> Parts {
        Self::on(Arc::new(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()), strategy, timeout)
    }

    /// What a life of the daemon begins with after this one.
    fn next_life(self) -> Parts {
        let (folder, server) = (Arc::clone(&self.folder), &self.config.server);
        let (strategy, timeout) = (server.strategy, server.request_timeout.unwrap_or_default());
        drop(self);
        Self::on(folder, strategy, timeout)
    }

    fn on(folder: Arc<TempDir>, strategy: Strategy, timeout: Duration) -> Parts {
        let mut low = LowArgs { request_timeout: Some(timeout), ..LowArgs::default() };
        if strategy == Strategy::External {
            low.strategy = Some(strategy);
            low.endpoint = Some("ws://127.0.0.1:1".to_owned());
        }
        let config = resolve(low, folder.path()).unwrap();
        let (hub, threads) = lone_hub::start(&config);
        let introduction = Introduction {
            version: "0".to_owned(),
            endpoint: config.server.endpoint.clone(),
            timeout: Duration::from_secs(1),
        };
        let client = Arc::new(Client::new(hub.clone(), introduction));
        let (timer, timer_thread) = Timer::start().unwrap();
        let inbox = Arc::new(Inbox::new(hub.clone(), Arc::clone(&client), timer, &config));
        Parts { config, hub, hub_threads: Some(threads), client, inbox, _timer: timer_thread, folder }
    }

    /// A connection of that generation, as the present one.
    pub(crate) fn connect(&self, generation: u64) -> Wire {
        let (connection, written) = Connection::new(generation, None);
        let (input, says): (PipeReader, PipeWriter) = pipe().unwrap();
        let (cancelled, cancel) = codexd::os::pipe().unwrap();
        let (hub, inbox) = (self.hub.clone(), Arc::clone(&self.inbox));
        let reader = match self.config.server.strategy {
            Strategy::Spawn => {
                Reader::new(hub, Arc::clone(&connection), inbox, self.config.server.max_line_bytes)
            }
            Strategy::External => Reader::external(hub, Arc::clone(&connection), inbox),
        };
        let log = RawLog::open(&self.config.paths.logs_dir.join("stdout.log"), None, None).unwrap();
        let reader = thread::Builder::new().name("test-rx".into()).spawn(move || {
            reader.run(input, &cancelled, log);
        });
        self.client.up(Arc::clone(&connection));
        Wire { connection, written, says: Some(says), reader: Some(reader.unwrap()), _cancel: cancel }
    }

    fn requests(&self) -> Vec<Arc<Request>> {
        self.hub.ask(|core| core.state().requests.all().to_vec()).unwrap()
    }

    /// A session on a thread, both of that name.
    fn register(&self, thread: &'static str, endpoint: &str, request_timeout_ms: Value) {
        self.register_as(thread, "active", thread, endpoint, request_timeout_ms);
    }

    fn register_as(
        &self,
        id: &'static str,
        status: &str,
        thread: &'static str,
        endpoint: &str,
        request_timeout_ms: Value,
    ) {
        let session = json!({
            "sessionId": id, "purpose": "duplex", "threadId": thread, "status": status, "endpoint": endpoint,
            "childPid": null, "createdAt": "", "updatedAt": "", "metadata": {}, "requestTimeoutMs": request_timeout_ms,
        });
        let session = Arc::new(serde_json::from_value(session).unwrap());
        let register = move |_: &mut Core, drafts: &mut Drafts| {
            let change = Some(Change::Session(session));
            let subject = Subject::session(id, Some(thread));
            drafts.push(EventType::SessionRegistered, format_args!("x"), None::<&()>, subject, change);
        };
        self.hub.transact(register).unwrap();
    }

    /// What was logged about requests, in order.
    fn logged(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.config.paths.events()).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let kinds = events.map(|event| event["type"].as_str().unwrap().to_owned());
        kinds.filter(|kind| kind.starts_with("request.")).collect()
    }

    fn decide(&self, request: &Request, word: &str) -> Settled {
        let decision = RawValue::from_string(json!(word).to_string()).unwrap();
        self.inbox.answer(&request.request_id, Proposal::Decision(decision)).unwrap()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Some(threads) = self.hub_threads.take() {
            threads.stop();
        }
    }
}

impl Wire {
    pub(crate) fn say(&mut self, message: Value) {
        writeln!(self.says.as_mut().unwrap(), "{message}").unwrap();
    }

    fn ask(&mut self, id: u64, item: &str) {
        let params = json!({"threadId": "t", "turnId": "u", "itemId": item, "command": "echo"});
        self.say(json!({"id": id, "method": "item/commandExecution/requestApproval", "params": params}));
    }

    /// The next thing codexd writes.
    pub(crate) fn heard(&self) -> Value {
        serde_json::from_slice(&self.written.recv_deadline(Instant::now() + DEADLINE).expect("an answer"))
            .unwrap()
    }

    /// Waits until what was said is in the log.
    fn wait_until_read(&mut self) {
        // Refused as soon as that is in the log, and with it all that was said before.
        self.say(json!({"id": 99, "method": "brand/new", "params": {}}));
        assert_eq!(self.heard()["error"]["code"], -32601);
    }

    /// What was said before is in the log, and whatever that led to is done, when this returns.
    fn finish(&mut self, parts: &Parts) {
        self.says = None;
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let (done, taken) = bounded(1);
        parts.hub.transact_in_order(0, |_, _| (), move |_| done.send(()).unwrap()).unwrap();
        taken.recv_timeout(DEADLINE).expect("the hub");
    }

    /// The end of the connection; what was said before is in the log when this returns.
    fn cut(&mut self, parts: &Parts) {
        self.finish(parts);
        self.connection.close("cut");
        parts.client.down("cut");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.says = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[test]
fn a_request_that_is_sent_again_is_the_same_and_can_be_answered() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let mut first = parts.connect(1);
    first.ask(0, "a");
    first.cut(&parts);
    let before = parts.requests().remove(0);
    assert_eq!((before.status, before.generation), (RequestStatus::Pending, 1));
    assert!(matches!(parts.decide(&before, "accept"), Settled::Away), "nobody is there to be told");

    let mut second = parts.connect(2);
    // The connection is there, but Codex has not asked on it: what is sent now would be for nobody.
    assert!(matches!(parts.decide(&before, "accept"), Settled::Away));
    second.ask(0, "a");
    // Asked twice on one connection (a second resume of the thread), it changes nothing; another item is another.
    second.ask(0, "a");
    second.ask(1, "b");
    second.wait_until_read();
    let requests = parts.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].item_id.as_deref(), Some("b"));
    let after = Arc::clone(&requests[0]);
    assert_eq!((&after.request_id, after.generation), (&before.request_id, 2));
    assert!(matches!(parts.decide(&after, "accept"), Settled::Answered(_)));
    assert_eq!(second.heard(), json!({"id": 0, "result": {"decision": "accept"}}));
    second.cut(&parts);

    // The answer may have been lost with the connection: it is given again, and nobody has to decide twice.
    let mut third = parts.connect(3);
    third.ask(0, "a");
    assert_eq!(third.heard(), json!({"id": 0, "result": {"decision": "accept"}}));
    let story =
        ["opened", "opened", "opened", "unsupported", "answered"].map(|what| format!("request.{what}"));
    assert_eq!(parts.logged(), story);
    third.cut(&parts);
}

#[test]
fn what_was_given_up_waits_again_when_it_is_asked_again() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let mut first = parts.connect(1);
    first.ask(0, "a");
    first.cut(&parts);
    parts.inbox.close().unwrap();
    let before = parts.requests().remove(0);
    assert_eq!(before.status, RequestStatus::Orphaned);
    let mut second = parts.connect(2);
    second.ask(0, "a");
    second.cut(&parts);
    let after = parts.requests().remove(0);
    assert_eq!((&after.request_id, after.status), (&before.request_id, RequestStatus::Pending));
    assert_eq!(parts.logged(), ["request.opened", "request.orphaned", "request.opened"]);
}

#[test]
fn what_is_asked_again_is_for_the_session_that_has_the_thread_now() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let endpoint = parts.config.server.endpoint.clone();
    let session = |id, status| parts.register_as(id, status, "t", &endpoint, Value::Null);
    let of_session = || parts.requests().remove(0).session_id.clone();
    session("before", "active");
    let mut first = parts.connect(1);
    first.ask(0, "a");
    first.cut(&parts);
    assert_eq!(of_session().as_deref(), Some("before"));
    session("before", "closed");
    parts.hub.transact(|core, drafts| inbox::orphan_of_thread(core, drafts, "t", None)).unwrap();
    session("now", "active");
    let mut second = parts.connect(2);
    second.ask(0, "a");
    second.cut(&parts);
    assert_eq!(parts.requests().len(), 1);
    assert_eq!(of_session().as_deref(), Some("now"));
}

#[test]
fn a_deadline_that_passes_while_it_is_away_counts_at_once() {
    let parts = Parts::start(Strategy::External, Duration::from_millis(1));
    let mut first = parts.connect(1);
    parts.client.down("not yet");
    first.ask(0, "a");
    first.cut(&parts);
    assert_eq!(parts.requests()[0].status, RequestStatus::Pending);
    let mut second = parts.connect(2);
    second.ask(0, "a");
    assert_eq!(second.heard(), json!({"id": 0, "result": {"decision": "decline"}}));
    assert_eq!(parts.requests()[0].status, RequestStatus::Expired);
    second.cut(&parts);
}

/// Connections are counted over the lives of the daemon, but from the beginning where the file that has the count is lost.
#[test]
fn the_first_connection_of_a_life_is_none_of_the_life_before() {
    let parts = Parts::start(Strategy::External, Duration::from_millis(1));
    let mut first = parts.connect(1);
    parts.client.down("not yet");
    first.ask(0, "a");
    first.cut(&parts);
    let parts = parts.next_life();
    let mut first = parts.connect(1);
    let request = parts.requests().remove(0);
    assert_eq!(request.status, RequestStatus::Pending);
    assert!(matches!(parts.decide(&request, "accept"), Settled::Away), "it has not been asked yet");
    first.ask(0, "a");
    assert_eq!(first.heard(), json!({"id": 0, "result": {"decision": "decline"}}));
    first.cut(&parts);
}

#[test]
fn a_deadline_from_before_is_none_for_a_request_that_waits_again() {
    let parts = Parts::start(Strategy::External, Duration::from_secs(1));
    let mut wire = parts.connect(1);
    wire.ask(0, "a");
    wire.say(json!({"method": "serverRequest/resolved", "params": {"threadId": "t", "requestId": 0}}));
    wire.wait_until_read();
    // From now on there is no deadline in this thread.
    parts.register("t", &parts.config.server.endpoint, json!(0));
    wire.ask(0, "a");
    // The deadline of this one comes after the one that was.
    let params = json!({"threadId": "other", "turnId": "u", "itemId": "b", "command": "echo"});
    wire.say(json!({"id": 1, "method": "item/commandExecution/requestApproval", "params": params}));
    assert_eq!(wire.heard(), json!({"id": 1, "result": {"decision": "decline"}}));
    let statuses: Vec<_> = parts.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [RequestStatus::Pending, RequestStatus::Expired]);
    wire.cut(&parts);
}

#[test]
fn the_ids_of_a_child_are_its_own() {
    let parts = Parts::start(Strategy::Spawn, Duration::ZERO);
    let mut first = parts.connect(1);
    first.ask(0, "a");
    first.cut(&parts);
    parts.hub.transact(|core, drafts| inbox::orphan_pending(core, drafts)).unwrap();
    let mut second = parts.connect(2);
    second.ask(0, "a");
    second.cut(&parts);
    let requests = parts.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].status, requests[1].status), (RequestStatus::Orphaned, RequestStatus::Pending));
    // Its child is gone, even if nobody has said so yet.
    assert!(
        matches!(parts.decide(&requests[1], "accept"), Settled::Closed(now) if now.status == RequestStatus::Orphaned)
    );
}

#[test]
fn resolved_and_turn_over_end_what_they_name_in_one_write() {
    let parts = Parts::start(Strategy::Spawn, Duration::ZERO);
    let mut wire = parts.connect(1);
    for (id, item) in [(0, "a"), (1, "b"), (2, "c")] {
        wire.ask(id, item);
    }
    wire.say(json!({"method": "serverRequest/resolved", "params": {"threadId": "t", "requestId": 1}}));
    wire.say(json!({"method": "serverRequest/resolved", "params": {"threadId": "other", "requestId": 0}}));
    let turn = |id: &str| json!({"threadId": "t", "turn": {"id": id, "status": "interrupted"}});
    wire.say(json!({"method": "turn/completed", "params": turn("another")}));
    wire.say(json!({"method": "turn/completed", "params": turn("u")}));
    wire.cut(&parts);
    let text = std::fs::read_to_string(parts.config.paths.events()).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |event: &Value| match event["type"].as_str().unwrap() {
        "request.cancelled" => format!("cancelled {}", event["detail"]["record"]["itemId"].as_str().unwrap()),
        "app-server.turn.completed" => format!("over {}", event["detail"]["turnId"].as_str().unwrap()),
        other => other.trim_start_matches("app-server.").to_owned(),
    };
    let story: Vec<String> = events.iter().map(told).collect();
    let expected = [
        "request.opened",
        "request.opened",
        "request.opened",
        "notification",
        "cancelled b",
        "notification",
        "over another",
        "over u",
        "cancelled a",
        "cancelled c",
    ];
    assert_eq!(story, expected);
}

#[test]
fn a_request_of_a_thread_without_a_session_ends_as_it_began() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let mut wire = parts.connect(1);
    wire.ask(1, "a");
    wire.say(json!({"method": "serverRequest/resolved", "params": {"threadId": "t", "requestId": 1}}));
    wire.cut(&parts);
    assert_eq!(parts.requests()[0].status, RequestStatus::Cancelled);
    let text = std::fs::read_to_string(parts.config.paths.events()).unwrap();
    let types: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    // What is said of such a thread is not ours to log.
    assert_eq!(types, ["request.opened", "request.cancelled"]);
}

/// More than wait in the queue to the app-server.
const MANY: u64 = 2000;

#[test]
fn an_app_server_that_asks_first_and_reads_later_gets_every_answer() {
    let parts = Parts::start(Strategy::Spawn, Duration::ZERO);
    let mut wire = parts.connect(1);
    for id in 0..MANY {
        wire.say(json!({"id": id, "method": "brand/new", "params": {}}));
    }
    wire.finish(&parts);
    let mut answered: Vec<u64> = (0..MANY).map(|_| wire.heard()["id"].as_u64().unwrap()).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..MANY).collect::<Vec<_>>());
    assert!(wire.connection.hopeless().is_empty());
}

#[test]
fn an_app_server_that_asks_and_never_reads_is_given_up() {
    let parts = Parts::start(Strategy::Spawn, Duration::ZERO);
    let mut wire = parts.connect(1);
    let long = "x".repeat(100_000);
    for id in 0..500 {
        wire.say(json!({"id": format!("{id} {long}"), "method": "brand/new", "params": {}}));
    }
    let reason = wire.connection.hopeless().recv_timeout(DEADLINE).expect("it is given up");
    assert!(reason.contains("does not read"), "{reason}");
}

#[test]
fn an_id_that_is_used_again_for_another_item_is_another_request() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let mut first = parts.connect(1);
    first.ask(0, "a");
    first.wait_until_read();
    let before = parts.requests().remove(0);
    assert!(matches!(parts.decide(&before, "accept"), Settled::Answered(_)));
    assert_eq!(first.heard(), json!({"id": 0, "result": {"decision": "accept"}}));
    first.cut(&parts);
    // An app-server that was started anew counts from 0 again: what was accepted was something else.
    let mut second = parts.connect(2);
    second.ask(0, "b");
    second.wait_until_read();
    let requests = parts.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].status, requests[1].status), (RequestStatus::Answered, RequestStatus::Pending));
    second.cut(&parts);
}

#[test]
fn what_another_app_server_has_asked_is_given_up_at_the_start() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let mut wire = parts.connect(1);
    for (thread, endpoint) in [("here", parts.config.server.endpoint.as_str()), ("there", "ws://127.0.0.1:2")]
    {
        parts.register(thread, endpoint, Value::Null);
        let params = json!({"threadId": thread, "turnId": "u", "itemId": "i", "command": "echo"});
        let method = "item/commandExecution/requestApproval";
        wire.say(json!({"id": 0, "method": method, "params": params}));
    }
    wire.cut(&parts);
    let config = parts.config.clone();
    parts.hub.transact(move |core, drafts| inbox::orphan_left_over(core, drafts, &config)).unwrap();
    let left: Vec<_> =
        parts.requests().iter().map(|request| (request.thread_id.clone().unwrap(), request.status)).collect();
    let expected =
        [("here".to_owned(), RequestStatus::Pending), ("there".to_owned(), RequestStatus::Orphaned)];
    assert_eq!(left, expected);
}
