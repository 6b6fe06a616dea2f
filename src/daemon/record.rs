//! What the log says of the daemon's own start and stop.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::Error;
use crate::app_server::inbox;
use crate::clock;
use crate::config::{Config, Strategy};
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::hub::{Core, HubError};
use crate::model::event::EventType;
use crate::model::record::Identity;
use crate::ops::{self, OpError, Ops};
use crate::process::orphans::Reaped;
use crate::store::Repair;
use crate::supervisor;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Started<'a> {
    endpoint: &'a str,
    identity: &'a Identity,
    local_api_base: &'a str,
    strategy: &'a str,
}

/// Records the start at this address, what was repaired, and the turns that the last life left in flight. Returns the
/// daemon's id.
pub(super) fn start(
    ops: &Ops,
    config: &Arc<Config>,
    address: SocketAddr,
    repairs: Vec<Repair>,
    reaped: Vec<Reaped>,
) -> Result<String, Error> {
    let config = Arc::clone(config);
    let daemon_id = ops.hub.transact(move |core, drafts| {
        core.update_daemon(|daemon| {
            daemon.started = true;
            daemon.started_at = Some(clock::now_iso());
            daemon.stopped_at = None;
            daemon.pid = Some(std::process::id());
            daemon.resolved_base_url = Some(format!("http://{address}"));
        });
        draft_started(core, drafts, &config);
        for repair in &repairs {
            drafts.push_repaired(repair);
        }
        for reaped in &reaped {
            draft_reaped(drafts, reaped);
        }
        if config.server.strategy == Strategy::Spawn {
            supervisor::turns_cut_off_by_a_crash(core, drafts);
        }
        inbox::orphan_left_over(core, drafts, &config);
        ops::runs::interrupted_by_a_crash(core, drafts);
        core.state().identity.as_ref().map(|identity| identity.daemon_id.clone())
    })?;
    daemon_id.ok_or_else(|| Error::Op(OpError::Internal("there is no identity".to_owned())))
}

fn draft_started(core: &Core, drafts: &mut Drafts, config: &Config) {
    let Some(identity) = &core.state().identity else { return };
    let strategy = config.server.strategy.as_str();
    let mode = config.server.mode.as_str();
    let detail = Started {
        endpoint: &config.server.endpoint,
        identity,
        local_api_base: &config.service.local_api_base.text,
        strategy,
    };
    drafts.push(
        EventType::DaemonStarted,
        format_args!("codexd started in {mode} mode."),
        Some(&detail),
        Subject::default(),
        Some(Change::Identity(Box::new(identity.clone()))),
    );
}

fn draft_reaped(drafts: &mut Drafts, reaped: &Reaped) {
    let Reaped { pid, purpose, owner, leader } = reaped;
    let what = match (purpose, leader) {
        (Some(purpose), true) => format!("the {purpose}"),
        (Some(purpose), false) => format!("a descendant of the {purpose}"),
        (None, _) => "a descendant of a child".to_owned(),
    };
    drafts.note(
        EventType::ChildOrphanReaped,
        format_args!("Ended process {pid}, {what} of an earlier life."),
        &serde_json::json!({ "leader": leader, "owner": owner, "pid": pid, "purpose": purpose }),
    );
}

/// The last event. What is still in flight then counts as interrupted.
pub(super) fn stop(ops: &Ops) -> Result<(), OpError> {
    let recorded = ops.hub.transact(|core, drafts| {
        core.update_daemon(|daemon| {
            daemon.started = false;
            daemon.stopped_at = Some(clock::now_iso());
            daemon.pid = None;
            daemon.resolved_base_url = None;
        });
        drafts.push(
            EventType::DaemonStopped,
            format_args!("codexd stopped."),
            None::<&()>,
            Subject::default(),
            Some(Change::DaemonStopped),
        );
    });
    recorded.map_err(|error| match error {
        HubError::Timeout => OpError::Internal(format!("daemon.stopped may not be in the log: {error}")),
        _ => OpError::Internal(format!("daemon.stopped could not be logged: {error}")),
    })
}
