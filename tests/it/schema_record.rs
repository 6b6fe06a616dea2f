//! The recorded protocol is that of the Codex that is installed.

use crate::real_codex::real_codex_or_skip;
use crate::schema::Protocol;
use crate::skipped::skipped;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schema/protocol.json");

#[test]
fn the_recorded_schema_is_that_of_the_installed_codex() {
    let codex = real_codex_or_skip!("the_recorded_schema_is_that_of_the_installed_codex");
    let installed = Protocol::of(codex.native()).unwrap();
    let old = std::fs::read_to_string(FILE).unwrap_or_default();
    let new = installed.to_text();
    if old != new && std::env::var_os("CODEXD_BLESS").is_some_and(|value| value == "1") {
        #[expect(clippy::disallowed_methods, reason = "a file of the repository, on request")]
        std::fs::write(FILE, &new).unwrap();
        return;
    }
    let recorded = Protocol::recorded();
    if recorded.version != installed.version {
        let (recorded, installed) = (recorded.version, installed.version);
        return skipped(
            "the_recorded_schema_is_that_of_the_installed_codex",
            &format!(
                "recorded is Codex {recorded}, installed is {installed}; CODEXD_BLESS=1 cargo test --test it \
                 schema_record records it"
            ),
        );
    }
    let differ: Vec<&str> =
        new.lines().filter(|line| !old.lines().any(|old| old == *line)).take(20).collect();
    assert!(
        old == new,
        "tests/schema/protocol.json is not what Codex {} generates; CODEXD_BLESS=1 cargo test --test it schema_record \
         writes it anew. Lines that are new: {differ:#?}",
        installed.version
    );
    assert_eq!(recorded, installed);
}
