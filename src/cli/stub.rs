//! The built-in stand-ins for Codex. SEAM: to be filled with the stub.

use std::ffi::OsString;
use std::process::ExitCode;

use super::print;

/// `codexd stub-app-server WORDS…`: speaks the app-server protocol on standard input and output.
pub fn app_server(words: Vec<OsString>) -> ExitCode {
    drop(words);
    print::complain("stub-app-server is not built yet");
    ExitCode::FAILURE
}

/// `codexd stub-exec WORDS…`: behaves as `codex exec WORDS…`.
pub fn exec(words: Vec<OsString>) -> ExitCode {
    drop(words);
    print::complain("stub-exec is not built yet");
    ExitCode::FAILURE
}
