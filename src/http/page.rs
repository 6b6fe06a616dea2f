//! The page at `/`: what the daemon is doing, and whether it needs somebody. Plain files, part of the binary.
//!
//! **The files need no token.** A browser cannot send a header with an address that somebody typed, so a page behind the
//! token could never ask for it. They are the same in every copy of codexd and hold no secret; what they show comes from
//! the routes, which do need it. Host, Origin and peer are checked for them as for everything else.
//!
//! **Whatever they show is text.** The policy below allows no inline script, no markup made from strings (Trusted
//! Types without any policy), nothing from elsewhere, no form target, no frame around it. `connect-src 'self'`
//! covers the WebSocket of the same host and port (CSP level 3, section 6.7.2.8).

//! **What is served is the source without its comments and indentation**, and without the spaces that separate nothing in
//! the style sheet ([`ASSETS`] has the source): they are for whoever reads them here, and would be a fifth of the page.
//! Nothing else is done to it; there is no build step.

use std::sync::LazyLock;

use super::reply::Reply;

/// One of the page's files.
#[derive(Debug)]
pub struct Asset {
    /// Its path, as the routes have it.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// The file.
    pub body: &'static str,
}

/// The type of its scripts.
pub const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($path:literal $content_type:ident $file:literal,)*) => {
        /// The page and everything it consists of.
        pub const ASSETS: &[Asset] = &[
            $(Asset { path: $path, content_type: $content_type, body: include_str!(concat!("page/", $file)) },)*
        ];
    };
}

/// The type of the page itself.
pub const HTML: &str = "text/html; charset=utf-8";
/// The type of its style sheet.
pub const STYLE: &str = "text/css; charset=utf-8";
/// The type of its icon.
pub const IMAGE: &str = "image/svg+xml";

assets! {
    "/" HTML "index.html",
    "/page/page.css" STYLE "page.css",
    "/page/icon.svg" IMAGE "icon.svg",
    "/page/api.mjs" SCRIPT "api.mjs",
    "/page/app.mjs" SCRIPT "app.mjs",
    "/page/chart.mjs" SCRIPT "chart.mjs",
    "/page/cursor.mjs" SCRIPT "cursor.mjs",
    "/page/dom.mjs" SCRIPT "dom.mjs",
    "/page/events.mjs" SCRIPT "events.mjs",
    "/page/history.mjs" SCRIPT "history.mjs",
    "/page/inbox.mjs" SCRIPT "inbox.mjs",
    "/page/overview.mjs" SCRIPT "overview.mjs",
    "/page/state.mjs" SCRIPT "state.mjs",
    "/page/stream.mjs" SCRIPT "stream.mjs",
    "/page/tail.mjs" SCRIPT "tail.mjs",
    "/page/turns.mjs" SCRIPT "turns.mjs",
}

/// What every answer with a file says besides its type.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    // Another version of codexd may serve the port next.
    ("cache-control", "no-store"),
];

/// The files as they are served, in the order of [`ASSETS`].
static SERVED: LazyLock<Vec<String>> = LazyLock::new(|| ASSETS.iter().map(serve).collect());

/// A file without lines that are only a comment or empty, without indentation, and with the version where it stands for.
fn serve(asset: &Asset) -> String {
    let comments: &[&str] = match asset.content_type {
        SCRIPT => &["//", "/*", "*"],
        STYLE => &["/*"],
        _ => &[],
    };
    let mut served = String::with_capacity(asset.body.len());
    for line in asset.body.lines().map(str::trim_start) {
        if !line.is_empty() && !comments.iter().any(|comment| line.starts_with(comment)) {
            served.push_str(line);
            served.push('\n');
        }
    }
    match asset.content_type {
        STYLE => [("; ", ";"), (": ", ":"), (" {", "{"), ("{ ", "{"), (" }", "}"), (", ", ","), (" > ", ">")]
            .iter()
            .fold(served, |served, (from, to)| served.replace(from, to)),
        HTML => served.replace("{version}", env!("CARGO_PKG_VERSION")),
        _ => served,
    }
}

/// Whether a file is there, by its path without a trailing slash.
pub fn has(path: &str) -> bool {
    find(path).is_some()
}

/// The answer with the file of that path.
pub fn reply(path: &str) -> Option<Reply> {
    let at = find(path)?;
    let body = SERVED.get(at)?.clone().into_bytes();
    let reply = Reply { status: 200, headers: Vec::new(), body };
    let reply = reply.with_header("content-type", ASSETS.get(at)?.content_type);
    Some(HEADERS.iter().fold(reply, |reply, (name, value)| reply.with_header(name, *value)))
}

fn find(path: &str) -> Option<usize> {
    ASSETS.iter().position(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the whole page as it is served.
    const MOST: usize = 60_000;

    #[test]
    fn the_whole_page_is_small() {
        let served = |path: &str| reply(path).unwrap().body.len();
        let sizes: Vec<(&str, usize)> = ASSETS.iter().map(|asset| (asset.path, served(asset.path))).collect();
        let all: usize = sizes.iter().map(|(_, size)| size).sum();
        assert!(all <= MOST, "{all} bytes of {MOST}: {sizes:?}");
    }

    #[test]
    fn every_file_is_served_and_everything_that_is_named_is_a_file() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page");
        let there = folder.read_dir().unwrap().count();
        assert_eq!(there, ASSETS.len(), "a file in src/http/page has no row in ASSETS");
        for asset in ASSETS {
            for (mark, folder) in [("from \"./", "/page/"), ("src=\"/", "/"), ("href=\"/", "/")] {
                for (at, _) in asset.body.match_indices(mark) {
                    let name = asset.body[at + mark.len()..].split('"').next().unwrap_or_default();
                    assert!(has(&format!("{folder}{name}")), "{} names {name}", asset.path);
                }
            }
        }
    }

    #[test]
    fn only_comments_are_left_out() {
        let asset = |content_type, body| Asset { path: "", content_type, body };
        let script = "// a\n/**\n * b\n */\nlet a = 1; // c\n\n  f(a\n    / 2);\n";
        assert_eq!(serve(&asset(SCRIPT, script)), "let a = 1; // c\nf(a\n/ 2);\n");
        assert_eq!(serve(&asset(STYLE, "/* a */\na {\n  b: c;\n}\n* { d: e; }\n")), "a{\nb:c;\n}\n*{d:e;}\n");
        for asset in ASSETS.iter().filter(|asset| asset.content_type != HTML) {
            for (at, line) in asset.body.lines().enumerate() {
                let line = line.trim_start();
                let comment = line.starts_with("/*") || line.starts_with('*') && asset.content_type == SCRIPT;
                let ends = line.find("*/").is_none_or(|end| line[end + 2..].is_empty());
                assert!(!comment || ends, "{}:{}: code behind a comment", asset.path, at + 1);
                // A template of several lines would lose its indentation.
                assert!(line.matches('`').count() % 2 == 0, "{}:{}: an open template", asset.path, at + 1);
            }
        }
    }

    #[test]
    fn nothing_becomes_markup_and_nothing_comes_from_elsewhere() {
        for asset in ASSETS {
            for never in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"]
            {
                assert!(!asset.body.contains(never), "{} has {never}", asset.path);
            }
            let inline = asset.path == "/"
                && ["style=", "onclick", "<style", "<script>"].iter().any(|t| asset.body.contains(t));
            assert!(!inline, "something inline that the policy would stop");
        }
    }
}
