//! What tests of the inbox share: a daemon with an open stream, and the verbs in few words.

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Answer, Client, Stream};
use crate::daemon::{Builder, Daemon};

/// A daemon and one client of its stream.
pub(crate) struct Bench {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    pub(crate) stream: Stream,
}

impl Bench {
    /// With the stub and no flags.
    pub(crate) fn stub() -> Bench {
        Bench::with(Daemon::builder())
    }

    pub(crate) fn with(builder: Builder) -> Bench {
        let daemon = builder.start();
        let (client, stream) = (daemon.client(), daemon.stream());
        stream.hello();
        Bench { daemon, client, stream }
    }

    /// After the daemon was started again.
    pub(crate) fn reopen(&mut self) {
        (self.client, self.stream) = (self.daemon.client(), self.daemon.stream());
        self.stream.hello();
    }

    /// A new session's id.
    pub(crate) fn session(&self, body: Value) -> String {
        let answer = self.client.post("/v1/codexd/sessions", &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        text(&answer.json()["data"]["session"]["sessionId"])
    }

    /// The session as it is.
    pub(crate) fn session_record(&self, id: &str) -> Value {
        self.client.get(&format!("/v1/codexd/sessions/{id}")).json()["data"]["session"].clone()
    }

    /// The answer to a turn's POST.
    pub(crate) fn post_turn(&self, session: &str, prompt: &str) -> Value {
        let answer = self.client.post("/v1/codexd/turn", &json!({"sessionId": session, "input": prompt}));
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["data"].clone()
    }

    /// A new turn's id.
    pub(crate) fn turn(&self, session: &str, prompt: &str) -> String {
        text(&self.post_turn(session, prompt)["turnId"])
    }

    /// A new session, a turn in it, and the first thing Codex asks there: session, turn, request.
    pub(crate) fn asked(&self, body: Value, prompt: &str) -> (String, String, Value) {
        let session = self.session(body);
        let turn = self.turn(&session, prompt);
        let request = self.opened(&turn);
        (session, turn, request)
    }

    /// The record of the turn's first request, as announced.
    pub(crate) fn opened(&self, turn: &str) -> Value {
        self.event("request.opened", |detail| detail["turnId"] == turn)["detail"]["record"].clone()
    }

    /// The first event of that type whose detail fits.
    pub(crate) fn event(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.stream.wait_for(|event| event["type"] == kind && fits(&event["detail"]), DEADLINE)
    }

    /// The event of that type about the request.
    pub(crate) fn settled(&self, kind: &str, request: &Value) -> Value {
        self.event(kind, |detail| detail["requestId"] == request["requestId"])
    }

    /// The turn's end: its status.
    pub(crate) fn ended(&self, turn: &str) -> String {
        text(&self.event("app-server.turn.completed", |detail| detail["turnId"] == turn)["detail"]["status"])
    }

    /// What the model said in the turn so far.
    pub(crate) fn said(&self, turn: &str) -> String {
        let events = self.stream.events();
        let deltas = events.iter().filter(|event| {
            event["type"] == "app-server.turn.message.delta" && event["detail"]["turnId"] == turn
        });
        deltas.filter_map(|event| event["detail"]["delta"].as_str()).collect()
    }

    /// Answers, whatever comes of it.
    pub(crate) fn answer(&self, request: &Value, body: &Value) -> Answer {
        let id = text(&request["requestId"]);
        self.client.post(&format!("/v1/codexd/requests/{id}/answer"), body)
    }

    /// Answers, and gives the record.
    pub(crate) fn answered(&self, request: &Value, body: Value) -> Value {
        let answer = self.answer(request, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["request"].clone()
    }

    /// Answers in vain: the record in the 409.
    pub(crate) fn refused(&self, request: &Value, body: Value) -> Value {
        let answer = self.answer(request, &body);
        assert_eq!(answer.status, 409, "{}", answer.text());
        let json = answer.json();
        assert_eq!((&json["ok"], &json["error"]), (&json!(false), &json!("conflict")));
        json["data"]["request"].clone()
    }

    /// The record as it is.
    pub(crate) fn request(&self, request: &Value) -> Value {
        let id = text(&request["requestId"]);
        let answer = self.client.get(&format!("/v1/codexd/requests/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["request"].clone()
    }

    /// The records of the list with this query.
    pub(crate) fn requests(&self, query: &str) -> Vec<Value> {
        let answer = self.client.get(&format!("/v1/codexd/requests{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["requests"].as_array().unwrap().clone()
    }

    /// POST without a body to `sessions/ID/ACTION`.
    pub(crate) fn act(&self, session: &str, action: &str) -> Answer {
        self.client.request("POST", &format!("/v1/codexd/sessions/{session}/{action}"), &[], b"")
    }

    /// The types of all events so far that begin with `prefix`, of one request or turn or session.
    pub(crate) fn types(&self, prefix: &str, id: &Value) -> Vec<String> {
        let about =
            |detail: &Value| ["requestId", "turnId", "sessionId"].iter().any(|key| detail[key] == *id);
        let kind = |event: &Value| text(&event["type"]);
        let events = self.stream.events();
        let mine = events.iter().filter(|event| kind(event).starts_with(prefix) && about(&event["detail"]));
        mine.map(kind).collect()
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}")).to_owned()
}
