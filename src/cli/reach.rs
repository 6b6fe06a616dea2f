//! The way from an action for people to the daemon that runs.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{UsageError, folder, print, resolve};
use crate::api_client::{ApiClient, ClientError};
use crate::config::Config;
use crate::os::peer;
use crate::store::token;

/// Why an action that talks to the daemon fails.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Something on this side.
    #[error("{0}")]
    Here(String),
    /// What there is to say cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// The daemon is not there, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Problem {
    /// Says it on standard error and fails, with 2 for a wrong command line; in silence when nobody reads the output
    /// any more.
    pub fn complain(&self) -> ExitCode {
        if !matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            print::complain(&self.to_string());
        }
        match self {
            Self::Usage(_) => ExitCode::from(UsageError::EXIT),
            _ => ExitCode::FAILURE,
        }
    }

    /// With that text.
    pub fn here(text: impl Into<String>) -> Self {
        Self::Here(text.into())
    }
}

/// A client of the daemon of this configuration, with its token if it demands one.
///
/// # Errors
/// When the configuration does not say which port it is, or the token cannot be read.
pub fn client(config: &Config) -> Result<ApiClient, Problem> {
    let base = &config.service.local_api_base;
    if base.address.port() == 0 {
        return Err(Problem::here(format!(
            "{} leaves the port open: name the daemon's with --local-api-base http://127.0.0.1:PORT",
            base.text
        )));
    }
    let client = without_token(config);
    let Some(file) = &config.service.token_file else { return Ok(client) };
    match token::read(file) {
        Ok(token) => Ok(client.with_token(Some(token.expose().to_owned()))),
        Err(error) => Err(Problem::here(error.to_string())),
    }
}

/// The same without a token. It says nothing to who is known to be another user, unless that is meant.
pub fn without_token(config: &Config) -> ApiClient {
    let client = ApiClient::new(config.service.local_api_base.address);
    if config.service.allow_other_users { client } else { client.with_peer_check(peer::stranger) }
}

/// The problem, with what can be done about the usual ones.
pub fn explain(config: &Config, error: ClientError) -> Problem {
    match error {
        ClientError::Io { source, .. } => Problem::here(format!(
            "no codexd answers at {}: {source}; start one with `codexd start`, or name its port with --local-api-base",
            config.service.local_api_base.text
        )),
        ClientError::Refused { status: 401, message, .. } if config.service.token_file.is_none() => {
            Problem::here(format!("{message} Name the daemon's token file with --token-file."))
        }
        other => other.into(),
    }
}

/// The first word of an action, or standard input if that is `-`.
///
/// # Errors
/// Text that is not UTF-8 or cannot be read, or that is blank: known before a session is made for it.
pub fn prompt(words: &[OsString]) -> Result<String, Problem> {
    const WRONG: &str = "PROMPT must be UTF-8 text that is not empty";
    let mut text = words.first().and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    if text == "-" {
        text.clear();
        io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Problem::here(format!("cannot read the prompt from standard input: {error}")))?;
        // The command line was right: it is what came that is not.
        return if text.trim().is_empty() { Err(Problem::here(WRONG)) } else { Ok(text) };
    }
    if text.trim().is_empty() { Err(UsageError::new(WRONG).into()) } else { Ok(text) }
}

/// A path as it was typed, from the root on: the daemon works elsewhere.
///
/// # Errors
/// When this process's own folder is gone.
pub fn absolute(path: &str) -> Result<PathBuf, Problem> {
    let here = std::env::current_dir()
        .map_err(|error| Problem::here(format!("cannot tell the current directory: {error}")))?;
    Ok(resolve::absolute(&here, path))
}

/// The folder of `--cwd`, as [`absolute`]. The daemon is on this host, so what is no folder here is none there.
///
/// # Errors
/// As [`absolute`], and a folder that is none.
pub fn cwd(typed: Option<&str>) -> Result<Option<PathBuf>, Problem> {
    let Some(typed) = typed else { return Ok(None) };
    let cwd = absolute(typed)?;
    folder::check("--cwd", &cwd)?;
    Ok(Some(cwd))
}
