//! Everything that broken or hostile clients do with HTTP, against the real program: each gets the right answer in
//! JSON, and `/healthz` answers all the while. `--nocapture` shows the table.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::DEADLINE;
use crate::client::{Client, authority, read_answer};
use crate::daemon::Daemon;
use crate::watch::{Table, Watch, held};

/// /healthz answers within this, whatever goes on.
const PROMPT: Duration = Duration::from_secs(2);
const MIB: usize = 1024 * 1024;

/// A request as text: `{H}` is the right Host line, `{J}` the right content type.
fn request(text: &str, host: &str) -> Vec<u8> {
    text.replace("{H}", &format!("Host: {host}\r\n"))
        .replace("{J}", "Content-Type: application/json\r\n")
        .into_bytes()
}

const GET: &str = "GET /v1/codexd/runs HTTP/1.1\r\n{H}";
const POST: &str = "POST /v1/codexd/runs HTTP/1.1\r\n{H}{J}";

/// Every answer on a connection: status and error code (`ok` for none), in order.
fn answers(client: &Client, bytes: &[u8]) -> Vec<String> {
    let mut stream = client.connect();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        all.extend_from_slice(&chunk[..read]);
    }
    let mut found = Vec::new();
    let mut rest = all.as_slice();
    while let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap_or("?").to_owned();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        rest = &rest[end + 4..];
        if status == "100" {
            found.push(status);
            continue;
        }
        assert!(!head.contains("access-control-"), "{head}");
        assert_eq!(field("content-type:"), Some("application/json; charset=utf-8"), "{head}");
        let length: usize = field("content-length:").and_then(|text| text.parse().ok()).expect("a length");
        let body: serde_json::Value = serde_json::from_slice(&rest[..length]).expect("JSON");
        rest = &rest[length..];
        let code = body["error"].as_str().unwrap_or("ok");
        assert_eq!(body["ok"], code == "ok", "{body}");
        if status == "405" {
            assert!(field("allow:").is_some(), "{head}");
        }
        if status == "426" {
            assert_eq!(field("sec-websocket-version:"), Some("13"), "{head}");
        }
        found.push(format!("{status} {code}"));
    }
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(rest));
    found
}

/// What is answered at once. Each case on a connection of its own.
fn quick_cases() -> Vec<(&'static str, String, &'static str)> {
    let post = |rest: &str| format!("{POST}{rest}");
    let get = |rest: &str| format!("{GET}{rest}\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\n{{H}}\r\n");
    let json = |body: &str| format!("{POST}Content-Length: {}\r\n\r\n{body}", body.len());
    let line = |line: &str| format!("{line}\r\n{{H}}\r\n");
    let upgrade = |fields: &str| {
        format!(
            "GET /v1/codexd/events HTTP/1.1\r\n{{H}}Connection: Upgrade\r\nUpgrade: websocket\r\n{fields}\r\n"
        )
    };
    const KEY: &str = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    const V13: &str = "Sec-WebSocket-Version: 13\r\n";
    let bad = "400 bad_request";
    let deep = format!("{{\"config\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        ("nothing at all", String::new(), ""),
        ("a right request", get(""), "200 ok"),
        // Framing.
        ("Content-Length twice, equal", post("Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"), bad),
        ("Content-Length twice, different", post("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "), bad),
        ("Content-Length as a list", post("Content-Length: 2, 2\r\n\r\n{}"), bad),
        ("Content-Length: -1", post("Content-Length: -1\r\n\r\n{}"), bad),
        ("Content-Length: +2", post("Content-Length: +2\r\n\r\n{}"), bad),
        ("Content-Length: 0x2", post("Content-Length: 0x2\r\n\r\n{}"), bad),
        (
            "Content-Length: 2 of 3 bytes, then a request",
            format!("{}{}", post("Content-Length: 2\r\n\r\n{}x"), get("")),
            "400 bad_request, 405 method_not_allowed",
        ),
        ("Content-Length: 10^12", post("Content-Length: 1000000000000\r\n\r\n{}"), "413 payload_too_large"),
        (
            "Content-Length: 10^30",
            post(&format!("Content-Length: 1{}\r\n\r\n{{}}", "0".repeat(30))),
            "413 payload_too_large",
        ),
        (
            "Content-Length on a GET",
            format!("{}{}", GET.to_owned() + "Content-Length: 2\r\n\r\n{}", get("")),
            "200 ok, 200 ok",
        ),
        ("a body that ends early", post("Content-Length: 20\r\n\r\n{}"), bad),
        ("no length", post("\r\n"), bad),
        (
            "Content-Length and Transfer-Encoding",
            format!("{}{}", post(&format!("Content-Length: 4\r\n{chunked}\r\n0\r\n\r\n")), get("")),
            bad,
        ),
        (
            "Transfer-Encoding: gzip, chunked",
            post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            "501 not_implemented",
        ),
        (
            "Transfer-Encoding: xchunked",
            post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            "501 not_implemented",
        ),
        (
            "Transfer-Encoding: chunked, chunked",
            post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
            bad,
        ),
        ("Transfer-Encoding twice", post(&format!("{chunked}{chunked}\r\n0\r\n\r\n")), bad),
        (
            "Transfer-Encoding with a tab",
            post("Transfer-Encoding:\tchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
            bad,
        ),
        ("Transfer-Encoding : chunked", post("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), bad),
        (
            "chunked, HTTP/1.0",
            format!("POST /v1/codexd/runs HTTP/1.0\r\n{{H}}{{J}}{chunked}\r\n0\r\n\r\n"),
            bad,
        ),
        (
            "a chunked body",
            post(&format!("{chunked}\r\n1\r\n{{\r\n1;a=b\r\n}}\r\n0\r\nTrailer: x\r\n\r\n")),
            bad,
        ),
        ("chunk size -1", post(&format!("{chunked}\r\n-1\r\n")), bad),
        (
            "chunk size 2^64-1",
            post(&format!("{chunked}\r\nffffffffffffffff\r\n{{}}")),
            "413 payload_too_large",
        ),
        (
            "chunk size of 17 digits",
            post(&format!("{chunked}\r\n00000000000000002\r\n{{}}\r\n0\r\n\r\n")),
            bad,
        ),
        ("a chunk longer than its size", post(&format!("{chunked}\r\n1\r\n{{}}\r\n0\r\n\r\n")), bad),
        ("chunks with bare LF", post(&format!("{chunked}\r\n2\n{{}}\n0\n\n")), bad),
        ("a chunked body that ends early", post(&format!("{chunked}\r\n5\r\n{{}}")), bad),
        (
            "an endless trailer",
            post(&format!("{chunked}\r\n0\r\n{}", "x: y\r\n".repeat(100_000))),
            "413 payload_too_large",
        ),
        ("an endless chunk extension", post(&format!("{chunked}\r\n1;{}", "x".repeat(100_000))), bad),
        (
            "300,000 chunks of one byte",
            post(&format!("{chunked}\r\n{}0\r\n\r\n", "1\r\n \r\n".repeat(300_000))),
            "413 payload_too_large",
        ),
        (
            "no Content-Length, HTTP/1.0",
            "POST /v1/codexd/runs HTTP/1.0\r\n{H}{J}\r\n{}".to_owned(),
            "411 length_required",
        ),
        // Pipelining.
        (
            "ten requests at once",
            get("").repeat(10),
            "200 ok, 200 ok, 200 ok, 200 ok, 200 ok, 200 ok, 200 ok, 200 ok, 200 ok, 200 ok",
        ),
        ("a right one, then nonsense", format!("{}nonsense\r\n\r\n", get("")), "200 ok, 400 bad_request"),
        ("close, then another", format!("{}{}", get("Connection: close\r\n"), get("")), "200 ok"),
        ("empty lines before", format!("\r\n\r\n\r\n{}", get("")), "200 ok"),
        // Versions and other protocols.
        ("HTTP/1.0", "GET /healthz HTTP/1.0\r\n{H}\r\n".to_owned(), "200 ok"),
        ("HTTP/1.0 without Host", "GET /healthz HTTP/1.0\r\n\r\n".to_owned(), bad),
        ("HTTP/0.9", "GET /healthz\r\n".to_owned(), bad),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "505 http_version_not_supported"),
        ("HTTP/1.2", line("GET / HTTP/1.2"), "505 http_version_not_supported"),
        ("HTTP/3", line("GET / HTTP/3"), "505 http_version_not_supported"),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{7f}\u{3}\u{3}".to_owned(), bad),
        ("SSH", "SSH-2.0-OpenSSH_9.6\r\n".to_owned(), bad),
        (
            "Upgrade: h2c",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            "200 ok",
        ),
        // Targets.
        ("absolute-form", "GET http://{A}/healthz HTTP/1.1\r\n{H}\r\n".to_owned(), "200 ok"),
        (
            "absolute-form of another host",
            "GET http://evil.example/healthz HTTP/1.1\r\n{H}\r\n".to_owned(),
            bad,
        ),
        ("authority-form", line("CONNECT evil.example:80 HTTP/1.1"), bad),
        ("asterisk-form", line("OPTIONS * HTTP/1.1"), "404 not_found"),
        ("no slash", target("healthz"), bad),
        ("blanks in the target", target("/a b"), bad),
        ("a fragment", target("/healthz#x"), bad),
        ("not ASCII", target("/\u{e4}"), bad),
        ("/..", target("/v1/codexd/../../healthz"), "404 not_found"),
        ("//", target("//healthz"), "404 not_found"),
        ("%00", target("/v1/codexd/runs/%00"), "404 not_found"),
        ("%2e%2e%2f", target("/v1/codexd/runs/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), "404 not_found"),
        ("overlong UTF-8", target("/v1/codexd/runs/%c0%ae%c0%ae%c0%af"), "404 not_found"),
        ("half an escape", target("/v1/codexd/runs/%2"), "404 not_found"),
        ("backslashes", target("/v1/codexd\\runs"), "404 not_found"),
        ("a path of 9 KiB", target(&format!("/{}", "a".repeat(9 * 1024))), "414 uri_too_long"),
        ("an endless request line", format!("GET /{}", "a".repeat(10 * MIB)), "414 uri_too_long"),
        // Heads.
        ("NUL in a field", get("X: \0\r\n"), bad),
        ("NUL in the target", target("/\0"), bad),
        ("ESC in a field", get("X: \u{1b}[2J\r\n"), bad),
        ("bare LF", "GET /healthz HTTP/1.1\nHost: {A}\n\n".to_owned(), bad),
        ("bare CR", get("X: a\rY: b\r\n"), bad),
        ("a folded field", get("X: a\r\n b\r\n"), bad),
        ("a field without a name", get(": x\r\n"), bad),
        ("a field without a colon", get("x\r\n"), bad),
        ("101 fields", get(&"X: y\r\n".repeat(100)), "431 header_fields_too_large"),
        (
            "33 KiB of fields",
            get(&format!("X: {}\r\n", "y".repeat(33 * 1024))),
            "431 header_fields_too_large",
        ),
        ("endless fields", format!("{GET}{}", "X: y\r\n".repeat(MIB)), "431 header_fields_too_large"),
        ("no Host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned(), bad),
        ("two Hosts", get("Host: evil.example\r\n"), bad),
        // Methods.
        ("DELETE", line("DELETE /v1/codexd/runs HTTP/1.1"), "405 method_not_allowed"),
        (
            "POST /healthz",
            "POST /healthz HTTP/1.1\r\n{H}{J}Content-Length: 2\r\n\r\n{}".to_owned(),
            "405 method_not_allowed",
        ),
        ("get", line("get /v1/codexd/runs HTTP/1.1"), "405 method_not_allowed"),
        ("TRACE", line("TRACE /v1/codexd/runs HTTP/1.1"), "405 method_not_allowed"),
        (
            "a method of 1000 letters",
            line(&format!("{} /v1/codexd/runs HTTP/1.1", "A".repeat(1000))),
            "405 method_not_allowed",
        ),
        ("a method that is none", line("G@T /v1/codexd/runs HTTP/1.1"), bad),
        // Expect.
        (
            "Expect: 100-continue",
            post("Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
            "100, 400 bad_request",
        ),
        (
            "Expect, too large",
            post("Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"),
            "413 payload_too_large",
        ),
        (
            "Expect: something else",
            post("Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}"),
            "417 expectation_failed",
        ),
        // Bodies.
        (
            "no content type",
            "POST /v1/codexd/runs HTTP/1.1\r\n{H}Content-Length: 2\r\n\r\n{}".to_owned(),
            "415 unsupported_media_type",
        ),
        (
            "text/plain",
            "POST /v1/codexd/runs HTTP/1.1\r\n{H}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
                .to_owned(),
            "415 unsupported_media_type",
        ),
        ("an empty body", json(""), bad),
        ("no JSON", json("nonsense"), bad),
        ("an array", json("[]"), bad),
        ("half of JSON", json("{\"prompt\":"), bad),
        ("NUL in JSON", json("{\"prompt\":\"\0\"}"), bad),
        ("NUL escaped in JSON", json("{\"prompt\":\"a\\u0000b\"}"), bad),
        ("half a surrogate", json("{\"prompt\":\"\\ud800\"}"), bad),
        ("100,000 arrays in each other", json(&deep), bad),
        ("100,000 open brackets", json(&"[".repeat(100_000)), bad),
        ("the same key twice, the last one wrong", json("{\"prompt\":\"x\",\"prompt\":7}"), bad),
        ("a number too large", json("{\"prompt\":\"x\",\"timeoutMs\":1e400}"), bad),
        ("5 MiB", json(&" ".repeat(5 * MIB)), "413 payload_too_large"),
        ("64 MiB", json(&" ".repeat(64 * MIB)), "413 payload_too_large"),
        (
            "64 MiB in chunks",
            post(&format!("{chunked}\r\n{}", format!("100000\r\n{}\r\n", " ".repeat(MIB)).repeat(64))),
            "413 payload_too_large",
        ),
        // Handshakes.
        (
            "WebSocket at another path",
            format!(
                "GET /v1/codexd/runs HTTP/1.1\r\n{{H}}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}{V13}\r\n"
            ),
            "404 not_found",
        ),
        (
            "WebSocket version 8",
            upgrade(&format!("{KEY}Sec-WebSocket-Version: 8\r\n")),
            "426 upgrade_required",
        ),
        (
            "WebSocket version 13, 8",
            upgrade(&format!("{KEY}Sec-WebSocket-Version: 13, 8\r\n")),
            "426 upgrade_required",
        ),
        ("WebSocket without a version", upgrade(KEY), bad),
        ("WebSocket without a key", upgrade(V13), bad),
        ("WebSocket with two keys", upgrade(&format!("{KEY}{KEY}{V13}")), bad),
        (
            "WebSocket key of 15 bytes",
            upgrade(&format!("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA\r\n{V13}")),
            bad,
        ),
        (
            "WebSocket key that is no base64",
            upgrade(&format!("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n{V13}")),
            bad,
        ),
        (
            "WebSocket without Connection",
            format!("GET /v1/codexd/events HTTP/1.1\r\n{{H}}Upgrade: websocket\r\n{KEY}{V13}\r\n"),
            bad,
        ),
        (
            "WebSocket, HTTP/1.0",
            format!(
                "GET /v1/codexd/events HTTP/1.0\r\n{{H}}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}{V13}\r\n"
            ),
            bad,
        ),
        (
            "WebSocket by POST",
            format!(
                "POST /v1/codexd/events HTTP/1.1\r\n{{H}}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}{V13}Content-Length: 0\r\n\r\n"
            ),
            bad,
        ),
        ("WebSocket with a body", upgrade(&format!("{KEY}{V13}Content-Length: 5\r\n")), bad),
    ]
}

#[test]
fn every_hostile_request_has_its_answer() {
    let _ = codexd::os::descriptors::raise_limit();
    let mut daemon = Daemon::builder().start();
    let host = authority(daemon.base()).to_owned();
    let client = daemon.client();
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
    let before = held(daemon.pid());
    let watch = Watch::start(&daemon);
    let mut table = Table::default();
    let mut wrong = Vec::new();

    // These last: they are there while others are answered.
    let crowds = [
        ("300 clients that say nothing", Crowd::new(&client, 300, b"")),
        (
            "300 clients in the middle of a head",
            Crowd::new(&client, 300, &request("GET /healthz HTTP/1.1\r\n{H}X: ", &host)),
        ),
        (
            "200 clients in the middle of a body",
            Crowd::new(&client, 200, &request(&format!("{POST}Content-Length: 1000\r\n\r\n{{"), &host)),
        ),
    ];
    for (case, text, expected) in quick_cases() {
        let bytes = request(&text.replace("{A}", &host), &host);
        let got = answers(&client, &bytes).join(", ");
        let lap = watch.lap();
        if got != expected || lap.0 > PROMPT {
            wrong.push(format!("{case}: {got}, not {expected} ({:?})", lap.0));
        }
        table.row(case, got, lap);
    }
    let invalid_utf8 = [request(&format!("{GET}X: "), &host), b"\xff\xfe\r\n\r\n".to_vec()].concat();
    let got = answers(&client, &invalid_utf8).join(", ");
    table.row("invalid UTF-8 in a field", got.clone(), watch.lap());
    assert_eq!(got, "400 bad_request");
    let invalid_utf8 =
        [request(&format!("{POST}Content-Length: 4\r\n\r\n"), &host), b"{\"\xff}".to_vec()].concat();
    let got = answers(&client, &invalid_utf8).join(", ");
    table.row("invalid UTF-8 in a body", got.clone(), watch.lap());
    assert_eq!(got, "400 bad_request");

    at_once(
        &mut table,
        &watch,
        "40 bodies of 8 MiB at once, in chunks",
        40,
        |client| {
            let body = request(
                &format!(
                    "{POST}Transfer-Encoding: chunked\r\n\r\n{}",
                    format!("100000\r\n{}\r\n", " ".repeat(MIB)).repeat(8)
                ),
                &host,
            );
            let got = answers(client, &body).join(", ");
            assert!(["413 payload_too_large", "503 unavailable"].contains(&got.as_str()), "{got}");
            got
        },
        &client,
    );
    // Before there are so many that newcomers take the places of those that say nothing.
    for (case, crowd) in crowds {
        let answers = crowd.answers();
        table.row(case, answers, watch.lap());
    }
    at_once(
        &mut table,
        &watch,
        "1000 clients that vanish in a request",
        100,
        |client| {
            for _ in 0..10 {
                let mut stream = client.connect();
                let _ = stream.write_all(&request(POST, &host));
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }
            "cut".to_owned()
        },
        &client,
    );
    at_once(
        &mut table,
        &watch,
        "1500 connections in a burst",
        300,
        |client| {
            let streams: Vec<TcpStream> = (0..5).map(|_| client.connect()).collect();
            streams.into_iter().for_each(drop);
            "closed".to_owned()
        },
        &client,
    );

    // The head's deadline is past for all; nothing of them is left.
    let until = Instant::now() + DEADLINE;
    let after = loop {
        let now = held(daemon.pid());
        if now.threads <= before.threads + 4 && now.descriptors <= before.descriptors + 8 {
            break now;
        }
        assert!(Instant::now() < until, "before: {before:?}, still held: {now:?}");
        thread::yield_now();
    };
    table.row("afterwards", "", (Duration::ZERO, after));
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
    let asked = watch.end();
    let peak = held(daemon.pid());
    table.print(&format!("hostile HTTP ({asked} times /healthz, peak {} MB)", peak.peak / 1024));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(peak.peak < 400 * 1024, "{peak:?}");
    let ended = daemon.stop();
    assert!(ended.status.success() && !ended.stderr.contains("panicked"), "{ended:?}");
}

/// Connections that have sent the same beginning and go on holding.
struct Crowd(Vec<TcpStream>);

impl Crowd {
    fn new(client: &Client, count: usize, bytes: &[u8]) -> Crowd {
        Crowd(
            (0..count)
                .map(|_| {
                    let mut stream = client.connect();
                    stream.write_all(bytes).unwrap();
                    stream
                })
                .collect(),
        )
    }

    /// What they are answered in the end, which all of them must be alike.
    fn answers(self) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        let mut seen: Vec<u16> =
            self.0.into_iter().map(|mut stream| read_answer(&mut stream, until, false).status).collect();
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
        if seen[0] == 0 { "closed".to_owned() } else { format!("{} request_timeout", seen[0]) }
    }
}

/// Does a thing in many threads at once.
fn at_once(
    table: &mut Table,
    watch: &Watch,
    case: &str,
    count: usize,
    act: impl Fn(&Client) -> String + Sync,
    client: &Client,
) {
    let mut seen: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| act(client))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    seen.sort();
    seen.dedup();
    let lap = watch.lap();
    assert!(lap.0 < PROMPT, "{case}: /healthz took {:?}", lap.0);
    table.row(case, seen.join(" or "), lap);
}
