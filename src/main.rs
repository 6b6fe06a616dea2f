//! The `codexd` program.
fn main() {}
