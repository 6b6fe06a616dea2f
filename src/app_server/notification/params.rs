//! The params of the notifications that become events of their own. Where they are also that event's detail, their fields
//! stand in the order of a detail. Texts that are passed on stay raw.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Deserialize)]
pub(super) struct ThreadStarted {
    pub(super) thread: WithId,
}

#[derive(Deserialize)]
pub(super) struct WithId {
    pub(super) id: String,
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

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusChanged<'a> {
    #[serde(borrow)]
    pub(super) status: &'a RawValue,
    pub(super) thread_id: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiffUpdated<'a> {
    #[serde(borrow)]
    pub(super) diff: &'a RawValue,
    pub(super) thread_id: String,
    pub(super) turn_id: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanUpdated<'a> {
    #[serde(borrow, default)]
    pub(super) explanation: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) plan: &'a RawValue,
    pub(super) thread_id: String,
    pub(super) turn_id: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorMet<'a> {
    #[serde(borrow)]
    pub(super) error: &'a RawValue,
    pub(super) thread_id: String,
    pub(super) turn_id: String,
    #[serde(default)]
    pub(super) will_retry: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Output<'a> {
    #[serde(default)]
    pub(super) cap_reached: bool,
    #[serde(borrow)]
    pub(super) delta_base64: &'a RawValue,
    #[serde(borrow)]
    pub(super) process_id: &'a RawValue,
    pub(super) stream: String,
}
