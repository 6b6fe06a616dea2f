//! What Codex asks of its client, and the answers its schema wants (`codex app-server generate-json-schema`,
//! `*RequestApprovalResponse.json` and their like, and section 3 of the facts behind them in tests/it).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::wire::{METHOD_NOT_FOUND, RpcError};
use crate::model::members::Members;
use crate::model::record::RequestKind;

/// The decisions, in words; not every kind of request takes each.
pub const DECISIONS: &[&str] = &["accept", "acceptForSession", "decline", "cancel"];

/// What a client says.
#[derive(Debug, Clone)]
pub enum Proposal {
    /// `accept`, `acceptForSession`, `decline`, `cancel`, or one of the schema's structured decisions.
    Decision(Box<RawValue>),
    /// Answers to questions by their ids, or the content of a form.
    Answers(Box<RawValue>),
    /// The result as it is to be sent.
    Result(Box<RawValue>),
    /// A JSON-RPC error.
    Error(RpcError),
}

/// What is sent to Codex.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A result.
    Result(Box<RawValue>),
    /// An error.
    Error(RpcError),
}

/// An error as a record keeps it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorAnswer {
    error: RpcError,
}

impl Outcome {
    /// As a record keeps it: the result itself, or `{"error": …}`.
    pub fn to_record(&self) -> Box<RawValue> {
        match self {
            Self::Result(result) => result.clone(),
            Self::Error(error) => raw(&ErrorAnswer { error: error.clone() }),
        }
    }

    /// What a record keeps.
    pub fn of_record(answer: &RawValue) -> Self {
        match serde_json::from_str::<ErrorAnswer>(answer.get()) {
            Ok(ErrorAnswer { error }) => Self::Error(error),
            Err(_) => Self::Result(answer.to_owned()),
        }
    }

    /// As [`super::connection::Connection::respond`] takes it.
    pub fn as_ref(&self) -> Result<&RawValue, &RpcError> {
        match self {
            Self::Result(result) => Ok(result),
            Self::Error(error) => Err(error),
        }
    }
}

/// What a request of that method asks for; `None` for what codexd cannot answer for anyone: methods it does not know,
/// `account/chatgptAuthTokens/refresh` and `attestation/generate`, which need the client's own secrets, and
/// `currentTime/read`, whose answer is the client's to know.
pub fn kind(method: &str) -> Option<RequestKind> {
    Some(match method {
        "item/commandExecution/requestApproval" | "execCommandApproval" => RequestKind::Command,
        "item/fileChange/requestApproval" | "applyPatchApproval" => RequestKind::FileChange,
        "item/permissions/requestApproval" => RequestKind::Permissions,
        "item/tool/requestUserInput" => RequestKind::UserInput,
        "mcpServer/elicitation/request" => RequestKind::Elicitation,
        "item/tool/call" => RequestKind::ToolCall,
        _ => return None,
    })
}

/// The answer to send for what a client says.
///
/// # Errors
/// For what does not fit, with what does, for a person.
pub fn shape(method: &str, params: &RawValue, proposal: Proposal) -> Result<Outcome, String> {
    match proposal {
        Proposal::Error(error) => Ok(Outcome::Error(error)),
        Proposal::Result(result) if is_object(&result) => Ok(Outcome::Result(result)),
        Proposal::Result(_) => Err("`result` must be an object; it is sent to Codex as it is.".to_owned()),
        Proposal::Answers(answers) => shape_answers(method, params, &answers).map(Outcome::Result),
        Proposal::Decision(decision) => shape_decision(method, params, &decision)
            .map(Outcome::Result)
            .ok_or_else(|| format!("`decision` must be {}.", fitting(method, params))),
    }
}

/// The answer when nobody gives one: no, and the turn goes on.
pub fn decline(method: &str, params: &RawValue) -> Outcome {
    let decision = raw(&"decline");
    match shape_decision(method, params, &decision) {
        Some(result) => Outcome::Result(result),
        // Every kind can be declined; this is for methods of another version in an old record.
        None => Outcome::Error(RpcError::new(METHOD_NOT_FOUND, format!("nobody answers {method}"))),
    }
}

/// The decisions of `item/commandExecution/requestApproval` that are objects.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "snake_case", deny_unknown_fields)]
enum Structured {
    AcceptWithExecpolicyAmendment { execpolicy_amendment: Vec<String> },
    ApplyNetworkPolicyAmendment { network_policy_amendment: NetworkRule },
}

#[derive(Serialize, Deserialize)]
struct NetworkRule {
    action: NetworkAction,
    host: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum NetworkAction {
    Allow,
    Deny,
}

fn shape_decision(method: &str, params: &RawValue, decision: &RawValue) -> Option<Box<RawValue>> {
    let word: Option<String> = serde_json::from_str(decision.get()).ok();
    let word = word.as_deref().map(str::trim);
    let answer = match (method, word) {
        (
            "item/commandExecution/requestApproval" | "item/fileChange/requestApproval",
            Some("accept" | "acceptForSession" | "decline" | "cancel"),
        ) => json!({ "decision": word }),
        ("item/commandExecution/requestApproval", None) => {
            serde_json::from_str::<Structured>(decision.get()).ok()?;
            json!({ "decision": decision })
        }
        ("execCommandApproval" | "applyPatchApproval", Some(word)) => {
            json!({ "decision": match word {
                "accept" => json!("approved"),
                "acceptForSession" => json!("approved_for_session"),
                "decline" => json!({ "denied": { "rejection": "declined" } }),
                "cancel" => json!("abort"),
                _ => return None,
            } })
        }
        ("item/permissions/requestApproval", Some("accept")) => {
            json!({ "permissions": asked_permissions(params), "scope": "turn" })
        }
        ("item/permissions/requestApproval", Some("acceptForSession")) => {
            json!({ "permissions": asked_permissions(params), "scope": "session" })
        }
        ("item/permissions/requestApproval", Some("decline")) => {
            json!({ "permissions": {}, "scope": "turn" })
        }
        ("item/tool/requestUserInput", Some("decline")) => json!({ "answers": {} }),
        // A form that is accepted unseen is accepted empty; a URL has no content at all.
        ("mcpServer/elicitation/request", Some("accept")) => {
            let content = if field(params, "mode") == "url" { Value::Null } else { json!({}) };
            json!({ "action": "accept", "content": content })
        }
        ("mcpServer/elicitation/request", Some("decline" | "cancel")) => {
            json!({ "action": word, "content": null })
        }
        ("item/tool/call", Some("decline")) => {
            let text = json!({ "type": "inputText", "text": "The client declined the call." });
            json!({ "contentItems": [text], "success": false })
        }
        _ => return None,
    };
    Some(raw(&answer))
}

/// What a decision on such a request may be, for a person.
fn fitting(method: &str, params: &RawValue) -> String {
    match method {
        "item/commandExecution/requestApproval" => {
            let offered = field(params, "availableDecisions");
            let offered: Vec<String> = offered
                .as_array()
                .into_iter()
                .flatten()
                .filter(|decision| decision.is_object())
                .map(|decision| format!(", {decision}"))
                .collect();
            let structured = if offered.is_empty() {
                ", {\"acceptWithExecpolicyAmendment\":{\"execpolicy_amendment\":[WORD…]}}, \
                 {\"applyNetworkPolicyAmendment\":{\"network_policy_amendment\":{\"action\":\"allow\"|\"deny\",\
                 \"host\":HOST}}}"
                    .to_owned()
            } else {
                offered.concat()
            };
            format!("one of \"accept\", \"acceptForSession\", \"decline\", \"cancel\"{structured}")
        }
        "item/permissions/requestApproval" => {
            "one of \"accept\", \"acceptForSession\", \"decline\"".to_owned()
        }
        "item/tool/requestUserInput" => {
            format!("\"decline\"; or give `answers` to {}", question_ids(params).join(", "))
        }
        "mcpServer/elicitation/request" => {
            "one of \"accept\", \"decline\", \"cancel\"; or give `answers`, the content of the form"
                .to_owned()
        }
        "item/tool/call" => "\"decline\"; or give `result` with `contentItems` and `success`".to_owned(),
        _ => "one of \"accept\", \"acceptForSession\", \"decline\", \"cancel\"".to_owned(),
    }
}

fn shape_answers(method: &str, params: &RawValue, answers: &RawValue) -> Result<Box<RawValue>, String> {
    match method {
        "item/tool/requestUserInput" => user_input(params, answers),
        "mcpServer/elicitation/request" if is_object(answers) => {
            Ok(raw(&json!({ "action": "accept", "content": answers })))
        }
        "mcpServer/elicitation/request" => {
            Err("`answers` must be an object: the content of the form.".to_owned())
        }
        _ => Err(format!(
            "`answers` fit questions and forms only; for this request `decision` must be {}.",
            fitting(method, params)
        )),
    }
}

/// One question's answer, however a client likes to write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum GivenAnswer {
    One(String),
    Many(Vec<String>),
    AsSent { answers: Vec<String> },
}

fn user_input(params: &RawValue, answers: &RawValue) -> Result<Box<RawValue>, String> {
    let ids = question_ids(params);
    let wrong = || {
        format!(
            "`answers` must be an object with the ids of the questions ({}); each a string, an array of strings, \
             or {{\"answers\": [STRING…]}}.",
            ids.join(", ")
        )
    };
    let given: std::collections::BTreeMap<String, GivenAnswer> =
        serde_json::from_str(answers.get()).map_err(|_| wrong())?;
    // Without ids to compare with, Codex decides.
    if !ids.is_empty() && given.keys().any(|id| !ids.contains(id)) {
        return Err(wrong());
    }
    let mut answers = Map::new();
    for (id, answer) in given {
        let given = match answer {
            GivenAnswer::One(answer) => vec![answer],
            GivenAnswer::Many(answers) | GivenAnswer::AsSent { answers } => answers,
        };
        answers.insert(id, json!({ "answers": given }));
    }
    Ok(raw(&json!({ "answers": answers })))
}

fn question_ids(params: &RawValue) -> Vec<String> {
    let questions = field(params, "questions");
    let ids = questions.as_array().into_iter().flatten().filter_map(|question| question["id"].as_str());
    ids.map(str::to_owned).collect()
}

/// What was asked for, without the parts that are null: granting is exactly that and no more.
fn asked_permissions(params: &RawValue) -> Value {
    let mut asked = field(params, "permissions");
    match &mut asked {
        Value::Object(parts) => {
            parts.retain(|_, part| !part.is_null());
            asked
        }
        _ => json!({}),
    }
}

/// Only that member is looked at: whatever a later version puts beside it is in nobody's way.
fn field(params: &RawValue, name: &str) -> Value {
    let member = Members::of(params).and_then(|members| members.get(name));
    member.and_then(|member| serde_json::from_str(member.get()).ok()).unwrap_or_default()
}

fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Values and strings always serialise.
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests;
