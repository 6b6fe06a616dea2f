//! The params of the notifications that become events of their own, and those events' details. Texts that are passed on
//! stay raw.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThreadParams {
    pub(super) thread: WithId,
}

#[derive(Deserialize)]
pub(super) struct WithId {
    pub(super) id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusParams<'a> {
    pub(super) thread_id: String,
    #[serde(borrow)]
    pub(super) status: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TurnParams {
    pub(super) thread_id: String,
    pub(super) turn: Turn,
}

#[derive(Deserialize)]
pub(super) struct Turn {
    pub(super) id: String,
    #[serde(default)]
    pub(super) status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiffParams<'a> {
    pub(super) thread_id: String,
    pub(super) turn_id: String,
    #[serde(borrow)]
    pub(super) diff: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanParams<'a> {
    pub(super) thread_id: String,
    pub(super) turn_id: String,
    #[serde(borrow, default)]
    pub(super) explanation: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) plan: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorParams<'a> {
    pub(super) thread_id: String,
    pub(super) turn_id: String,
    #[serde(default)]
    pub(super) will_retry: bool,
    #[serde(borrow)]
    pub(super) error: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OutputParams<'a> {
    #[serde(borrow)]
    pub(super) process_id: &'a RawValue,
    pub(super) stream: String,
    #[serde(borrow)]
    pub(super) delta_base64: &'a RawValue,
    #[serde(default)]
    pub(super) cap_reached: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusDetail<'a> {
    pub(super) status: &'a RawValue,
    pub(super) thread_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OutputDetail<'a> {
    pub(super) cap_reached: bool,
    pub(super) delta_base64: &'a RawValue,
    pub(super) process_id: &'a RawValue,
    pub(super) stream: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiffDetail<'a> {
    pub(super) diff: &'a RawValue,
    pub(super) thread_id: &'a str,
    pub(super) turn_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanDetail<'a> {
    pub(super) explanation: Option<&'a RawValue>,
    pub(super) plan: &'a RawValue,
    pub(super) thread_id: &'a str,
    pub(super) turn_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorDetail<'a> {
    pub(super) error: &'a RawValue,
    pub(super) thread_id: &'a str,
    pub(super) turn_id: &'a str,
    pub(super) will_retry: bool,
}
