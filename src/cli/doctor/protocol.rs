//! Whether codexd can work with this Codex: by a short talk with it, and by its own schema.

use std::path::Path;
use std::time::Duration;

use super::{Check, Host, codex};
use crate::app_server::impression;
use crate::app_server::needs;
use crate::config::Mode;
use crate::ops::drift;
use crate::store::private;
use crate::supervisor::probe;

/// How long the app-server may take for its answers; the npm wrapper needs half a second to start.
const TALK: Duration = Duration::from_secs(20);

/// What the program at `path`, which says that it is `version`, makes of the protocol.
pub(super) fn checks(host: &Host, path: &Path, version: &str) -> Vec<Check> {
    if host.config.server.mode == Mode::Exec {
        return Vec::new();
    }
    let mut checks = vec![talk(host, path)];
    if codex::is_app_server(host) {
        checks.push(schema(host, path, version));
    }
    checks
}

/// A life of the app-server that ends after its handshake.
fn talk(host: &Host, path: &Path) -> Check {
    const NAME: &str = "app-server";
    let server = &host.config.server;
    let args: Vec<&str> = server.args.iter().map(String::as_str).collect();
    let spec = host.spec(path, &args, &server.cwd);
    match probe::probe(spec, env!("CARGO_PKG_VERSION"), TALK) {
        Ok(name) => Check::ok(NAME, format!("it answers as {name}")),
        Err(problem) => {
            Check::fail(NAME, problem, "make `codex app-server` run as the user that codexd runs as")
        }
    }
}

/// What it tells of its protocol against what codexd needs, and whether anybody has tried it.
fn schema(host: &Host, path: &Path, version: &str) -> Check {
    const NAME: &str = "protocol";
    let tried = needs::tried();
    let known = tried.versions.iter().find(|known| known.version == version);
    let (first, last) = needs::tried_range();
    let was_tried = match known {
        Some(known) if known.is_usable() => format!("codex {version} was tried on {}", tried.date),
        Some(_) => format!("codex {version} was tried on {} and found wanting", tried.date),
        None => format!("codex {version} was not tried ({first} to {last} were)"),
    };
    let todo = impression::advice(Some(version));
    let differences = match differences(host, path) {
        Ok(differences) => differences,
        Err(problem) => {
            return Check::warn(NAME, format!("{was_tried}; it tells no schema: {problem}"), todo);
        }
    };
    if differences.is_empty() {
        return Check::ok(NAME, format!("{was_tried}; it has all that codexd needs"));
    }
    let vital = differences.iter().any(|difference| difference.vital);
    let texts: Vec<String> = differences.into_iter().map(|difference| difference.text).collect();
    let what = format!("{was_tried}; {}", texts.join("; "));
    if vital { Check::fail(NAME, what, todo) } else { Check::warn(NAME, what, todo) }
}

fn differences(host: &Host, path: &Path) -> Result<Vec<drift::Difference>, String> {
    let folder = private::temporary_folder(&std::env::temp_dir(), "codexd-doctor-");
    let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
    let out = folder.path().to_str().ok_or("the temporary folder has a name that is no text")?;
    let plain = ["app-server", "generate-json-schema", "--out", out];
    let mut said = host.ask(path, &[&plain[..], &["--experimental"]].concat())?;
    if said.code != Some(0) {
        // Versions before 0.100 make no difference.
        said = host.ask(path, &plain)?;
    }
    match said.code {
        Some(0) => drift::differences(folder.path()),
        _ => Err(said.first_line().to_owned()),
    }
}
