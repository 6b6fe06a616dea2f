//! Whether the daemon can do its work now, and if not, why.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Ops;
use crate::config::Mode;
use crate::model::record::ChildStatus;

/// The hub's deadline: it answers in microseconds unless something is wrong.
pub(super) const HUB_DEADLINE: Duration = Duration::from_secs(1);
/// Room that must be left where log and state are, in bytes.
pub const MIN_FREE: u64 = 16 * 1024 * 1024;

/// One thing that must be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether it is.
    pub ok: bool,
    /// Why not, or what there is to say.
    pub detail: Option<String>,
}

impl Check {
    fn good() -> Self {
        Self { ok: true, detail: None }
    }

    fn note(detail: impl Into<String>) -> Self {
        Self { ok: true, detail: Some(detail.into()) }
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self { ok: false, detail: Some(detail.into()) }
    }
}

/// Declares the checks: a field for each, its name in the JSON and in the metrics, what people call it, what must be so.
macro_rules! checks {
    ($($(#[$doc:meta])* $field:ident = $name:literal, $title:literal, $means:literal;)*) => {
        /// What is looked at.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct Checks {
            $($(#[$doc])* #[serde(rename = $name)] pub $field: Check,)*
        }

        impl Checks {
            /// The name of each in the JSON, and what must be so.
            pub const ALL: &'static [(&'static str, &'static str)] = &[$(($name, $means),)*];

            /// Each of them, in the same order.
            pub fn named(&self) -> [Named<'_>; Self::ALL.len()] {
                [$(Named { name: $name, title: $title, check: &self.$field },)*]
            }
        }
    };
}

/// A check and what it is called.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// In the JSON and in the metrics.
    pub name: &'static str,
    /// By people.
    pub title: &'static str,
    /// How it is.
    pub check: &'a Check,
}

checks! {
    /// The hub answers.
    hub = "hub", "hub", "the daemon's core answers";
    /// The event log takes events.
    log = "log", "log", "the event log takes events";
    /// There is room where log and state are, and the state files can be written.
    disk = "disk", "disk", "there is room";
    /// The child runs.
    child = "child", "child", "the child runs";
    /// The connection to the app-server, once there is one, is open, and it answers.
    app_server = "appServer", "app-server", "the connection to the app-server, once there is one, is open, and it answers";
    /// New work is taken: the daemon is not about to stop.
    work = "work", "work", "new work is taken";
}

/// What `GET /readyz` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every check is ok.
    pub ok: bool,
    /// The same for a person: `ready` or `unready`.
    pub status: &'static str,
    /// Each of them.
    pub checks: Checks,
}

impl Ops {
    /// Whether it can do its work now. Answers within about a second, whatever is wrong.
    pub fn readiness(&self) -> Readiness {
        let state = self.hub.ask_within(HUB_DEADLINE, |core| {
            let child = &core.state().daemon.child;
            let (stalled, unsaved) = (core.stalled().map(str::to_owned), core.unsaved().map(str::to_owned));
            (stalled, unsaved, child.status, child.last_error.clone())
        });
        let (hub, log, saved, child) = match state {
            Ok((stalled, unsaved, status, last_error)) => (
                Check::good(),
                stalled.map_or_else(Check::good, Check::bad),
                unsaved.map_or(Ok(()), Err),
                self.check_child(status, last_error),
            ),
            Err(error) => {
                let unknown = || Check::bad("unknown: the hub does not answer");
                (Check::bad(error.to_string()), unknown(), Ok(()), unknown())
            }
        };
        let paths = &self.config.paths;
        let disk = check_room(&paths.logs_dir).and_then(|()| check_room(&paths.state_dir)).and(saved);
        let checks = Checks {
            hub,
            log,
            disk: disk.map_or_else(Check::bad, |()| Check::good()),
            child,
            app_server: self.check_connection(),
            work: self
                .check_taking_work()
                .map_or_else(|error| Check::bad(error.to_string()), |()| Check::good()),
        };
        let ok = checks.named().iter().all(|named| named.check.ok);
        Readiness { ok, status: if ok { "ready" } else { "unready" }, checks }
    }

    fn check_child(&self, status: ChildStatus, last_error: Option<String>) -> Check {
        match status {
            ChildStatus::Running | ChildStatus::External => Check::good(),
            // A plain child that ended well has done its work.
            ChildStatus::Stopped if self.config.server.mode == Mode::Exec => Check::note("it has ended"),
            _ => Check::bad(last_error.unwrap_or_else(|| "it does not run".to_owned())),
        }
    }

    fn check_connection(&self) -> Check {
        if self.config.server.mode == Mode::Exec {
            return Check::note("there is none in exec mode");
        }
        match self.client.present() {
            Some(connection) => match connection.closed() {
                Some(reason) => Check::bad(reason),
                None => match connection.impression().trouble() {
                    Some(trouble) => Check::bad(trouble),
                    None if connection.is_silent() => {
                        Check::bad("it did not answer in time, and has said nothing since")
                    }
                    None if connection.was_used() => Check::good(),
                    None => Check::note("not connected yet"),
                },
            },
            None => match self.client.absence() {
                Some(reason) => Check::bad(reason),
                None => Check::note("not connected yet"),
            },
        }
    }
}

fn check_room(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let room = rustix::fs::statvfs(folder).map_err(|error| format!("{shown}: {error}"))?;
    if room.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(format!("{shown} is on a read-only file system"));
    }
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < MIN_FREE {
        return Err(format!("{shown}: only {free} bytes are free"));
    }
    // File systems without a fixed number of inodes say 0 of 0.
    if room.f_files > 0 && room.f_favail == 0 {
        return Err(format!("{shown}: no inode is free"));
    }
    Ok(())
}
