//! What a daemon needs for itself before it does anything: the lock of its state folder, then its port. Always in this
//! order, so that of two daemons started at once one gets both.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::{Error, private_folder};
use crate::config::Config;
use crate::http::front_door::{Bound, FrontDoor};
use crate::os::socket;
use crate::store::lock::{self, Lock, LockError};

/// How long a port that is taken may be another start's that has not come to its lock yet: elsewhere than on Linux, where
/// whoever has the port has the lock.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks: neither a port nor a lock tells when it is free.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The lock and the port. A second daemon is told whose the folder is, whatever else would be wrong with its start, and
/// changes nothing; a daemon whose port is taken leaves not even a folder behind.
pub(super) fn lock_and_port(config: &Config) -> Result<(Lock, Bound), Error> {
    let (path, address) = (config.paths.lock(), config.service.local_api_base.address);
    if !config.paths.state_dir.is_dir()
        && let Err(source) = socket::could_listen(address)
    {
        let holder = within(|| lock::holder(&path).ok().flatten());
        return Err(match holder {
            Some(pid) => LockError::Held { path, pid: pid.as_raw_pid() }.into(),
            None => Error::Bind { address, source },
        });
    }
    private_folder(&config.paths.state_dir)?;
    let lock = lock::acquire(&path)?;
    Ok((lock, bind(address)?))
}

/// The port; one that another start has only looked at is free again in a moment.
fn bind(address: SocketAddr) -> Result<Bound, Error> {
    let mut problem = None;
    let bound = within(|| match FrontDoor::bind(address) {
        Ok(bound) => Some(Ok(bound)),
        Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
            problem = Some(source);
            None
        }
        Err(source) => Some(Err(source)),
    });
    let bound = bound.unwrap_or_else(|| Err(problem.unwrap_or_else(|| io::ErrorKind::AddrInUse.into())));
    bound.map_err(|source| Error::Bind { address, source })
}

/// Looks until there is something to see, but no longer than [`PATIENCE`].
fn within<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let (_keep, never) = bounded::<()>(0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() >= deadline {
            return seen;
        }
        // Nothing is ever sent: this is the timeout's wait.
        let _ = never.recv_timeout(LOOK_AGAIN);
    }
}
