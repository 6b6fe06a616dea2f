//! What the checks look at: this host as the daemon sees it, or would see it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;

use super::ask::{self, Asked};
use crate::api_client::ClientError;
use crate::cli::UsageError;
use crate::cli::low::{Given, LowArgs};
use crate::cli::service::{self, Installed, Manager};
use crate::cli::{config_with, reach, resolve};
use crate::config::Config;
use crate::process::{self, Spec};
use crate::store::{lock, token};

/// How long a daemon that runs may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The configuration and the environment that the daemon has, or would have, and the daemon, if it runs.
#[derive(Debug)]
pub struct Host {
    /// The configuration.
    pub config: Config,
    /// The units of this user.
    pub services: Vec<Installed>,
    /// Which of them was looked with: its environment is the daemon's.
    pub seen_as: Option<PathBuf>,
    /// Why a service's settings are of no use.
    pub settings_problem: Option<String>,
    /// Who holds the lock of the state folder, or why that cannot be told.
    pub holder: Result<Option<Pid>, String>,
    /// What answers at the port.
    pub answers: Answers,
    /// Variables that the daemon has otherwise than this process.
    variables: Vec<(OsString, Option<OsString>)>,
}

/// What answers where the daemon listens, or would.
#[derive(Debug)]
pub enum Answers {
    /// It is not known where: any free port.
    AnyPort,
    /// Nobody.
    Nobody,
    /// A codexd: its status and its readiness.
    Codexd(Box<(Value, Value)>),
    /// A codexd that does not let us in: its status, 401 or 403, and what it says.
    Closed(u16, String),
    /// Something else.
    Stranger(String),
}

impl Host {
    /// As the service sees it when one of ours is installed and nothing that was typed or set says otherwise; else as
    /// this process does.
    ///
    /// # Errors
    /// A wrong command line or environment.
    pub fn look(given: &Given, low: &LowArgs, cwd: &Path) -> Result<Self, UsageError> {
        let services = service::installed();
        let own = resolve::resolve(low.clone(), cwd)?;
        let mut host = Self {
            config: own,
            services: Vec::new(),
            seen_as: None,
            settings_problem: None,
            holder: Ok(None),
            answers: Answers::AnyPort,
            variables: Vec::new(),
        };
        let of_this_system =
            services.iter().find(|unit| unit.ours && unit.manager == Manager::of_this_system());
        if let Some(unit) = of_this_system.or(services.iter().find(|unit| unit.ours)) {
            host.take_up(unit, given, cwd);
        }
        host.services = services;
        host.holder = lock::holder(&host.config.paths.lock()).map_err(|error| error.to_string());
        host.answers = host.knock();
        Ok(host)
    }

    /// Looks with the eyes of this service, unless another daemon was meant; paths that were typed are relative to `cwd`.
    fn take_up(&mut self, unit: &Installed, given: &Given, cwd: &Path) {
        let of_unit = |name: &str| unit.variables.iter().find(|(known, _)| known == name);
        let env = |name: &str| match name.strip_prefix("BAA_") {
            Some(_) => of_unit(name).map(|(_, value)| value.into()),
            None => std::env::var_os(name),
        };
        let own = config_with(&Given::new(), &env, Path::new("/"));
        let (config, with_typed) = match own.and_then(|own| Ok((own, config_with(given, &env, cwd)?))) {
            Ok(configs) => configs,
            Err(error) => {
                self.settings_problem = Some(format!("{}: {error}", unit.path.display()));
                return;
            }
        };
        let ours = |name: &str| name.starts_with("BAA_");
        let is_set = std::env::vars_os().any(|(name, _)| name.to_str().is_some_and(ours));
        let place = ["repo-root", "state-dir", "logs-dir", "local-api-base"];
        let is_typed = given.iter().any(|(flag, _)| place.contains(&flag.name));
        if (is_set || is_typed) && config.paths.state_dir != self.config.paths.state_dir {
            return;
        }
        self.config = with_typed;
        self.seen_as = Some(unit.path.clone());
        let set = unit.variables.iter().map(|(name, value)| (name.into(), Some(value.into())));
        self.variables = set.collect();
    }

    /// What answers at the port.
    fn knock(&self) -> Answers {
        let service = &self.config.service;
        if service.local_api_base.address.port() == 0 {
            return Answers::AnyPort;
        }
        // One that cannot be read is told by a check of its own; the daemon says then that it wants one.
        let secret = service.token_file.as_ref().and_then(|file| token::read(file).ok());
        let token = secret.map(|secret| secret.expose().to_owned());
        let api = reach::without_token(&self.config).with_token(token).with_timeout(ANSWER);
        let judge = |error: ClientError| match error {
            ClientError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
                Answers::Nobody
            }
            ClientError::Refused { status: status @ (401 | 403), message, .. } => {
                Answers::Closed(status, message)
            }
            // What to do about it is said there.
            ClientError::OtherUser { uid, .. } => {
                Answers::Stranger(format!("what listens there belongs to another user (uid {uid})"))
            }
            other => Answers::Stranger(other.to_string()),
        };
        match api.get("/v1/codexd/status") {
            Ok(status) if status["snapshot"]["identity"].is_object() => {
                let ready = api.get_whole("/readyz").map_or(Value::Null, |(_, ready)| ready);
                Answers::Codexd(Box::new((status, ready)))
            }
            Ok(_) => Answers::Stranger("it does not answer like codexd".to_owned()),
            Err(error) => judge(error),
        }
    }

    /// The status of the daemon of this state folder, if it answers.
    pub fn own_status(&self) -> Option<&(Value, Value)> {
        let Answers::Codexd(answers) = &self.answers else { return None };
        let folder = answers.0["snapshot"]["config"]["paths"]["stateDir"].as_str()?;
        // By whatever name: a link may lead there.
        let whole = |folder: &Path| folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        (whole(folder.as_ref()) == whole(&self.config.paths.state_dir)).then_some(answers)
    }

    /// A variable of the daemon's environment.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        match self.variables.iter().find(|(known, _)| known == name) {
            Some((_, value)) => value.clone(),
            None => std::env::var_os(name),
        }
    }

    /// The daemon's PATH, empty if it has none.
    pub fn path(&self) -> OsString {
        self.variable("PATH").unwrap_or_default()
    }

    /// The file that a command of the daemon stands for: itself when it has a slash, else the first one on its PATH.
    ///
    /// # Errors
    /// Where it was looked for.
    pub fn find(&self, command: &str, cwd: &Path) -> Result<PathBuf, String> {
        if command.contains('/') {
            let path = cwd.join(command);
            let complaint = format!("{} is no executable file", path.display());
            return process::executable(&path).then_some(path).ok_or(complaint);
        }
        self.which(command)
            .ok_or_else(|| format!("{command} is not on PATH={}", process::shown_path(&self.path())))
    }

    /// Runs a command in the daemon's environment, with a deadline of ten seconds.
    ///
    /// # Errors
    /// That it cannot be started or does not end in time, for a person.
    pub fn ask(&self, command: &Path, args: &[&str]) -> Result<Asked, String> {
        ask::ask(&self.spec(command, args, Path::new("/")), ask::DEADLINE)
    }

    /// A command in the daemon's environment.
    pub fn spec(&self, command: &Path, args: &[&str], cwd: &Path) -> Spec {
        Spec { env: self.variables.clone(), ..ask::spec(command, args, cwd) }
    }

    /// The first executable of that name on the daemon's PATH.
    pub fn which(&self, name: &str) -> Option<PathBuf> {
        process::which(&self.path(), name)
    }
}
