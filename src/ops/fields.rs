//! The fields of a session's and a turn's body that are passed on to the app-server, declared once: validation, the
//! requests and the documentation read these tables.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::OpError;
use super::body::{Body, Kind};

/// A field that is passed on under its own name.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name, in the body and in the protocol.
    pub name: &'static str,
    /// Its type; what is inside is the app-server's business.
    pub kind: Kind,
    /// For which request: a new thread's only, or every one.
    pub only_new: bool,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, only_new: false }
}

/// `thread/start` and, but for `ephemeral`, `thread/resume`.
pub const THREAD: &[Field] = &[
    field("cwd", Kind::Text),
    field("model", Kind::Text),
    field("modelProvider", Kind::Text),
    field("serviceTier", Kind::Text),
    field("personality", Kind::Text),
    field("baseInstructions", Kind::Text),
    field("developerInstructions", Kind::Text),
    Field { name: "ephemeral", kind: Kind::Flag, only_new: true },
    field("approvalPolicy", Kind::TextOrObject),
    field("sandbox", Kind::Text),
    field("config", Kind::Object),
];

/// `turn/start`.
pub const TURN: &[Field] = &[
    field("cwd", Kind::Text),
    field("model", Kind::Text),
    field("effort", Kind::Text),
    field("serviceTier", Kind::Text),
    field("personality", Kind::Text),
    field("approvalPolicy", Kind::TextOrObject),
    field("sandboxPolicy", Kind::Object),
    field("collaborationMode", Kind::Object),
    field("outputSchema", Kind::Object),
    field("summary", Kind::Text),
];

/// Params on their way to the app-server.
pub type Params = BTreeMap<&'static str, Box<RawValue>>;

/// Takes the fields of a table out of a body.
///
/// # Errors
/// The first that has the wrong type.
pub fn collect(table: &[Field], body: &Body) -> Result<Params, OpError> {
    let mut params = Params::new();
    for field in table {
        if let Some(value) = body.passed_on(field.name, field.kind)? {
            params.insert(field.name, value);
        }
    }
    Ok(params)
}

/// Any JSON as a param.
///
/// # Errors
/// Never in practice: strings and flags always serialise.
pub fn param(value: &impl serde::Serialize) -> Result<Box<RawValue>, OpError> {
    serde_json::value::to_raw_value(value).map_err(|error| OpError::Internal(error.to_string()))
}
