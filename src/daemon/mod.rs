//! The daemon: the only place that knows all parts. Start and stop order are written here and nowhere else.
//!
//! Start: port, folders, lock, recovery, hub, `daemon.started`, child, front door. Nothing is written before the port
//! is ours, and nothing listens before the child runs.
//!
//! Stop: turns are interrupted, the child is ended, `daemon.stopped` is logged as the last event, the hub hands it out and
//! writes the state files, the port closes.

mod port;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};
use serde::Serialize;

use crate::app_server::client::{Client, Introduction};
use crate::clock;
use crate::config::{Config, Strategy};
use crate::exec::pool::Pool;
use crate::exec::process::Shared;
use crate::http::front_door::{Bound, FrontDoor, Limits};
use crate::http::guard::Guard;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::hub::recover::{self, Recovered};
use crate::hub::{Core, Hub, HubThreads};
use crate::model::event::EventType;
use crate::model::record::Identity;
use crate::model::view::{ServiceView, Snapshot};
use crate::ops::service::Service;
use crate::ops::{OpError, Ops, recovery};
use crate::store::files;
use crate::store::lock::{self, Lock, LockError};
use crate::store::{Repair, StoreError};
use crate::supervisor::{self, Parts, StartError, Supervisor};
use crate::threads::{self, Thread};
use crate::{ops, os, process};

use self::port::Port;

/// How long the stop waits for the end of turns it has interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);
/// How long connections get to end by themselves.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is not to be had.
    #[error("cannot listen at {address}: {source} (another codexd, or --local-api-base names a port in use)")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What bind(2) said.
        source: std::io::Error,
    },
    /// Another daemon has the state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The child cannot be started.
    #[error(transparent)]
    Child(#[from] StartError),
    /// A thread or a socket cannot be had.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A verb failed.
    #[error(transparent)]
    Op(#[from] OpError),
}

impl From<crate::hub::HubError> for Error {
    fn from(error: crate::hub::HubError) -> Self {
        Self::Op(error.into())
    }
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// A running daemon.
pub struct Daemon {
    ops: Arc<Ops>,
    supervisor: Supervisor,
    recovery: Thread,
    hub_threads: HubThreads,
    front_door: FrontDoor,
    /// Kept for the life of the daemon.
    lock: Lock,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Started<'a> {
    endpoint: &'a str,
    identity: &'a Identity,
    local_api_base: &'a str,
    strategy: &'a str,
}

impl Daemon {
    /// Starts it. When this returns, the child runs and the port answers.
    ///
    /// # Errors
    /// See [`Error`]; everything that was started is ended then.
    pub fn start(config: Config) -> Result<Self, Error> {
        let config = Arc::new(config);
        threads::set_last_words(process::kill_all_groups);
        let address = config.service.local_api_base.address;
        let bound = FrontDoor::bind(address).map_err(|source| Error::Bind { address, source })?;
        let resolved = bound.local_addr();

        files::make_folder(&config.paths.logs_dir)?;
        files::make_folder(&config.paths.state_dir)?;
        let lock = lock::acquire(&config.paths.lock())?;
        if let Err(error) = os::become_subreaper() {
            warn!("orphaned descendants will not be adopted: {error}");
        }

        let Recovered { start, extras, repairs } = recover::recover(&config)?;
        let (hub, hub_threads) =
            Hub::start(start, config.paths.clone(), extras).map_err(system("start the hub's threads"))?;
        let service = Arc::new(Service::new(&config));
        let introduction = Introduction {
            version: config.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            endpoint: config.server.endpoint.clone(),
            timeout: config.server.call_timeout,
        };
        let client = Arc::new(Client::new(hub.clone(), introduction));
        let runs = runs(&config, &hub)?;
        let ops = Arc::new(Ops::new(Arc::clone(&config), hub, Arc::clone(&client), service, runs));

        let (revived, lives) = bounded(1);
        let running = begin(&ops, &config, repairs)
            .and_then(|daemon_id| {
                let hub = ops.hub.clone();
                let parts = Parts { config: Arc::clone(&config), hub, client, daemon_id, revived };
                Ok(Supervisor::start(parts)?)
            })
            .and_then(|supervisor| match accompany(&ops, lives, bound) {
                Ok((recovery, front_door)) => Ok((supervisor, recovery, front_door)),
                Err(error) => {
                    supervisor.stop();
                    Err(error)
                }
            });
        match running {
            Ok((supervisor, recovery, front_door)) => {
                ops.service.open(resolved);
                info!("codexd {} listens at {resolved}", env!("CARGO_PKG_VERSION"));
                Ok(Self { ops, supervisor, recovery, hub_threads, front_door, lock })
            }
            Err(error) => {
                record_stop(&ops);
                hub_threads.stop();
                Err(error)
            }
        }
    }

    /// The verbs.
    pub fn ops(&self) -> &Arc<Ops> {
        &self.ops
    }

    /// The port as clients see it.
    pub fn service(&self) -> ServiceView {
        self.ops.service.view()
    }

    /// Everything, now.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn snapshot(&self) -> Result<Snapshot, OpError> {
        Ok(self.ops.status()?.snapshot)
    }

    /// Stops it, and says how it was left.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn stop(self) -> Result<(ServiceView, Snapshot), OpError> {
        let Self { ops, supervisor, recovery, hub_threads, front_door, lock } = self;
        interrupt_turns(&ops);
        ops.runs.stop();
        supervisor.stop();
        // Its last call fails with the connection, and no further life is announced to it.
        recovery.join();
        record_stop(&ops);
        ops.service.close();
        let status = ops.status();
        hub_threads.stop();
        front_door.close(CLOSE_GRACE);
        drop(lock);
        status.map(|status| (status.service, status.snapshot))
    }
}

/// Records the start, what was repaired, and the turns that the last life left in flight. Returns the daemon's id.
fn begin(ops: &Ops, config: &Arc<Config>, repairs: Vec<Repair>) -> Result<String, Error> {
    let config = Arc::clone(config);
    let daemon_id = ops.hub.transact(move |core, drafts| {
        core.update_daemon(|daemon| {
            daemon.started = true;
            daemon.started_at = Some(clock::now_iso());
            daemon.stopped_at = None;
            daemon.pid = Some(std::process::id());
        });
        draft_started(core, drafts, &config);
        for repair in &repairs {
            draft_repaired(drafts, repair);
        }
        if config.server.strategy == Strategy::Spawn {
            supervisor::turns_cut_off_by_a_crash(core, drafts);
        }
        ops::runs::interrupted_by_a_crash(core, drafts);
        core.state().identity.as_ref().map(|identity| identity.daemon_id.clone())
    })?;
    daemon_id.ok_or_else(|| Error::Op(OpError::Internal("there is no identity".to_owned())))
}

/// The runs' queue, its private folder empty: what an earlier life left there belongs to nobody.
fn runs(config: &Config, hub: &Hub) -> Result<Pool, Error> {
    let temporary = config.paths.state_dir.join("run-tmp");
    match std::fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::at("cannot empty", &temporary)(error).into());
        }
        _ => files::make_folder(&temporary)?,
    }
    let daemon_id =
        hub.ask(|core| core.state().identity.as_ref().map(|identity| identity.daemon_id.clone()))?;
    let shared = Shared {
        command: config.runs.command.clone(),
        leading_args: config.runs.leading_args.clone(),
        fallback_cwd: config.paths.repo_root.clone(),
        temporary,
        logs: config.paths.logs_dir.join("runs"),
        daemon_id: daemon_id.unwrap_or_default(),
        starts: Mutex::default(),
    };
    Ok(Pool::new(hub.clone(), shared, config.runs.max_concurrent, config.runs.max_queued))
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

fn draft_repaired(drafts: &mut Drafts, repair: &Repair) {
    let file = repair.file.display().to_string();
    let kept_as = repair.kept_as.as_ref().map(|path| path.display().to_string());
    drafts.push(
        EventType::StoreRepaired,
        format_args!("Repaired {file}: {}.", repair.problem),
        Some(&serde_json::json!({ "file": file, "keptAs": kept_as, "problem": repair.problem })),
        Subject::default(),
        None,
    );
}

/// What runs beside the child: the recovery of sessions, and the port.
fn accompany(ops: &Arc<Ops>, lives: Receiver<()>, bound: Bound) -> Result<(Thread, FrontDoor), Error> {
    let front_door = open(ops, bound)?;
    match recovery::start(Arc::clone(ops), lives) {
        Ok(recovery) => Ok((recovery, front_door)),
        Err(error) => {
            front_door.close(Duration::ZERO);
            Err(system("start the recovery's thread")(error))
        }
    }
}

fn open(ops: &Arc<Ops>, bound: Bound) -> Result<FrontDoor, Error> {
    let guard = Guard::new(bound.local_addr().port());
    bound
        .serve(Arc::new(Port::new(Arc::clone(ops))), guard, Limits::default())
        .map_err(system("open the front door"))
}

/// Asks the app-server to interrupt the turns in flight, and waits a moment for them to end.
fn interrupt_turns(ops: &Ops) {
    let Some(connection) = ops.client.present() else { return };
    let in_flight = || {
        ops.hub.ask(|core| {
            let sessions = core.state().sessions.all().iter();
            sessions
                .filter_map(|session| Some((session.thread_id.clone()?, session.current_turn_id.clone()?)))
                .collect::<Vec<_>>()
        })
    };
    let deadline = Instant::now() + INTERRUPT_GRACE;
    for (thread, turn) in in_flight().unwrap_or_default() {
        let params = serde_json::json!({ "threadId": thread, "turnId": turn });
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(error) = connection.call("turn/interrupt", &params, left) {
            warn!("turn {turn} could not be interrupted: {error}");
        }
    }
}

/// The last event. What is still in flight then counts as interrupted.
fn record_stop(ops: &Ops) {
    let recorded = ops.hub.transact(|core, drafts| {
        core.update_daemon(|daemon| {
            daemon.started = false;
            daemon.stopped_at = Some(clock::now_iso());
            daemon.pid = None;
        });
        drafts.push(
            EventType::DaemonStopped,
            format_args!("codexd stopped."),
            None::<&()>,
            Subject::default(),
            Some(Change::DaemonStopped),
        );
    });
    if let Err(error) = recorded {
        warn!("daemon.stopped could not be logged: {error}");
    }
}
