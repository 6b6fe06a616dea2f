//! The `codexd` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    codexd::cli::main()
}
