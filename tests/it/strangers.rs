//! Whoever may POST to the port runs code on the host: who is let in, and who is not. Each attack that another
//! daemon of this kind fell to stands here under its number.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Answer, Client, Stream, authority, read_answer};
use crate::conversation::until;
use crate::daemon::{Builder, Daemon};
use crate::processes;
use crate::skipped::skipped;

const JSON: (&str, &str) = ("content-type", "application/json");
/// The user that owns nothing; tests that need another user run as root only.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("what another user may do", "it needs root, so as to be another user too");
    }
    root
}

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn upgrade(host: &str, extra: &str, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{extra}\r\n"
    )
}

/// Nothing may have come of what a stranger tried.
fn assert_untouched(daemon: &Daemon) {
    assert_eq!(daemon.client().get("/v1/codexd/runs").json()["data"]["runs"], json!([]));
    assert_eq!(daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"], json!([]));
}

/// opencode: any page could POST a form or a simple fetch and have commands run.
#[test]
fn cve_2026_22812_a_page_posts_across_sites() {
    let daemon = Daemon::builder().start();
    let body = br#"{"prompt":"touch /tmp/owned"}"#;
    for origin in [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://localhost",
        "http://192.168.0.1",
        "https://127.0.0.1",
        "file://",
    ] {
        for (kind, path) in
            [("application/json", "runs"), ("text/plain", "runs"), ("application/json", "sessions")]
        {
            let path = format!("/v1/codexd/{path}");
            let answer =
                daemon.client().request("POST", &path, &[("content-type", kind), ("origin", origin)], body);
            assert_eq!(error(&answer), (403, "forbidden_origin".to_owned()), "{origin} {kind}");
            no_cors(&answer);
        }
    }
    // Without an Origin (an old browser's form): what a form can send is no JSON.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let answer = daemon.client().request("POST", "/v1/codexd/runs", &[("content-type", kind)], body);
        assert_eq!(error(&answer), (415, "unsupported_media_type".to_owned()), "{kind}");
    }
    let answer = daemon.client().request("POST", "/v1/codexd/runs", &[], body);
    assert_eq!(answer.status, 415);
    // The preflight of a fetch that does say JSON.
    let ask = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
    let answer = daemon.client().request("OPTIONS", "/v1/codexd/runs", &ask, b"");
    assert_eq!(answer.status, 403);
    no_cors(&answer);
    assert_untouched(&daemon);
}

fn no_cors(answer: &Answer) {
    assert!(!answer.headers.iter().any(|(name, _)| name.starts_with("access-control-")), "{answer:?}");
}

/// MCP Inspector and Ollama: a name of the attacker's that resolves to 127.0.0.1 makes the page same-origin.
#[test]
fn cve_2025_49596_and_cve_2024_28224_dns_rebinding() {
    let daemon = Daemon::builder().start();
    let port = authority(daemon.base()).rsplit(':').next().unwrap().to_owned();
    for host in [
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.:{port}"),
        format!("0.0.0.0:{port}"),
        format!("2130706433:{port}"),
        format!("127.0.0.1:{port}@evil.example"),
        "127.0.0.1:1".to_owned(),
        "evil.example".to_owned(),
        String::new(),
    ] {
        // The page's own origin is then its Origin too, or none at all for a GET.
        let origin = format!("http://{host}");
        for headers in [vec![("host", host.as_str()), JSON], vec![("host", &host), ("origin", &origin), JSON]]
        {
            for (method, path) in [
                ("POST", "/v1/codexd/runs"),
                ("GET", "/v1/codexd/status"),
                ("GET", "/healthz"),
                ("GET", "/nowhere"),
            ] {
                let answer = daemon.client().request(method, path, &headers, b"{\"prompt\":\"x\"}");
                assert_eq!(error(&answer), (403, "forbidden_host".to_owned()), "{host} {method} {path}");
                assert!(!answer.text().contains("snapshot"));
            }
        }
        let answer = daemon.client().raw(upgrade(&host, "", "/v1/codexd/events").as_bytes());
        assert_eq!(answer.status, 403, "{host}");
    }
    // A name in the target does not help, nor a second Host.
    let own = authority(daemon.base());
    let answer = daemon
        .client()
        .raw(format!("GET http://evil.example/v1/codexd/status HTTP/1.1\r\nHost: {own}\r\n\r\n").as_bytes());
    assert_eq!(answer.status, 400);
    let answer = daemon.client().raw(
        format!("GET /v1/codexd/status HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\n\r\n").as_bytes(),
    );
    assert_eq!(answer.status, 400);
    assert_untouched(&daemon);
}

/// Claude Code's IDE socket and vite: WebSockets are not bound by the same-origin policy, any page can open one.
#[test]
fn cve_2025_52882_and_cve_2025_24010_a_page_opens_a_websocket() {
    let daemon = Daemon::builder().start();
    let own = authority(daemon.base());
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1", "vscode-webview://x", ""] {
        let request = upgrade(own, &format!("Origin: {origin}\r\n"), "/v1/codexd/events");
        let answer = daemon.client().raw(request.as_bytes());
        assert_eq!(error(&answer), (403, "forbidden_origin".to_owned()), "{origin}");
        no_cors(&answer);
    }
    assert_eq!(daemon.client().get("/healthz").json()["service"]["websocketClients"], 0);
    // Server-Sent Events are one more way to the same stream: they answer before any body.
    let sse = ("accept", "text/event-stream");
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("host", "evil.example")] {
        let answer = daemon.client().request("GET", "/v1/codexd/events", &[sse, (name, value)], b"");
        assert_eq!(answer.status, 403, "{name}: {value}");
        no_cors(&answer);
    }
    // A page served from our own origin may.
    let own_origin = format!("http://{own}");
    Stream::try_open(daemon.ws_url(), &[("origin", &own_origin)]).unwrap().hello();
}

#[test]
fn with_a_token_nothing_but_health_answers_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/token");
    let mut daemon = Daemon::builder()
        .flags(&["--token-file", path.to_str().unwrap(), "--require-token", "--log-level", "trace"])
        .start();
    let token = fs::read_to_string(&path).unwrap().trim().to_owned();
    let bearer = format!("Bearer {token}");
    let given = ("authorization", bearer.as_str());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    let client = daemon.client();
    assert_eq!(client.get("/healthz").status, 200);
    assert_ne!(client.get("/readyz").status, 401);
    for (method, target) in [
        ("GET", "/v1/codexd/status"),
        ("GET", "/v1/codexd/sessions"),
        ("POST", "/v1/codexd/runs"),
        ("GET", "/v1/codexd/events"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        ("GET", "/healthz/../v1/codexd/status"),
        ("GET", "/healthz%2f"),
    ] {
        let wrong = format!("Bearer {}x", &token[1..]);
        let in_query = format!("{target}?token={token}");
        let sse = ("accept", "text/event-stream");
        for (target, headers) in [
            (target, vec![JSON]),
            (target, vec![JSON, ("authorization", wrong.as_str())]),
            (in_query.as_str(), vec![JSON]),
            (in_query.as_str(), vec![JSON, sse]),
        ] {
            let answer = client.request(method, target, &headers, b"{}");
            assert_eq!(error(&answer), (401, "unauthorized".to_owned()), "{method} {target} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let status = client.request("GET", "/v1/codexd/status", &[given], b"");
    assert_eq!(status.status, 200);

    // The stream: by header, and for browsers by query.
    assert_eq!(Stream::try_open(daemon.ws_url(), &[]).err().map(|answer| answer.status), Some(401));
    let wrong = format!("{}?token={}", daemon.ws_url(), &token[1..]);
    assert_eq!(Stream::try_open(&wrong, &[]).err().map(|answer| answer.status), Some(401));
    Stream::try_open(daemon.ws_url(), &[given]).unwrap().hello();
    let by_query = Stream::open(&format!("{}?token={token}", daemon.ws_url()));
    let hello = by_query.hello();

    // What a run leaves everywhere; its prompt is the environment it sees.
    let new_session = client.request("POST", "/v1/codexd/sessions", &[JSON, given], b"{\"metadata\":{}}");
    assert_eq!(new_session.status, 201, "{}", new_session.text());
    for pid in descendants(daemon.pid()) {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        for bytes in [environ, cmdline] {
            assert!(memchr::memmem::find(&bytes, token.as_bytes()).is_none(), "process {pid} has the token");
        }
    }

    // Another token in the file counts from the next request on.
    let next = "0123456789-another-token-of-some-length";
    replace(&path, next, 0o600);
    assert_eq!(client.request("GET", "/v1/codexd/status", &[given], b"").status, 401);
    let next_bearer = format!("Bearer {next}");
    let status_again = client.request("GET", "/v1/codexd/status", &[("authorization", &next_bearer)], b"");
    assert_eq!(status_again.status, 200);
    // One that others can read lets nobody in, until it is mended.
    replace(&path, next, 0o644);
    let refused = client.request("GET", "/v1/codexd/status", &[("authorization", &next_bearer)], b"");
    assert_eq!(error(&refused), (503, "unavailable".to_owned()));
    assert_eq!(client.get("/healthz").status, 200);
    replace(&path, next, 0o600);
    assert_eq!(
        client.request("GET", "/v1/codexd/status", &[("authorization", &next_bearer)], b"").status,
        200
    );

    drop(by_query);
    let ended = daemon.stop();
    let mut all = format!("{hello}{}{}{}{}", status.text(), status_again.text(), ended.stdout, ended.stderr);
    for file in
        files_below(daemon.state("").parent().unwrap()).chain(files_below(daemon.log("").parent().unwrap()))
    {
        all.push_str(&String::from_utf8_lossy(&fs::read(&file).unwrap()));
    }
    for secret in [token.as_str(), next] {
        assert!(!all.contains(secret), "the token shows");
    }
    assert!(ended.stderr.contains("mode 0644"), "{}", ended.stderr);
}

fn replace(path: &Path, text: &str, mode: u32) {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).unwrap();
    file.persist(path).unwrap();
}

fn descendants(pid: u32) -> Vec<i32> {
    let listed = codexd::os::list();
    codexd::os::descendants(pid.cast_signed(), &listed).iter().map(|process| process.pid).collect()
}

fn files_below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.into_iter()
}

#[test]
fn a_token_that_protects_nothing_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let token = "0123456789abcdefghijklmnop";
    for (text, mode, problem) in [
        ("", 0o600, "it is empty"),
        ("password", 0o600, "can be guessed"),
        (token, 0o644, "mode 0644"),
        (token, 0o660, "mode 0660"),
    ] {
        replace(&path, text, mode);
        let started = Daemon::builder().flags(&["--token-file", path.to_str().unwrap()]).try_start();
        let ended = started.err().expect("it must not start");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let line = ended.stderr.lines().last().unwrap_or_default();
        assert!(line.contains(problem) && line.contains(path.to_str().unwrap()), "{ended:?}");
    }
    let ended = Daemon::builder().flags(&["--require-token"]).try_start().err().expect("it must not start");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
}

/// What `nobody` is answered: bash speaks TCP without any tool being installed.
fn as_user(uid: u32, address: &str, request: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']);
    let script = "exec 3<>/dev/tcp/$0/$1 && printf '%b' \"$2\" >&3; timeout 20 cat <&3";
    let output = Command::new("bash")
        .args(["-c", script, host, port, request])
        .uid(uid)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "whose a connection is, is told by Linux only")]
fn another_user_of_the_host_is_refused() {
    if !is_root() {
        return;
    }
    for base in ["http://127.0.0.1:0", "http://[::1]:0"] {
        let daemon = Daemon::builder().flags(&["--local-api-base", base]).start();
        let address = authority(daemon.base());
        let host = format!("Host: {address}");
        let get = format!("GET /v1/codexd/status HTTP/1.1\\r\\n{host}\\r\\nConnection: close\\r\\n\\r\\n");
        let post = format!(
            "POST /v1/codexd/runs HTTP/1.1\\r\\n{host}\\r\\nContent-Type: application/json\\r\\n\
             Content-Length: 14\\r\\n\\r\\n{{\"prompt\":\"x\"}}"
        );
        let stream = upgrade(address, "", "/v1/codexd/events").replace("\r\n", "\\r\\n");
        let health = get.replace("/v1/codexd/status", "/healthz");
        for request in [&get, &post, &stream, &health, &"nonsense\\r\\n\\r\\n".to_owned(), &String::new()] {
            let answer = as_user(NOBODY, address, request);
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{base} {request}: {answer}");
            assert!(answer.contains("\"error\": \"forbidden_peer\""), "{answer}");
        }
        // Root is answered, here by the same means.
        let answer = as_user(0, address, &get);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{base}: {answer}");
        assert_untouched(&daemon);
        assert!(
            daemon.stderr().contains("refused 1 connections of other users so far, this one of uid 65534")
        );
    }
    let daemon = Daemon::builder().flags(&["--allow-other-users"]).start();
    let address = authority(daemon.base());
    let get =
        format!("GET /v1/codexd/status HTTP/1.1\\r\\nHost: {address}\\r\\nConnection: close\\r\\n\\r\\n");
    assert!(as_user(NOBODY, address, &get).starts_with("HTTP/1.1 200 OK\r\n"));
}

/// A client that is gone before it is looked at belongs to root, older kernels say.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "whose a connection is, is told by Linux only")]
fn a_user_that_fires_and_forgets_is_not_taken_for_root() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::builder().start();
    let address = authority(daemon.base());
    let (host, port) = address.rsplit_once(':').unwrap();
    let body = "{\"prompt\":\"x\"}";
    let request = format!(
        "POST /v1/codexd/runs HTTP/1.1\\r\\nHost: {address}\\r\\nContent-Type: application/json\\r\\n\
         Content-Length: {}\\r\\n\\r\\n{body}",
        body.len()
    );
    let script = "for i in {1..200}; do exec 3<>/dev/tcp/$0/$1; printf '%b' \"$2\" >&3; exec 3>&-; done";
    let status = Command::new("bash")
        .args(["-c", script, host, port, &request])
        .uid(NOBODY)
        .current_dir("/")
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_untouched(&daemon);
}

/// A folder that others may enter, and in it the program, which their own folders may hide.
pub(crate) fn open_folder() -> (tempfile::TempDir, PathBuf) {
    let folder =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir_in("/tmp").unwrap();
    let program = folder.path().join("codexd");
    // By a process of its own: what another thread forks meanwhile would hold it open for writing, and nobody may run that.
    let copied = Command::new("cp").args([Path::new(env!("CARGO_BIN_EXE_codexd")), &program]).status();
    assert!(copied.unwrap().success());
    (folder, program)
}

/// A daemon of that user, and its folder.
pub(crate) fn daemon_of(user: u32) -> (tempfile::TempDir, Daemon) {
    let (folder, program) = open_folder();
    std::os::unix::fs::chown(folder.path(), Some(user), None).unwrap();
    let script = folder.path().join("as-user");
    processes::write_program(
        &script,
        &format!(
            "#!/bin/sh\nshift\nexec setpriv --reuid {user} --clear-groups {0} start --repo-root {1} --local-api-base \
             http://127.0.0.1:0 --server-command {0} --server-arg stub-app-server\n",
            program.display(),
            folder.path().display()
        ),
    );
    // The folder for temporary files that the builder gives is not theirs.
    let daemon = Daemon::builder().program(&script).env("TMPDIR", folder.path().to_str().unwrap()).start();
    (folder, daemon)
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "whose a connection is, is told by Linux only")]
fn a_daemon_of_another_user_serves_that_user_and_root() {
    if !is_root() {
        return;
    }
    let (_folder, daemon) = daemon_of(NOBODY);
    let address = authority(daemon.base());
    let get =
        format!("GET /v1/codexd/status HTTP/1.1\\r\\nHost: {address}\\r\\nConnection: close\\r\\n\\r\\n");
    assert!(as_user(NOBODY, address, &get).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(as_user(0, address, &get).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(as_user(1, address, &get).starts_with("HTTP/1.1 403 Forbidden\r\n"));
    drop(daemon);
}

/// A script that sets something and then becomes codexd.
fn through(builder: Builder, folder: &Path, first: &str) -> Builder {
    let script = folder.join("codexd-with");
    processes::write_program(
        &script,
        &format!("#!/bin/sh\n{first}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_codexd")),
    );
    builder.program(script)
}

#[test]
fn files_are_private_whatever_the_umask() {
    for umask in ["0000", "0022", "0777"] {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = through(Daemon::builder(), folder.path(), &format!("umask {umask}")).start();
        let client = daemon.client();
        let session = client.post("/v1/codexd/sessions", &json!({})).json();
        let id = session["data"]["session"]["sessionId"].as_str().unwrap().to_owned();
        let stream = daemon.stream();
        stream.hello();
        let turn = client.post("/v1/codexd/turn", &json!({"sessionId": id, "input": "stderr: 3 x"}));
        assert_eq!(turn.status, 202, "{}", turn.text());
        stream.wait_for_type("app-server.turn.completed");
        let codex_run = client.post("/v1/codexd/runs", &json!({"prompt": "x"}));
        assert_eq!(codex_run.status, 202);
        let over = |event: &Value| event["type"] == "run.completed" || event["type"] == "run.failed";
        stream.wait_for(over, DEADLINE);
        daemon.stop();
        let mut seen = 0;
        for root in [daemon.state(""), daemon.log("")] {
            assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700, "{umask} {}", root.display());
            for file in files_below(&root) {
                let mode = fs::metadata(&file).unwrap().mode() & 0o777;
                assert_eq!(mode, 0o600, "{umask} {}", file.display());
                seen += 1;
            }
        }
        assert!(seen >= 9, "{umask}: {seen} files");
        daemon.restart();
    }
}

#[test]
fn folders_of_an_older_version_are_closed_and_those_of_others_refused() {
    let mut daemon = Daemon::builder().start();
    daemon.stop();
    let state = daemon.state("");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.state("identity.json"), fs::Permissions::from_mode(0o644)).unwrap();
    daemon.restart();
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(daemon.state("identity.json")).unwrap().mode() & 0o777, 0o600);
    let told = "other users had access to ";
    assert_eq!(daemon.stderr().matches(told).count(), 2, "{}", daemon.stderr());
    daemon.stop();
    if !is_root() {
        return;
    }
    for folder in [daemon.state(""), daemon.log("")] {
        let before = fs::metadata(&folder).unwrap().modified().unwrap();
        std::os::unix::fs::chown(&folder, Some(NOBODY), None).unwrap();
        let ended = daemon.again().try_start().err().expect("it must not start");
        assert_eq!(ended.status.code(), Some(1));
        let line = ended.stderr.lines().last().unwrap_or_default();
        assert!(line.contains("belongs to another user (uid 65534, codexd runs as 0)"), "{ended:?}");
        assert_eq!(fs::metadata(&folder).unwrap().modified().unwrap(), before, "nothing is written there");
        std::os::unix::fs::chown(&folder, Some(0), None).unwrap();
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "limits of others are told by Linux only")]
fn the_limit_of_descriptors_is_raised_but_not_for_children() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = through(Daemon::builder(), folder.path(), "ulimit -S -n 300").start();
    let soft = |pid: i32| -> u64 {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_ascii_whitespace().nth(3).unwrap().parse().unwrap()
    };
    assert!(soft(daemon.pid().cast_signed()) > 300);
    let children = descendants(daemon.pid());
    assert!(!children.is_empty());
    children.into_iter().for_each(|child| assert_eq!(soft(child), 300));
}

#[test]
fn what_the_daemon_was_started_with_its_children_do_not_have() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = through(Daemon::builder(), folder.path(), "exec 7</dev/null 8>&1").start();
    let has = |pid: u32| [7, 8].map(|number| Path::new(&format!("/proc/{pid}/fd/{number}")).exists());
    assert_eq!(has(daemon.pid()), [true, true], "what this test is for has happened");
    let children = descendants(daemon.pid());
    assert!(!children.is_empty());
    children.into_iter().for_each(|child| assert_eq!(has(child.cast_unsigned()), [false, false]));
}

/// More connections that say nothing than there are descriptors: whoever says something is served, and when they are
/// gone everything is as before.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "descriptors of others are told by Linux only")]
fn running_out_of_descriptors_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    // Fewer than the front door allows connections (16) beside the 25 or so that the daemon itself has open.
    let mut daemon = through(Daemon::builder(), folder.path(), "ulimit -n 36").start();
    let client = daemon.client();
    let before = open_descriptors(daemon.pid());
    let held: Vec<_> = (0..40).map(|_| client.connect()).collect();
    for _ in 0..20 {
        // A handler needs descriptors of its own.
        let answer = client.get("/v1/codexd/sessions");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let full = open_descriptors(daemon.pid());
        assert!(full <= 36, "{full}");
    }
    drop(held);
    // And those of the connection to a handler that is kept.
    let after = before + 4;
    until("the descriptors of before", DEADLINE, || (open_descriptors(daemon.pid()) <= after).then_some(()));
    assert_eq!(client.get("/healthz").status, 200);
    let session = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(session.status, 201, "{}", session.text());
    let ended = daemon.stop();
    assert!(ended.status.success(), "{ended:?}");
    assert!(!ended.stderr.contains("descriptor") && !ended.stderr.contains("panicked"), "{ended:?}");
}

fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A client that only closes its writing half is still there to be known and answered.
#[test]
fn a_client_that_half_closes_is_answered() {
    let daemon = Daemon::builder().start();
    let client: Client = daemon.client();
    let mut stream = client.connect();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", authority(daemon.base()));
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answer(&mut stream, Instant::now() + DEADLINE, false).status, 200);
}

/// What a client or Codex sends is never obeyed by the terminal that shows the daemon's log.
#[test]
fn log_lines_hold_nothing_a_terminal_obeys() {
    let mut daemon = Daemon::builder().flags(&["--log-level", "trace"]).start();
    let client = daemon.client();
    let own = authority(daemon.base()).to_owned();
    client.raw(format!("GET /\x1b[2J HTTP/1.1\r\nHost: {own}\r\n\r\n").as_bytes());
    client.request("GET", "/v1/codexd/%1b%5b2J%0aforged", &[], b"");
    let nasty = "\u{1b}]0;owned\u{7}\u{9b}31m\nforged \u{202e}line";
    let session = client.post("/v1/codexd/sessions", &json!({"metadata": {"a": nasty}, "cwd": nasty})).json();
    let id = session["data"]["session"]["sessionId"].clone();
    let stream = daemon.stream();
    stream.hello();
    for input in [format!("stderr: 1 {nasty}"), format!("garbage: {nasty}"), nasty.to_owned()] {
        let turn = client.post("/v1/codexd/turn", &json!({"sessionId": id, "input": input}));
        assert_eq!(turn.status, 202, "{}", turn.text());
    }
    client.post("/v1/codexd/runs", &json!({"prompt": nasty, "cwd": nasty}));
    stream.wait_for(|event| event["type"] == "run.completed" || event["type"] == "run.failed", DEADLINE);
    drop(stream);
    let ended = daemon.stop();
    let bad = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
    for text in [&ended.stderr, &ended.stdout] {
        assert!(!text.contains(bad), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{text:?}");
    }
}
