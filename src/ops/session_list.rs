//! The list of sessions.

use std::sync::Arc;

use super::query::Query;
use super::{OpError, Ops};
use crate::model::record::{Session, SessionPurpose, SessionStatus};

impl Ops {
    /// The sessions that fit `status`, `purpose`, `limit` and `after`, in order of creation.
    ///
    /// # Errors
    /// For a wrong parameter.
    pub fn sessions(&self, query: &Query<'_>) -> Result<Vec<Arc<Session>>, OpError> {
        let status = query.one_of("status", SessionStatus::ALL)?;
        let purpose = query.one_of("purpose", SessionPurpose::ALL)?;
        let page = query.page()?;
        let all = self.hub.ask(|core| core.state().sessions.all().to_vec())?;
        page.take(
            &all,
            |session| &session.session_id,
            |session| {
                status.is_none_or(|status| session.status == status)
                    && purpose.is_none_or(|purpose| session.purpose == purpose)
            },
        )
    }
}
