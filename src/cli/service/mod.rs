//! `codexd service`: codexd under the host's service manager. It renders the unit, writes it, removes it, and says what
//! to type next; it never talks to the manager itself.

mod file;
mod launchd;
mod plan;
mod systemd;

use std::path::PathBuf;
use std::process::ExitCode;

use super::low::{Given, LowArgs};
use super::parse::Command;
use super::{UsageError, print};
use crate::config::Config;

pub use file::{Change, Installed};
pub use plan::{Plan, Variables};

/// The service managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// macOS: a user agent.
    Launchd,
    /// Linux: a user unit.
    Systemd,
}

impl Manager {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Launchd, Self::Systemd];

    /// The one this system has.
    pub const fn of_this_system() -> Self {
        if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd }
    }

    /// The unit's text.
    ///
    /// # Errors
    /// A value that no unit can hold.
    pub fn render(self, plan: &Plan) -> Result<String, String> {
        match self {
            Self::Launchd => launchd::render(plan),
            Self::Systemd => systemd::render(plan),
        }
    }

    /// The variables in a unit's text that [`Manager::render`] made.
    pub fn variables(self, unit: &str) -> Variables {
        match self {
            Self::Launchd => launchd::variables(unit),
            Self::Systemd => systemd::variables(unit),
        }
    }

    /// The program that such a unit starts.
    fn program(self, unit: &str) -> Option<String> {
        match self {
            Self::Launchd => launchd::program(unit),
            Self::Systemd => systemd::program(unit),
        }
    }

    /// Where the manager looks for the unit of the user with this home; `config_home`: `XDG_CONFIG_HOME`.
    pub fn path(self, home: &std::path::Path, config_home: Option<PathBuf>) -> PathBuf {
        match self {
            Self::Launchd => home.join(format!("Library/LaunchAgents/{}.plist", launchd::LABEL)),
            Self::Systemd => {
                let config = config_home.filter(|path| path.is_absolute());
                config.unwrap_or_else(|| home.join(".config")).join("systemd/user").join(systemd::UNIT)
            }
        }
    }

    /// What to type when the unit is new, was changed, or is gone.
    fn next(self, change: Change) -> &'static str {
        match (self, change) {
            (_, Change::None) => "",
            (Self::Systemd, Change::Made) => {
                "now: systemctl --user daemon-reload && systemctl --user enable --now codexd.service\n\
                 so that it also runs while you are not logged in: loginctl enable-linger\n"
            }
            (Self::Systemd, Change::Replaced) => {
                "now: systemctl --user daemon-reload && systemctl --user restart codexd.service\n"
            }
            (Self::Systemd, Change::Removed) => {
                "now: systemctl --user stop codexd.service; systemctl --user daemon-reload\n"
            }
            (Self::Launchd, Change::Made) => {
                "now: launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/so.makefile.baa-codexd.plist\n"
            }
            (Self::Launchd, Change::Replaced) => {
                // launchd refuses the new one (5: Input/output error) until the old one has ended.
                "now: launchctl bootout gui/$(id -u)/so.makefile.baa-codexd; until launchctl bootstrap gui/$(id -u) \
                 ~/Library/LaunchAgents/so.makefile.baa-codexd.plist; do sleep 1; done\n"
            }
            (Self::Launchd, Change::Removed) => {
                "now: launchctl bootout gui/$(id -u)/so.makefile.baa-codexd\n"
            }
        }
    }
}

/// The verbs, as they follow `codexd service`.
pub const VERBS: &str = "install|uninstall|print";

/// Does what the word says.
///
/// # Errors
/// A word that is no verb, or both managers at once.
pub fn run(config: &Config, low: &LowArgs, command: &Command) -> Result<ExitCode, UsageError> {
    let manager = match (low.launchd, low.systemd) {
        (false, false) => Manager::of_this_system(),
        (true, false) => Manager::Launchd,
        (false, true) => Manager::Systemd,
        (true, true) => {
            return Err(UsageError::new("--launchd and --systemd are two services: name one"));
        }
    };
    let given = &command.given;
    let verb = command.words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let done = match verb {
        "print" => Plan::of_this_process(config, given).and_then(|plan| manager.render(&plan)),
        "install" => install(manager, config, given),
        "uninstall" => uninstall(manager),
        _ => {
            let verb = crate::model::preview(verb);
            return Err(UsageError::new(format!("service takes {VERBS}, not \"{verb}\"")));
        }
    };
    Ok(match done {
        Ok(text) => print::out(&text),
        Err(problem) => print::fail(&problem),
    })
}

fn install(manager: Manager, config: &Config, given: &Given) -> Result<String, String> {
    let plan = Plan::of_this_process(config, given)?;
    let unit = manager.render(&plan)?;
    if manager == Manager::Launchd {
        // launchd opens the service's output there, and makes no folder.
        let logs = plan.logs_root.join("launchd");
        crate::store::files::make_folder(&logs).map_err(|error| error.to_string())?;
    }
    let path = own_path(manager)?;
    let change = file::install(&path, &unit)?;
    let shown = path.display();
    Ok(match change {
        Change::None => format!("nothing changed: {shown} is as it should be\n"),
        Change::Replaced => format!("replaced {shown}\n{}", manager.next(change)),
        _ => format!("wrote {shown}\n{}whether anything is missing: codexd doctor\n", manager.next(change)),
    })
}

fn uninstall(manager: Manager) -> Result<String, String> {
    let path = own_path(manager)?;
    let change = file::uninstall(&path)?;
    let shown = path.display();
    Ok(match change {
        Change::None => format!("nothing changed: there is no {shown}\n"),
        _ => format!("removed {shown}\n{}", manager.next(change)),
    })
}

/// Where this user's unit is.
fn own_path(manager: Manager) -> Result<PathBuf, String> {
    let home = plan::home()?;
    Ok(manager.path(&home, std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from)))
}

/// The units of this user that [`run`] has installed.
pub fn installed() -> Vec<Installed> {
    let look = |manager| file::look(manager, &own_path(manager).ok()?);
    Manager::ALL.into_iter().filter_map(look).collect()
}
