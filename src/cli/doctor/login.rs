//! Whether Codex is logged in.

use std::path::PathBuf;

use super::{Check, Host, codex};

const NAME: &str = "login";
const TODO: &str = "run `codex login` as the user that codexd runs as";

/// By Codex's own word, in the daemon's environment.
pub(super) fn status(host: &Host) -> Vec<Check> {
    if !codex::is_app_server(host) {
        return vec![Check::ok(NAME, "not asked: the app-server is not the `codex app-server` of this host")];
    }
    // That there is none is said by another check.
    let Ok(path) = codex::command(host) else { return Vec::new() };
    vec![match host.ask(&path, &["login", "status"]) {
        Ok(said) if said.code == Some(0) => Check::ok(NAME, said.last_line()),
        Ok(said) => match own_provider(host) {
            Some(file) => {
                let file = file.display();
                Check::ok(NAME, format!("{}, but {file} names a model_provider of its own", said.last_line()))
            }
            None => Check::fail(NAME, said.last_line(), TODO),
        },
        Err(problem) => Check::fail(NAME, problem, TODO),
    }]
}

/// The configuration in which a provider is named that may need no login.
fn own_provider(host: &Host) -> Option<PathBuf> {
    let home = host.variable("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(host.variable("HOME")?).join(".codex")))?;
    let file = home.join("config.toml");
    let text = std::fs::read_to_string(&file).ok()?;
    // At the top, before the first table.
    let mut top = text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let names_one = |line: &str| line.split('=').next().is_some_and(|key| key.trim() == "model_provider");
    top.any(names_one).then_some(file)
}
