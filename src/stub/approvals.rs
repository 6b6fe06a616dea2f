//! Requests to the client: how they are sent, and what an answer means.

use super::state::lock;
use super::turn::{Stop, Turn};
use serde_json::{Value, json};

/// The thread waits for a decision.
pub(super) const APPROVAL: &str = "waitingOnApproval";
/// The thread waits for an answer of the user.
pub(super) const USER_INPUT: &str = "waitingOnUserInput";

/// A decision on a command or a file change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Go on, this once.
    Accept,
    /// Go on, and do not ask again.
    AcceptForSession,
    /// Not this; the turn goes on.
    Decline,
    /// Not this; the turn is over.
    Cancel,
    /// A JSON-RPC error, or no decision at all.
    Bad,
}

impl Decision {
    /// Reads the answer to an approval request.
    pub(super) fn read(answer: &Result<Value, Value>) -> Self {
        let Ok(result) = answer else { return Self::Bad };
        match &result["decision"] {
            Value::String(name) => match name.as_str() {
                "accept" => Self::Accept,
                "acceptForSession" => Self::AcceptForSession,
                "decline" => Self::Decline,
                "cancel" => Self::Cancel,
                _ => Self::Bad,
            },
            Value::Object(amendment) if amendment.contains_key("acceptWithExecpolicyAmendment") => {
                Self::Accept
            }
            _ => Self::Bad,
        }
    }
}

impl Turn {
    /// Whether something has to be asked: not under `never`, nor after `acceptForSession` for the same.
    pub(super) fn must_ask(&self, what: &str) -> bool {
        let state = lock(&self.thread.state);
        state.approval_policy != json!("never") && !state.allowed.contains(what)
    }

    /// Takes the next request id. The answer can come as soon as the request is out, so this comes first.
    pub(super) fn reserve_request(&mut self, flag: Option<&'static str>) -> u64 {
        let mut requests = lock(&self.shared.requests);
        let id = requests.next;
        requests.next += 1;
        requests.waiting.insert(id, self.control.clone());
        self.open.push((id, flag));
        id
    }

    /// Reports what the thread waits for, if that has changed.
    pub(super) fn report_flags(&mut self) -> Result<(), Stop> {
        let waits = |flag: &&str| self.open.iter().any(|(_, open)| *open == Some(*flag));
        let flags: Vec<&'static str> = [APPROVAL, USER_INPUT].into_iter().filter(waits).collect();
        if flags != self.flags {
            self.thread.report_active(&self.shared, &flags)?;
            self.flags = flags;
        }
        Ok(())
    }

    /// Tells that a request needs no answer any more.
    pub(super) fn resolved(&self, request: u64) -> Result<(), Stop> {
        self.notify("serverRequest/resolved", &json!({"threadId": self.thread.id, "requestId": request}))
    }

    /// Waits for the next answer and tells that it has come.
    pub(super) fn next_answer(&mut self) -> Result<(u64, Result<Value, Value>), Stop> {
        let (id, answer) = self.wait_for_answer()?;
        self.open.retain(|(open, _)| *open != id);
        self.resolved(id)?;
        Ok((id, answer))
    }

    /// Sends one request, waits for its answer and lets the model repeat it.
    fn ask_and_repeat(&mut self, method: &str, params: &str, flag: Option<&'static str>) -> Result<(), Stop> {
        let id = self.reserve_request(flag);
        self.report_flags()?;
        self.shared.out.request(id, method, params)?;
        let (_, answer) = self.next_answer()?;
        self.report_flags()?;
        self.used()?;
        let text = match answer {
            Ok(result) => result.to_string(),
            Err(error) => format!("request failed: {error}"),
        };
        self.say_done(&text)
    }

    /// `perm: DIR`.
    pub(super) fn ask_permissions(&mut self, folder: &str) -> Result<(), Stop> {
        let entry = json!({"path": {"type": "path", "path": folder}, "access": "write"});
        let files = json!({"read": null, "write": [folder], "entries": [entry]});
        let mut params = self.params();
        params["environmentId"] = json!("local");
        params["startedAtMs"] = json!(super::shapes::now_ms());
        params["cwd"] = json!(self.thread.cwd);
        params["reason"] = json!("need to write there");
        params["permissions"] = json!({"network": null, "fileSystem": files});
        self.ask_and_repeat("item/permissions/requestApproval", &params.to_string(), Some(APPROVAL))
    }

    /// `ask: QUESTION`.
    pub(super) fn ask_user(&mut self, question: &str) -> Result<(), Stop> {
        let options = json!([{"label": "Yes (Recommended)", "description": "go on"},
            {"label": "No", "description": "stop"}]);
        let mut params = self.params();
        params["questions"] = json!([{"id": "q1", "header": "Choice", "question": question, "isOther": true,
            "isSecret": false, "options": options}]);
        params["isBlocking"] = json!(true);
        params["autoResolutionMs"] = Value::Null;
        self.ask_and_repeat("item/tool/requestUserInput", &params.to_string(), Some(USER_INPUT))
    }

    /// `elicit: TEXT`.
    pub(super) fn elicit(&mut self, text: &str) -> Result<(), Stop> {
        let schema = json!({"type": "object", "properties": {"answer": {"type": "string", "title": "Answer"}},
            "required": ["answer"]});
        let params = json!({"threadId": self.thread.id, "turnId": self.id, "serverName": "stub", "mode": "form",
            "message": text, "requestedSchema": schema, "_meta": null});
        self.ask_and_repeat("mcpServer/elicitation/request", &params.to_string(), Some(APPROVAL))
    }

    /// `request: METHOD JSON`.
    pub(super) fn ask_anything(&mut self, method: &str, params: &str) -> Result<(), Stop> {
        let flag = match method {
            "item/tool/requestUserInput" => Some(USER_INPUT),
            "mcpServer/elicitation/request" => Some(APPROVAL),
            _ if method.ends_with("Approval") => Some(APPROVAL),
            _ => None,
        };
        self.ask_and_repeat(method, &self.fill_in(params), flag)
    }

    /// The parameters every request about an item has.
    fn params(&self) -> Value {
        let item = format!("call_{}_0", self.shared.item_number());
        json!({"threadId": self.thread.id, "turnId": self.id, "itemId": item})
    }
}
