//! Seeded inputs without end for everything that reads what others wrote: nothing may panic, and what is read must
//! hold together. `make fuzz` gives each a million inputs, plain tests 20,000.
//!
//! `CODEXD_FUZZ_INPUTS` says how many, `CODEXD_FUZZ_SEED` which. An input that fails is kept and named; put it into
//! `tests/corpus` once the fault is mended.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use codexd::app_server::notification::translate;
use codexd::app_server::wire::{self, Incoming as Message};
use codexd::cli::low::LowArgs;
use codexd::cli::resolve::resolve;
use codexd::config::Sync;
use codexd::duplex::{Duplex, Incoming, MAX_MESSAGE};
use codexd::http::head::{Head, MAX_HEAD};
use codexd::hub::drafts::Drafts;
use codexd::hub::recover::recover;
use codexd::ops::body::{Body, Kind};
use codexd::ops::fields;
use codexd::store::journal::{Journal, Limits};
use codexd::store::reader::EventReader;
use codexd::store::segments::MAX_SEQ;
use serde_json::Value;

use crate::mutate::{Mutator, corpus};

/// The part of an event that is a draft.
#[derive(serde::Deserialize)]
struct Event {
    message: String,
    #[serde(rename = "detail")]
    _detail: serde::de::IgnoredAny,
}

/// Gives `check` that many inputs made of a corpus, a panic of which ends the test with the input kept.
fn fuzz(name: &str, share: u64, mut check: impl FnMut(&[u8], u64)) {
    let number = |variable: &str, default: u64| {
        std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
    };
    let count = number("CODEXD_FUZZ_INPUTS", 20_000) / share;
    let seed = number("CODEXD_FUZZ_SEED", 0x5eed);
    let corpus = corpus(name);
    let mut mutator = Mutator::new(seed, &corpus);
    let began = Instant::now();
    for round in 0..count {
        // The corpus first, as it is.
        let input = corpus.get(usize::try_from(round).unwrap()).cloned().unwrap_or_else(|| mutator.next());
        if catch_unwind(AssertUnwindSafe(|| check(&input, round))).is_err() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{seed}-{round}"));
            fs::File::create(&kept).and_then(|mut file| file.write_all(&input)).unwrap();
            panic!("input {round} of seed {seed} fails; it is in {}", kept.display());
        }
    }
    println!("{name}: {count} inputs of seed {seed} in {:?}", began.elapsed());
}

#[test]
fn heads() {
    let mut whole = 0;
    fuzz("head", 1, |input, _| {
        let Ok(Some((head, length))) = Head::parse(input) else { return };
        whole += 1;
        assert!(length <= input.len() && length <= MAX_HEAD && input[..length].ends_with(b"\r\n\r\n"));
        assert!(!head.method().is_empty() && !head.query().contains(['#', ' ', '\r', '\n']));
        assert!(head.path().starts_with('/') || head.path() == "*", "{:?}", head.path());
        for name in ["host", "x", "content-length", "transfer-encoding", "authorization", "upgrade"] {
            assert!(head.all(name).all(|value| !value.contains(['\r', '\n', '\0'])));
        }
        // What follows does not matter, and nothing less is a head.
        let (again, same) = Head::parse(&input[..length]).expect("the same").expect("whole");
        assert_eq!((again.path(), same), (head.path(), length));
        assert!(!matches!(Head::parse(&input[..length - 1]), Ok(Some(_))));
    });
    assert!(whole > 100, "{whole} heads were whole: the inputs are too wild");
}

#[test]
fn frames() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        // A reset at the end: no port is left waiting.
        for stream in [&client, &server] {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        (client, Arc::new(server))
    };
    let (mut client, mut server) = pair();
    let mut messages = 0;
    fuzz("frames", 1, |input, round| {
        // Mostly over a socket that the inputs before have used up: what is written fails then.
        if round % 16 == 0 {
            (client, server) = pair();
        }
        let (mut reader, mut writer) = Duplex::server(Arc::clone(&server), input.to_vec()).unwrap();
        let ended = loop {
            match reader.read() {
                Ok(Incoming::Text(text)) => {
                    assert!(text.len() <= MAX_MESSAGE);
                    messages += 1;
                    let _ = serde_json::from_str::<Value>(&text);
                    let _ = reader.send("{}".to_owned());
                }
                Ok(Incoming::Binary(bytes)) => assert!(bytes.len() <= MAX_MESSAGE),
                Err(ended) => break ended,
            }
        };
        let _ = writer.write("{}".into()).and_then(|()| writer.flush());
        drop((ended, client.set_nonblocking(true)));
    });
    assert!(messages > 100, "{messages} messages: the inputs are too wild");
}

#[test]
fn envelopes() {
    let mut events = 0;
    fuzz("envelope", 1, |input, _| {
        let line = String::from_utf8_lossy(input);
        let Ok(message) = wire::decode(&line) else { return };
        let Message::Notification { method, params } = message else { return };
        let mut drafts = Drafts::new();
        translate(&mut drafts, &method, params);
        let (text, _, items) = drafts.into_parts();
        assert!(!items.is_empty());
        for item in &items {
            let inside = std::str::from_utf8(item.text(&text)).expect("UTF-8");
            assert!(!inside.contains('\n'), "one line an event: {inside}");
            // By its grammar: what Codex sends is passed on as it is, be it half a surrogate.
            let event: Event = serde_json::from_str(&format!("{{{inside}}}")).unwrap_or_else(|error| {
                panic!("{error}: {inside}");
            });
            assert!(event.message.len() < 1100 && !event.message.contains(char::is_control));
            events += 1;
        }
    });
    assert!(events > 100, "{events} events: the inputs are too wild");
}

#[test]
fn logs() {
    let folder = in_memory();
    let path = folder.path().join("events.jsonl");
    let limits = Limits { max_bytes: None, keep: None, sync: Sync::Never };
    fuzz("log", 1, |input, _| {
        put(&path, input);
        let opened = Journal::open(folder.path(), limits).expect("any file can be opened");
        let kept = fs::read(&path).unwrap();
        assert!(input.starts_with(&kept) && (kept.is_empty() || kept.ends_with(b"\n")));
        assert_eq!(opened.repairs.is_empty(), kept.len() == input.len());
        for repair in &opened.repairs {
            let torn = repair.kept_as.clone().unwrap();
            assert_eq!(fs::read(&torn).unwrap(), input[kept.len()..]);
            fs::remove_file(torn).unwrap();
        }
        let mut reader = EventReader::new(opened.journal.view(), 0, u64::MAX);
        while reader.read().expect("what was opened can be read").is_some() {}
        // What comes next has a number of its own, and is found at the next start.
        let mut journal = opened.journal;
        let next = opened.last_seq + 1;
        if next > MAX_SEQ {
            return;
        }
        journal.append(format!("{{\"seq\":{next},\"message\":\"next\"}}\n").as_bytes(), next).unwrap();
        drop(journal);
        assert_eq!(Journal::open(folder.path(), limits).unwrap().last_seq, next);
    });
}

#[test]
fn starts() {
    let folder = in_memory();
    let low = LowArgs { repo_root: Some(folder.path().display().to_string()), ..LowArgs::default() };
    let config = resolve(low, Path::new("/")).unwrap();
    let files = [
        config.paths.session_registry(),
        config.paths.run_registry(),
        config.paths.recent_events(),
        config.paths.identity(),
        config.paths.daemon_state(),
    ];
    let empty = || {
        for folder in [&config.paths.logs_dir, &config.paths.state_dir] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder).unwrap();
        }
    };
    empty();
    fuzz("log", 5, |input, round| {
        put(&config.paths.events(), input);
        if round % 4 == 0 {
            put(&files[usize::try_from(round / 4).unwrap() % files.len()], input);
        }
        let recovered = recover(&config).expect("any file can be started from");
        drop(recovered);
        empty();
    });
}

/// A folder where forcing to disk costs nothing, if the system has one.
fn in_memory() -> tempfile::TempDir {
    let folder = Path::new("/dev/shm");
    if folder.is_dir() { tempfile::tempdir_in(folder).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn put(path: &PathBuf, bytes: &[u8]) {
    fs::File::create(path).and_then(|mut file| file.write_all(bytes)).unwrap();
}

#[test]
fn bodies() {
    let mut taken = 0;
    fuzz("body", 1, |input, _| {
        let _ = Body::parse_optional(input);
        let Ok(body) = Body::parse(input) else { return };
        taken += 1;
        for name in ["prompt", "sessionId", "input", "cwd", "config", "env", "metadata", "timeoutMs", "json"]
        {
            let text = body.text(name);
            assert!(text.ok().flatten().is_none_or(|text| !text.is_empty() && text.trim() == text));
            let _ = (body.flag(name), body.number(name, 1), body.texts(name), body.required_text(name));
            let _ = body.one_of(name, &[("read-only", 1), ("smoke", 2)]);
            for kind in [Kind::Text, Kind::Flag, Kind::Object, Kind::TextOrObject] {
                if let Ok(Some(raw)) = body.passed_on(name, kind) {
                    serde_json::from_str::<Value>(raw.get()).expect("what is passed on is JSON");
                }
            }
        }
        if let Ok(metadata) = body.metadata() {
            assert!(metadata.iter().all(|(key, value)| !key.trim().is_empty() && !value.trim().is_empty()));
        }
        for table in [fields::THREAD, fields::TURN] {
            let _ = fields::collect(table, &body);
        }
    });
    assert!(taken > 100, "{taken} bodies were taken: the inputs are too wild");
}
