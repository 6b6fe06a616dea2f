//! The protocol of sd_notify(3): a service tells its manager how it is, one datagram at a time, over the Unix socket that
//! `NOTIFY_SOCKET` names. Where there is none there is nobody to tell; what goes wrong is logged and never more.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::{debug, warn};

/// The variables of the protocol. They are for this process alone: a child that had them could speak for it, or would
/// believe that it is watched.
pub const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_PID];
const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// How long the manager may leave a datagram unread before it is dropped.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    watchdog: Option<Duration>,
    complained: AtomicBool,
}

impl Notifier {
    /// By this process's environment; `None` when no manager listens, or it cannot be reached, which is logged.
    pub fn from_env() -> Option<Self> {
        let name = std::env::var_os(SOCKET).filter(|name| !name.is_empty())?;
        let env = |name: &str| std::env::var(name).ok();
        match Self::new(&name, watchdog(&env, std::process::id())) {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                warn!("the service manager at {SOCKET}={} cannot be told anything: {error}", name.display());
                None
            }
        }
    }

    /// To the manager at this address: an absolute path, or `@` and the name of an abstract socket (Linux).
    ///
    /// # Errors
    /// An address of another kind, or what socket(2) says.
    pub fn new(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let manager = match address.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            [b'@', name @ ..] if !name.is_empty() => abstract_address(name)?,
            _ => return Err(io::Error::other("it is neither an absolute path nor @NAME")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, manager, watchdog, complained: AtomicBool::new(false) })
    }

    /// How often at least the manager wants to hear `WATCHDOG=1`, if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends assignments such as `READY=1`, one a line, in one datagram.
    pub fn send(&self, assignments: &str) {
        match self.socket.send_to_addr(assignments.as_bytes(), &self.manager) {
            Ok(_) => debug!("told the service manager: {}", assignments.escape_debug()),
            // Once: a watchdog would say it for ever.
            Err(error) if !self.complained.swap(true, Ordering::Relaxed) => {
                warn!("the service manager could not be told {}: {error}", assignments.escape_debug());
            }
            Err(_) => {}
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::other("this system has no abstract sockets"))
}

/// The interval of the watchdog, if it is meant for this process.
fn watchdog(env: &dyn Fn(&str) -> Option<String>, own_pid: u32) -> Option<Duration> {
    let micros: u64 = env(WATCHDOG)?.parse().ok().filter(|&micros| micros > 0)?;
    match env(WATCHDOG_PID) {
        Some(pid) if pid != own_pid.to_string() => None,
        _ => Some(Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_one_process() {
        let of = |micros: &str, pid: Option<&str>| {
            let env = |name: &str| match name {
                WATCHDOG => Some(micros.to_owned()),
                WATCHDOG_PID => pid.map(str::to_owned),
                _ => None,
            };
            watchdog(&env, 17)
        };
        assert_eq!(of("3000000", None), Some(Duration::from_secs(3)));
        assert_eq!(of("3000000", Some("17")), Some(Duration::from_secs(3)));
        for (micros, pid) in [("3000000", Some("18")), ("0", None), ("soon", None), ("-1", None)] {
            assert_eq!(of(micros, pid), None, "{micros} {pid:?}");
        }
    }

    #[test]
    fn addresses_of_other_kinds_are_refused() {
        for address in ["vsock:2:1234", "relative", "", "@"] {
            assert!(Notifier::new(OsStr::new(address), None).is_err(), "{address}");
        }
    }
}
