//! The daemon: the only place that knows all parts. Start and stop order are written here and nowhere else.
//!
//! Start: locks, port, recovery, orphans of an earlier life, hub, `daemon.started`, child, front door. Nothing but the
//! locks is written before both locks and the port are ours, and nothing listens before the child runs.
//!
//! Stop: no new work is taken, running turns may end for a while and are then interrupted, the child is ended,
//! `daemon.stopped` is logged as the last event, the hub hands it out and writes the state files, the port closes.

mod claim;
mod drain;
pub mod manager;
mod port;
mod record;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};

use crate::app_server::client::{Client, Introduction};
use crate::app_server::inbox::Inbox;
use crate::config::{Config, Endpoint, Strategy};
use crate::exec::pool::Pool;
use crate::exec::process::Shared;
use crate::http::front_door::{Bound, FrontDoor};
use crate::http::guard::Guard;
use crate::http::limits::Limits;
use crate::http::{peer, token};
use crate::hub::recover::{self, Recovered};
use crate::hub::{Hub, HubThreads};
use crate::model::view::{ServiceView, Snapshot};
use crate::ops::service::Service;
use crate::ops::{OpError, Ops, recovery};
use crate::os;
use crate::process::ledger::Ledger;
use crate::process::orphans::{self, Adoption};
use crate::store::files;
use crate::store::lock::LockError;
use crate::store::token::TokenFile;
use crate::store::{StoreError, private};
use crate::supervisor::{Parts, StartError, Supervisor};
use crate::threads::{self, Thread};
use crate::timer::{Timer, TimerThread};

use self::port::Port;

/// How long connections get to end by themselves.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is not to be had.
    #[error("cannot listen at {address}: {source} ({})", why_not(.source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What bind(2) said.
        source: std::io::Error,
    },
    /// Another daemon has the state folder or the log.
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

fn why_not(bind: &std::io::Error) -> &'static str {
    match bind.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "--local-api-base names a port that is for root; choose one above 1023"
        }
        _ => "another codexd, or --local-api-base names a port in use",
    }
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// A running daemon.
pub struct Daemon {
    ops: Arc<Ops>,
    supervisor: Supervisor,
    timer: TimerThread,
    recovery: Thread,
    hub_threads: HubThreads,
    front_door: FrontDoor,
    adoption: Option<Adoption>,
    /// Kept for the life of the daemon.
    locks: claim::Locks,
}

/// How a daemon was left.
pub struct Stopped {
    /// The port as clients saw it last.
    pub service: ServiceView,
    /// Everything.
    pub snapshot: Arc<Snapshot>,
    /// Whether the log has all that happened.
    pub logged: Result<(), OpError>,
}

impl Daemon {
    /// Starts it. When this returns, the child runs and the port answers.
    ///
    /// # Errors
    /// See [`Error`]; everything that was started is ended then.
    pub fn start(config: Config) -> Result<Self, Error> {
        let config = Arc::new(config);
        threads::set_last_words(orphans::kill_everything);
        private::mend_umask();
        os::give_memory_back();
        os::descriptors::raise_limit();
        os::descriptors::keep_inherited();
        let (locks, bound) = claim::locks_and_port(&config)?;
        let resolved = bound.local_addr();

        let guard = guard(&config, resolved.port())?;
        if config.server.strategy == Strategy::Spawn && Endpoint::is_remote(&config.server.endpoint) {
            let endpoint = &config.server.endpoint;
            warn!(
                "a child is started, {endpoint} is not connected to: that needs --server-strategy external"
            );
        }
        let adoption = Adoption::begin()
            .inspect_err(|error| warn!("orphaned descendants will not be adopted: {error}"))
            .ok();

        let Recovered { start, extras, mut repairs } = recover::recover(&config)?;
        let daemon_id = start.state.identity.as_ref().map(|identity| identity.daemon_id.clone());
        let (ledger, mut leftovers) =
            Ledger::open(&config.paths.processes(), &daemon_id.unwrap_or_default(), &mut repairs)?;
        // Who has never logged anything has never started anything.
        leftovers.unknown &= start.next_seq > 1;
        let reaped = orphans::reap(&ledger, &leftovers);
        let (hub, hub_threads) =
            Hub::start(start, config.paths.clone(), extras).map_err(system("start the hub's threads"))?;
        let service = Arc::new(Service::new(&config));
        let introduction = Introduction {
            version: config.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            endpoint: config.server.endpoint.clone(),
            timeout: config.server.call_timeout,
        };
        let client = Arc::new(Client::new(hub.clone(), introduction));
        let (timer, timer_thread) = Timer::start().map_err(system("start the timer's thread"))?;
        let inbox = Arc::new(Inbox::new(hub.clone(), Arc::clone(&client), timer, &config));
        let runs = runs(&config, &hub, Arc::clone(&ledger))?;
        let ops = Arc::new(Ops::new(Arc::clone(&config), hub, Arc::clone(&client), inbox, service, runs));

        let (revived, lives) = bounded(1);
        let running = record::start(&ops, &config, resolved, repairs, reaped)
            .and_then(|daemon_id| {
                let (hub, inbox) = (ops.hub.clone(), Arc::clone(&ops.inbox));
                let config = Arc::clone(&config);
                let parts = Parts { config, hub, client, inbox, daemon_id, ledger, revived };
                Ok(Supervisor::start(parts)?)
            })
            .and_then(|supervisor| match accompany(&ops, &supervisor, lives, bound, guard) {
                Ok((recovery, front_door)) => Ok((supervisor, recovery, front_door)),
                Err(error) => {
                    ops.hub.closing();
                    supervisor.stop();
                    Err(error)
                }
            });
        match running {
            Ok((supervisor, recovery, front_door)) => {
                ops.service.open(resolved);
                ops.hub.started();
                info!("codexd {} listens at {resolved}", env!("CARGO_PKG_VERSION"));
                Ok(Self {
                    ops,
                    supervisor,
                    timer: timer_thread,
                    recovery,
                    hub_threads,
                    front_door,
                    adoption,
                    locks,
                })
            }
            Err(error) => {
                if let Err(error) = record::stop(&ops) {
                    warn!("{error}");
                }
                hub_threads.stop();
                Err(error)
            }
        }
    }

    /// The verbs.
    pub fn ops(&self) -> &Arc<Ops> {
        &self.ops
    }

    /// Stops it, and says how it was left.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn stop(self) -> Result<Stopped, OpError> {
        let Self { ops, supervisor, timer, recovery, hub_threads, front_door, adoption, locks } = self;
        ops.hub.closing();
        drain::finish_work(&ops);
        supervisor.stop();
        drop(timer);
        // Its last call fails with the connection, and no further life is announced to it.
        recovery.join();
        if adoption.is_some() {
            orphans::end_adopted();
        }
        let logged = record::stop(&ops);
        ops.service.close();
        let status = ops.status();
        hub_threads.stop();
        front_door.close(CLOSE_GRACE);
        drop(adoption);
        drop(locks);
        status.map(|status| Stopped { service: status.service, snapshot: status.snapshot, logged })
    }
}

/// The runs' queue, its private folder empty: what an earlier life left there belongs to nobody.
fn runs(config: &Config, hub: &Hub, ledger: Arc<Ledger>) -> Result<Pool, Error> {
    let temporary = config.paths.state_dir.join("run-tmp");
    match std::fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::at("cannot empty", &temporary)(error).into());
        }
        _ => files::make_folder(&temporary)?,
    }
    let shared = Shared {
        command: config.runs.command.clone(),
        leading_args: config.runs.leading_args.clone(),
        fallback_cwd: config.paths.repo_root.clone(),
        temporary,
        logs: config.paths.logs_dir.join("runs"),
        ledger,
        starts: Mutex::default(),
    };
    Ok(Pool::new(hub.clone(), shared, config.runs.max_concurrent, config.runs.max_queued))
}

/// What runs beside the child: the recovery of sessions, and the port, which opens when the child runs.
fn accompany(
    ops: &Arc<Ops>,
    supervisor: &Supervisor,
    lives: Receiver<()>,
    bound: Bound,
    guard: Guard,
) -> Result<(Thread, FrontDoor), Error> {
    let no_door = "open the front door";
    // While the child is being started.
    let port = Arc::new(Port::new(Arc::clone(ops)));
    let prepared = bound.prepare(port, guard, Limits::default()).map_err(system(no_door))?;
    supervisor.wait_for_child()?;
    let front_door = prepared.open().map_err(system(no_door))?;
    match recovery::start(Arc::clone(ops), lives) {
        Ok(recovery) => Ok((recovery, front_door)),
        Err(error) => {
            front_door.close(Duration::ZERO);
            Err(system("start the recovery's thread")(error))
        }
    }
}

/// Makes a folder, or makes that of an older version private.
fn private_folder(root: &Path, path: &Path) -> Result<(), StoreError> {
    let mut closed = Vec::new();
    let is_new = !path.exists();
    private::folder(root, path, &mut closed)?;
    for path in closed {
        warn!("other users had access to {}; they have no more", path.display());
    }
    if is_new && let Err(error) = private::keep_out_of_git(path) {
        warn!("{} is not kept out of git: {error}", path.display());
    }
    Ok(())
}

/// Who may ask. What cannot be had is refused before anything is started.
fn guard(config: &Config, port: u16) -> Result<Guard, Error> {
    let mut guard = Guard::new(port);
    let service = &config.service;
    if let Some(file) = &service.token_file {
        guard = guard.with_token(token::check(TokenFile::open(file)?));
    }
    if service.allow_other_users {
        return Ok(guard);
    }
    if os::peer::can_tell() {
        guard = guard.with_peer(peer::check(rustix::process::geteuid().as_raw()));
    } else if service.token_file.is_none() {
        warn!(
            "this system does not tell which user connects: every user of this host can run commands through \
             codexd; give it --token-file PATH, or --allow-other-users if that is meant"
        );
    }
    Ok(guard)
}
