//! The service's file, and the token.

use super::{Check, Host};
use crate::os;
use crate::store::token;

/// The files that a service manager would start codexd by.
pub(super) fn service(host: &Host) -> Vec<Check> {
    const NAME: &str = "service";
    if let Some(problem) = &host.settings_problem {
        return vec![Check::fail(NAME, problem, "run `codexd service install` again")];
    }
    if host.services.is_empty() {
        return vec![Check::ok(NAME, "none is installed (codexd service install)")];
    }
    let check = |unit: &crate::cli::service::Installed| {
        let shown = unit.path.display();
        if !unit.ours {
            let what = format!("{shown} was not written by codexd: what follows may not be what it sees");
            return Check::warn(NAME, what, "move it away and run `codexd service install`");
        }
        match &unit.program {
            Some(program) if !crate::process::executable(program.as_ref()) => {
                let what = format!("{shown} starts {program}, which is no program");
                Check::fail(NAME, what, "run `codexd service install` again")
            }
            None => Check::fail(NAME, format!("{shown} is damaged"), "run `codexd service install` again"),
            Some(_) if host.seen_as.as_ref() == Some(&unit.path) => {
                Check::ok(NAME, format!("{shown}; what follows is seen with its environment"))
            }
            Some(_) => Check::ok(NAME, format!("{shown}, which is for another place")),
        }
    };
    host.services.iter().map(check).collect()
}

/// Who may use the port.
pub(super) fn access(host: &Host) -> Vec<Check> {
    const NAME: &str = "access";
    let service = &host.config.service;
    let check = match &service.token_file {
        Some(file) if !file.exists() => {
            Check::ok(NAME, format!("{} will be made with a new token at the start", file.display()))
        }
        Some(file) => match token::read(file) {
            Ok(_) => Check::ok(NAME, format!("whoever has the token in {}", file.display())),
            Err(error) => {
                Check::fail(NAME, error.to_string(), "mend or remove the file: a start makes a new one")
            }
        },
        None if service.allow_other_users => Check::warn(
            NAME,
            "every user of this host can run commands as you (--allow-other-users)",
            "add --token-file PATH",
        ),
        None if !os::peer::can_tell() => Check::warn(
            NAME,
            "every user of this host can run commands as you: this system does not tell who connects",
            "add --token-file PATH, if there are other users",
        ),
        None => Check::ok(NAME, "you and root only"),
    };
    vec![check]
}
