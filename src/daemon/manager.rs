//! The service manager (systemd) is told when the daemon serves, when it stops, how it is, and that it is alive.
//!
//! The watchdog is tied to readiness in so far as a restart would mend it: `WATCHDOG=1` is sent while the hub answers. A
//! full disk, a log that takes nothing, a Codex that does not start are told (`STATUS=`), not answered with a kill: none
//! of them is better after it, and what waits for the log would be lost.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::warn;

use super::Daemon;
use crate::model::printable;
use crate::ops::ready::{Named, Readiness};
use crate::os::notify::Notifier;
use crate::threads::{self, Thread};

/// The manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    notifier: Option<Arc<Notifier>>,
    watchdog: Option<Watchdog>,
}

/// The thread `watchdog`; ends when this is dropped.
#[derive(Debug)]
struct Watchdog {
    /// Before the thread: dropping it is what ends the thread.
    _stop: Sender<()>,
    _thread: Thread,
}

/// How the daemon is, for the manager.
struct Health {
    /// Whether it would be no better off started anew.
    alive: bool,
    /// One line for a person.
    status: String,
}

impl Manager {
    /// By this process's environment.
    pub fn from_env() -> Self {
        Self { notifier: Notifier::from_env().map(Arc::new), watchdog: None }
    }

    /// The daemon serves. From here on the watchdog hears of it, if it wants to.
    pub fn ready(&mut self, daemon: &Daemon) {
        let Some(notifier) = &self.notifier else { return };
        let at = daemon.ops().service.view().resolved_base_url.unwrap_or_default();
        let serving = format!("Serving at {at}");
        notifier.send(&format!("READY=1\nSTATUS={serving}"));
        let Some(interval) = notifier.watchdog() else { return };
        let (notifier, ops) = (Arc::clone(notifier), Arc::clone(daemon.ops()));
        let told = serving.clone();
        let look = move || health(&ops.readiness(), &serving);
        match Watchdog::start(notifier, interval / 2, told, look) {
            Ok(watchdog) => self.watchdog = Some(watchdog),
            Err(error) => warn!("the service manager's watchdog will hear nothing: {error}"),
        }
    }

    /// The daemon begins to stop.
    pub fn stopping(&mut self) {
        self.watchdog = None;
        self.tell("STOPPING=1\nSTATUS=Stopping");
    }

    /// The daemon does not start.
    pub fn failed(&self, reason: &str) {
        self.tell(&format!("STATUS=Not started: {}", printable(reason)));
    }

    fn tell(&self, assignments: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.send(assignments);
        }
    }
}

fn health(readiness: &Readiness, serving: &str) -> Health {
    let checks = &readiness.checks;
    let problem = checks.named().into_iter().find(|named| !named.check.ok);
    let status = match problem {
        None => serving.to_owned(),
        Some(Named { title, check, .. }) => {
            let detail = check.detail.as_deref().unwrap_or("not well");
            format!("{serving}, but not ready: {title}: {}", printable(detail))
        }
    };
    Health { alive: checks.hub.ok, status }
}

impl Watchdog {
    fn start(
        notifier: Arc<Notifier>,
        interval: Duration,
        told: String,
        look: impl Fn() -> Health + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let thread = threads::spawn("watchdog", move || watch(&notifier, interval, told, look, &stopped))?;
        Ok(Self { _stop: stop, _thread: thread })
    }
}

/// `told`: the status that the manager knows.
fn watch(
    notifier: &Notifier,
    interval: Duration,
    mut told: String,
    look: impl Fn() -> Health,
    stopped: &Receiver<()>,
) {
    loop {
        let Health { alive, status } = look();
        let mut assignments = Vec::new();
        if alive {
            assignments.push("WATCHDOG=1".to_owned());
        }
        if told != status {
            assignments.push(format!("STATUS={status}"));
            told = status;
        }
        if !assignments.is_empty() {
            notifier.send(&assignments.join("\n"));
        }
        if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::ops::ready::{Check, Checks};

    fn readiness(hub: bool, disk: Option<&str>) -> Readiness {
        let check = |ok: bool, detail: Option<&str>| Check { ok, detail: detail.map(str::to_owned) };
        let checks = Checks {
            hub: check(hub, (!hub).then_some("the hub did not answer in time")),
            log: check(true, None),
            disk: check(disk.is_none(), disk),
            child: check(true, None),
            app_server: check(true, Some("not connected yet")),
            work: check(true, None),
        };
        Readiness { ok: hub && disk.is_none(), status: "", checks }
    }

    #[test]
    fn the_watchdog_hears_of_a_hub_that_answers_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let notifier = Arc::new(Notifier::new(path.as_os_str(), None).unwrap());
        let (send, looks) = bounded::<Readiness>(0);
        let look = move || {
            // A test that has failed waits for this thread and sends no more.
            let next = looks.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| readiness(true, None));
            health(&next, "Serving")
        };
        let watchdog =
            Watchdog::start(notifier, Duration::from_millis(1), "Serving".to_owned(), look).unwrap();
        let heard = || {
            let mut datagram = [0; 512];
            let length = manager.recv(&mut datagram).unwrap();
            String::from_utf8(datagram[..length].to_vec()).unwrap()
        };
        let full = "WATCHDOG=1\nSTATUS=Serving, but not ready: disk: full\\nup";
        for (now, expected) in [
            (readiness(true, Some("full\nup")), full),
            (readiness(true, None), "WATCHDOG=1\nSTATUS=Serving"),
            (readiness(true, None), "WATCHDOG=1"),
            (readiness(true, None), "WATCHDOG=1"),
            (readiness(true, Some("full\nup")), full),
            (readiness(false, None), "STATUS=Serving, but not ready: hub: the hub did not answer in time"),
            (readiness(true, None), "WATCHDOG=1\nSTATUS=Serving"),
        ] {
            send.send(now).unwrap();
            assert_eq!(heard(), expected);
        }
        // A hub that stays silent: nothing at all is sent, so the next thing heard is of the next look.
        send.send(readiness(false, None)).unwrap();
        assert!(heard().starts_with("STATUS="));
        send.send(readiness(false, None)).unwrap();
        send.send(readiness(true, None)).unwrap();
        assert_eq!(heard(), "WATCHDOG=1\nSTATUS=Serving");
        drop(send);
        drop(watchdog);
    }
}
