//! What a unit says, whatever manager it is for.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::flags::{FLAGS, Flag, Update};
use crate::cli::low::{Given, Setting};
use crate::cli::resolve;
use crate::config::Config;
use crate::process;

/// Variables, each once, in the order of the unit.
pub type Variables = Vec<(String, String)>;

/// Where commands are looked for beyond the installing user's own PATH.
const STANDARD: &[&str] = &[
    "/opt/homebrew/bin",
    "/opt/homebrew/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "~/.local/bin",
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
];

/// Time for what a stop does around the two timeouts that are settings: interrupting turns, killing what does not end,
/// writing the state files, closing connections.
const AROUND: Duration = Duration::from_secs(30);

/// Everything about a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The program, an absolute path.
    pub program: String,
    /// The user's home.
    pub home: String,
    /// The repository codexd works for.
    pub repo_root: String,
    /// The logs root.
    pub logs_root: PathBuf,
    /// The PATH of the daemon and of everything it starts.
    pub path: String,
    /// The other variables: what was given to `codexd service` by flags or variables, paths absolute.
    pub variables: Variables,
    /// How long a stop may take, in seconds.
    pub stop_seconds: u64,
}

impl Plan {
    /// The service that would do what `codexd start` would do here and now, with the same flags and variables.
    ///
    /// # Errors
    /// What is not UTF-8, or not known.
    pub fn of_this_process(config: &Config, given: &Given) -> Result<Self, String> {
        let env = |name: &str| std::env::var_os(name);
        let cwd =
            std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
        let home = home()?;
        let path = env("PATH").unwrap_or_default();
        let program = program(&path)?;
        let mut variables = settings(config, given, &env, &cwd)?;
        // Where Codex keeps its login and configuration, if not in ~/.codex.
        if let Some(codex_home) = env("CODEX_HOME").filter(|value| !value.is_empty()) {
            let codex_home = text("CODEX_HOME", cwd.join(codex_home).into_os_string())?;
            variables.push(("CODEX_HOME".to_owned(), codex_home));
        }
        let stop = config.drain_timeout + config.server.stop_timeout + AROUND;
        Ok(Self {
            program: text("the path of codexd", program.into_os_string())?,
            path: search_path(&path, &home),
            home: text("HOME", home.into_os_string())?,
            repo_root: config.paths.repo_root.to_string_lossy().into_owned(),
            logs_root: config.paths.logs_root.clone(),
            variables,
            stop_seconds: stop.as_secs() + u64::from(stop.subsec_nanos() > 0),
        })
    }
}

/// The home of this user.
pub(super) fn home() -> Result<PathBuf, String> {
    std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| "HOME must be an absolute path: the service's file is in it".to_owned())
}

/// This program, by the name that stays when it is upgraded: as it is found on the PATH, if it is the same file.
fn program(path: &OsStr) -> Result<PathBuf, String> {
    let own =
        std::env::current_exe().map_err(|error| format!("cannot tell which codexd this is: {error}"))?;
    let same = |found: &PathBuf| found.canonicalize().ok() == own.canonicalize().ok();
    let on_path = process::which(path, "codexd").filter(|found| found.is_absolute()).filter(same);
    Ok(on_path.unwrap_or(own))
}

/// The installing user's PATH, then the standard folders: what that user's shell finds, the service finds.
fn search_path(path: &OsStr, home: &Path) -> String {
    let own = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let standard = STANDARD.iter().map(|folder| match folder.strip_prefix("~/") {
        Some(below) => home.join(below),
        None => PathBuf::from(folder),
    });
    let mut folders: Vec<String> = Vec::new();
    for folder in own.chain(standard) {
        let folder = folder.to_string_lossy().into_owned();
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.join(":")
}

/// The settings that were given, each under its first variable.
fn settings(
    config: &Config,
    given: &Given,
    env: &dyn Fn(&str) -> Option<OsString>,
    cwd: &Path,
) -> Result<Variables, String> {
    let mut variables = Variables::new();
    for flag in FLAGS {
        let Some(name) = flag.env.first() else { continue };
        let value = match flag.name {
            // Always there, or the service would work for the folder the manager starts it in.
            "repo-root" => Some(config.paths.repo_root.to_string_lossy().into_owned()),
            // A relative one is made absolute in a way of its own.
            "codex-command" => value(flag, given, env)?.map(|_| config.runs.command.clone()),
            _ => value(flag, given, env)?.map(|value| match flag.value() {
                Some("PATH") if flag.name != "event-stream-path" => {
                    resolve::absolute(cwd, &value).to_string_lossy().into_owned()
                }
                _ => value,
            }),
        };
        variables.extend(value.map(|value| ((*name).to_owned(), value)));
    }
    Ok(variables)
}

/// What was given, as the variable's value.
fn value(
    flag: &Flag,
    given: &Given,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, String> {
    Ok(match (flag.setting(given, env).map_err(|error| error.to_string())?, flag.update) {
        (Some(Setting::Variable(_, value)), _) => Some(value),
        (Some(Setting::Typed(_)), Update::Switch(_)) => Some("true".to_owned()),
        (Some(Setting::Typed(mut values)), Update::One(..)) => values.pop(),
        (Some(Setting::Typed(values)), Update::Many(..)) => {
            Some(serde_json::to_string(&values).map_err(|error| error.to_string())?)
        }
        (None, _) => None,
    })
}

fn text(name: &str, value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{name} must be UTF-8 text, not {}", value.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{config_of, parse};

    fn settings_of(words: &[&str], env: &[(&str, &str)]) -> Variables {
        let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let cwd = Path::new("/srv/here");
        let config = config_of(words, &env, cwd).unwrap().unwrap();
        let parse::Parsed::Act(command) = parse::parse(words.iter().map(Into::into).collect()).unwrap()
        else {
            panic!("{words:?}")
        };
        settings(&config, &command.given, &env, cwd).unwrap()
    }

    #[test]
    fn only_what_was_given_is_kept_and_paths_are_absolute() {
        assert_eq!(
            settings_of(&["start"], &[]),
            [("BAA_CODEXD_REPO_ROOT".to_owned(), "/srv/here".to_owned())]
        );
        let kept = settings_of(
            &["start", "--token-file", "../token", "--server-arg=a b", "--server-arg=c", "--require-token"],
            &[("BAA_LOGS_DIR", "logs"), ("BAA_NODE_ID", " n1 "), ("BAA_CODEXD_CODEX_COMMAND", "./codex")],
        );
        let kept: Vec<(&str, &str)> =
            kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            kept,
            [
                ("BAA_CODEXD_REPO_ROOT", "/srv/here"),
                ("BAA_NODE_ID", "n1"),
                ("BAA_CODEXD_LOGS_DIR", "/srv/here/logs"),
                ("BAA_CODEXD_TOKEN_FILE", "/srv/token"),
                ("BAA_CODEXD_REQUIRE_TOKEN", "true"),
                ("BAA_CODEXD_SERVER_ARGS", r#"["a b","c"]"#),
                ("BAA_CODEXD_CODEX_COMMAND", "/srv/here/codex"),
            ]
        );
    }

    #[test]
    fn a_service_of_what_was_kept_is_configured_alike() {
        let words = &["start", "--server-arg=x", "--state-dir", "s", "--drain-timeout-ms", "7"];
        assert_alike(words, &[("BAA_CODEXD_SERVER_ARGS", "ignored")]);
        // Arguments are passed on as they are, and a flag that is given a blank at last is not given.
        assert_alike(&["start", "--server-arg= x ", "--server-arg=\ty"], &[]);
        assert_alike(&["start", "--node-id", "n1", "--node-id= "], &[("BAA_NODE_ID", "n2")]);
        assert_alike(
            &["start"],
            &[("BAA_CODEXD_SERVER_ARGS", "  "), ("BAA_CODEXD_LOGS_DIR", " "), ("BAA_LOGS_DIR", "l")],
        );
    }

    fn assert_alike(words: &[&str], env: &[(&str, &str)]) {
        let kept = settings_of(words, env);
        let of_service =
            |name: &str| kept.iter().find(|(known, _)| known == name).map(|(_, value)| value.into());
        let of_start =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let service = config_of(&["start"], &of_service, Path::new("/")).unwrap();
        assert_eq!(
            service,
            config_of(words, &of_start, Path::new("/srv/here")).unwrap(),
            "{words:?} {kept:?}"
        );
    }

    #[test]
    fn the_users_own_path_comes_first_and_nothing_twice() {
        let path = search_path(
            OsStr::new("/home/u/.nvm/bin:relative::/usr/bin:/home/u/.nvm/bin"),
            Path::new("/home/u"),
        );
        assert_eq!(
            path,
            "/home/u/.nvm/bin:/usr/bin:/opt/homebrew/bin:/opt/homebrew/sbin:/usr/local/bin:/usr/local/sbin:\
             /home/u/.local/bin:/bin:/usr/sbin:/sbin"
        );
    }
}
