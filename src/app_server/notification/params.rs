//! The params of the notifications that become events of their own, and those events' details. Texts that are passed on
//! stay raw.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) delta: &'a RawValue,
    #[serde(borrow)]
    pub(super) item_id: &'a RawValue,
    #[serde(borrow)]
    pub(super) thread_id: &'a RawValue,
    #[serde(borrow)]
    pub(super) turn_id: &'a RawValue,
}

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

/// The ids by which any notification can be filtered, where its params have them.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Names<'a> {
    #[serde(borrow)]
    pub(super) thread_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) turn_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) item_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) item: Option<&'a RawValue>,
}

impl<'a> Names<'a> {
    /// The ids that the params have; an item's own id counts as its `itemId`.
    pub(super) fn of(params: &'a RawValue) -> Self {
        #[derive(Deserialize)]
        struct Item<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
        }
        let mut names: Self = serde_json::from_str(params.get()).unwrap_or_default();
        if names.item_id.is_none()
            && let Some(item) = names.item
        {
            names.item_id = serde_json::from_str::<Item<'a>>(item.get()).ok().map(|item| item.id);
        }
        names
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusDetail<'a> {
    pub(super) status: &'a RawValue,
    pub(super) thread_id: &'a str,
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
