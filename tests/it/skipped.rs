//! A test that cannot run here says so where a person who looks at the run sees it.

use std::io::Write;

/// Says that a test was not run, and why.
pub(crate) fn skipped(test: &str, why: &str) {
    // Not eprintln: the test runner would swallow it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test} ({why})");
}
