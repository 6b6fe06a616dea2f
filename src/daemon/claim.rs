//! What a daemon needs for itself before it does anything: the lock of its state folder, that of its log, then its port.
//! Always in this order, so that of two daemons started at once one gets all.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Error, private_folder};
use crate::config::Config;
use crate::http::front_door::{Bound, FrontDoor};
use crate::os::socket;
use crate::store::lock::{self, Lock, LockError};
use crate::store::token;
use crate::threads;

/// How long a port that is taken may be another start's that has not come to its lock yet: elsewhere than on Linux, where
/// whoever has the port has the lock.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks: neither a port nor a lock tells when it is free.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What keeps other daemons away from the files.
pub(super) struct Locks {
    _state: Lock,
    _log: Lock,
}

/// The locks and the port. A second daemon is told whose the folder is, whatever else would be wrong with its start, and
/// changes nothing; a daemon whose port is taken leaves not even a folder behind.
pub(super) fn locks_and_port(config: &Config) -> Result<(Locks, Bound), Error> {
    let (paths, address) = (&config.paths, config.service.local_api_base.address);
    let of_state = (paths.lock(), "--state-dir");
    let of_log = (paths.log_lock(), "--logs-dir");
    let held = || is_held(&of_state).or_else(|| is_held(&of_log));
    if !paths.state_dir.is_dir() || !paths.logs_dir.is_dir() {
        let refusal = match socket::could_listen(address) {
            Ok(()) => held().map(Error::Lock),
            Err(source) => Some(within(held).map_or(Error::Bind { address, source }, Error::Lock)),
        };
        refusal.map_or(Ok(()), Err)?;
    }
    if let Err(wrong) = usable_token(config) {
        return Err(held().map_or(wrong, Error::Lock));
    }
    private_folder(&paths.repo_root, &paths.state_dir)?;
    let state = lock::acquire(&of_state.0, of_state.1)?;
    private_folder(&paths.repo_root, &paths.logs_dir)?;
    let log = lock::acquire(&of_log.0, of_log.1)?;
    Ok((Locks { _state: state, _log: log }, bind(address)?))
}

/// A token file that is there must be one; a missing one is made once the folders are ours.
fn usable_token(config: &Config) -> Result<(), Error> {
    match &config.service.token_file {
        Some(file) if file.exists() => Ok(token::read(file).map(drop)?),
        _ => Ok(()),
    }
}

/// Whether another daemon holds that lock, of the folder that the flag names. Changes nothing.
fn is_held((path, flag): &(PathBuf, &'static str)) -> Option<LockError> {
    let pid = lock::holder(path).ok().flatten()?;
    Some(LockError::Held { path: path.clone(), pid: pid.as_raw_pid(), flag })
}

/// The port; one that another start has only looked at is free again in a moment.
fn bind(address: SocketAddr) -> Result<Bound, Error> {
    let mut bound = FrontDoor::bind(address);
    within(|| {
        let taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        if !bound.as_ref().is_err_and(taken) {
            return Some(());
        }
        bound = FrontDoor::bind(address);
        None
    });
    bound.map_err(|source| Error::Bind { address, source })
}

/// Looks until there is something to see, but no longer than [`PATIENCE`].
fn within<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() >= deadline {
            return seen;
        }
        threads::pause(LOOK_AGAIN);
    }
}
