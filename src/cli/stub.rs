//! The built-in stand-ins for Codex.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::stub;

/// `codexd stub-app-server`: speaks the app-server protocol on standard input and output. Threads are kept in the
/// folder that `CODEXD_STUB_HOME` names, by default in one of the temporary folder.
pub fn app_server(_words: Vec<OsString>) -> ExitCode {
    let home = std::env::var_os("CODEXD_STUB_HOME")
        .map_or_else(|| std::env::temp_dir().join("codexd-stub"), std::path::PathBuf::from);
    ExitCode::from(stub::app_server_stdio(&home))
}

/// `codexd stub-exec WORDS…`: behaves as `codex WORDS…`, the words beginning with `exec`.
pub fn exec(words: Vec<OsString>) -> ExitCode {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    ExitCode::from(stub::exec(&words, std::io::stdin(), std::io::stdout(), std::io::stderr()))
}
