//! What can become of a call of the app-server.

use std::time::Duration;

use super::wire::RpcError;
use crate::hub::HubError;

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no app-server to talk to now; with the seconds after which a retry makes sense, if any does.
    #[error("{reason}")]
    Unavailable {
        /// Why.
        reason: String,
        /// When to try again.
        retry_after: Option<u32>,
    },
    /// It did not answer in time. What was asked may still happen.
    #[error("the app-server did not answer {method} within {} ms", .after.as_millis())]
    Timeout {
        /// What was asked.
        method: String,
        /// How long was waited.
        after: Duration,
    },
    /// It did not even answer `initialize` in time; with what it did instead, and what to do.
    #[error("{0}")]
    Mute(String),
    /// It refused.
    #[error("the app-server refused {method}: {error}")]
    Refused {
        /// What was asked.
        method: String,
        /// Its answer.
        error: RpcError,
    },
    /// It is no app-server that codexd can work with; what happened, and what to do.
    #[error("{0}")]
    Unfit(String),
    /// The answer is not what the protocol says.
    #[error("the app-server's answer to {method} cannot be read: {problem}")]
    Unreadable {
        /// What was asked.
        method: String,
        /// What is wrong.
        problem: String,
    },
    /// The answer came, but could not be recorded.
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl CallError {
    /// There is no connection any more, for that reason.
    pub(super) fn closed(reason: &str) -> Self {
        Self::Unavailable { reason: reason.to_owned(), retry_after: Some(1) }
    }

    pub(super) fn unreadable(method: &str, error: &serde_json::Error) -> Self {
        Self::Unreadable { method: method.to_owned(), problem: error.to_string() }
    }
}
