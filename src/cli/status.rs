//! `codexd status`: what the state folder says, read without touching it.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;

use super::print;
use crate::config::Config;
use crate::model::record::{ChildStatus, DaemonState, Extra, Identity};
use crate::model::view::{
    EventList, IdentityView, RecentEvents, RunRegistry, SessionRegistry, Snapshot, Summary,
};
use crate::store::files::{self, Peeked};
use crate::store::lock;

/// Prints the status.
pub fn run(config: &Config, json: bool) -> ExitCode {
    let lock = config.paths.lock();
    let holder = lock::holder(&lock);
    if let Err(error) = &holder {
        print::complain(&format!("cannot tell whether a daemon runs: {}: {error}", lock.display()));
    }
    let known = holder.is_ok();
    let snapshot = snapshot(config, holder.unwrap_or(None), &mut |complaint| print::complain(&complaint));
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(error) => return print::fail(&format!("cannot show the configuration as JSON: {error}")),
    };
    let shown = if json {
        print::out_json(&snapshot)
    } else {
        // The line is of the configuration given here, as ever; the daemon that runs may have had another.
        if let Some(base) = &snapshot.daemon.resolved_base_url
            && *base != format!("http://{}", config.service.local_api_base.address)
        {
            print::complain(&format!("this daemon listens at {base}: name that with --local-api-base"));
        }
        print::out(&format!("{}\n", print::status_line(config, &Summary::from(&snapshot))))
    };
    if known { shown } else { ExitCode::FAILURE }
}

/// The snapshot by the files, without a file being made or changed. A missing file stands for its default; so does a
/// damaged one, which `complain` is told. `holder` is the daemon that runs.
///
/// # Errors
/// A configuration that cannot be JSON.
pub fn snapshot(
    config: &Config,
    holder: Option<Pid>,
    complain: &mut dyn FnMut(String),
) -> serde_json::Result<Snapshot> {
    let paths = &config.paths;
    let mut daemon = config.daemon_state(read(&paths.daemon_state(), complain));
    match holder {
        None => bury(&mut daemon),
        // It has started, or is about to end: the file is a moment behind, the lock is not.
        Some(pid) if !daemon.started => {
            daemon.started = true;
            daemon.pid = u32::try_from(pid.as_raw_pid()).ok();
        }
        Some(_) => {}
    }
    Ok(Snapshot {
        config: Arc::from(to_raw_value(&config.view())?),
        identity: read::<Identity>(&paths.identity(), complain)
            .map_or_else(|| no_identity(config), IdentityView::from),
        daemon,
        session_registry: read(&paths.session_registry(), complain)
            .unwrap_or(SessionRegistry { updated_at: None, sessions: Vec::new() }),
        run_registry: read(&paths.run_registry(), complain)
            .unwrap_or(RunRegistry { updated_at: None, runs: Vec::new() }),
        recent_events: read(&paths.recent_events(), complain).unwrap_or(RecentEvents {
            max_entries: config.event_cache_size,
            updated_at: None,
            events: EventList::default(),
        }),
    })
}

fn read<T: DeserializeOwned>(path: &Path, complain: &mut dyn FnMut(String)) -> Option<T> {
    let damage = match files::peek(path) {
        Ok(Peeked::Whole(value)) => return Some(value),
        Ok(Peeked::Missing) => return None,
        Ok(Peeked::Damaged(damage)) => damage,
        Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => return None,
        Err(error) => error.source.to_string(),
    };
    complain(format!("cannot use {}: {damage}; showing the default instead", path.display()));
    None
}

/// A process that is gone runs nothing, whatever it wrote last.
fn bury(daemon: &mut DaemonState) {
    daemon.started = false;
    daemon.pid = None;
    daemon.resolved_base_url = None;
    daemon.child.pid = None;
    daemon.child.status = match daemon.child.status {
        ChildStatus::Starting | ChildStatus::Running => ChildStatus::Stopped,
        ChildStatus::External => ChildStatus::Idle,
        ended => ended,
    };
}

fn no_identity(config: &Config) -> IdentityView {
    IdentityView {
        daemon_id: None,
        node_id: config.node_id.clone(),
        repo_root: config.paths.repo_root.to_string_lossy().into_owned(),
        created_at: None,
        version: config.version.clone(),
        extra: Extra::new(),
    }
}
