//! The built-in stand-ins for Codex.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::stub;

/// `codexd stub-app-server [FOLDER]`: speaks the app-server protocol on standard input and output. Threads are kept in
/// FOLDER, by default in one that lasts as long as the process.
pub fn app_server(words: Vec<OsString>) -> ExitCode {
    ExitCode::from(stub::app_server_stdio(words.first().map(Path::new)))
}

/// `codexd stub-exec WORDS…`: behaves as `codex WORDS…`, the words beginning with `exec`.
pub fn exec(words: Vec<OsString>) -> ExitCode {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    ExitCode::from(stub::exec(&words, std::io::stdin(), std::io::stdout(), std::io::stderr()))
}
