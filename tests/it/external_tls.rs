//! wss:// to an external app-server: through a TLS relay with a private authority, and what can be wrong with it.
#![cfg(feature = "tls")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use serde_json::json;
use tempfile::TempDir;
use tungstenite::Message;

use crate::DEADLINE;
use crate::daemon::Daemon;
use crate::external::external;
use crate::external_errors::{answering, deltas, fails_with, listening, new_session, wait_until_completed};
use crate::fake_app_server::{Fake, completed, delta, send_in_pieces};
use crate::listener::Listener;
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::relay::Relay;

/// An authority made for one test, with its certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two authorities of one name would be tried for each other.
        let name = format!("authority {}", uuid::Uuid::new_v4());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::Builder::new().prefix("ca-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let authority = Authority { issuer: Issuer::new(params, key), folder };
        authority.file("ca.pem", &pem);
        authority
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }

    fn pem(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// The authority of a listener that ends TLS for that name and relays to `target`.
    fn relay(&self, name: &str, target: &str) -> String {
        self.relay_with(CertificateParams::new(vec![name.to_owned()]).unwrap(), target)
    }

    fn relay_with(&self, params: CertificateParams, target: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let (config, target) = (Arc::new(config), target.to_owned());
        listening(move |stream| {
            let (config, target) = (Arc::clone(&config), target.clone());
            let serve = move || {
                let _ = relay(&stream, config, &target); // either side may go away at any time
                let _ = stream.shutdown(Shutdown::Both);
            };
            std::thread::Builder::new().name("tls-relay".into()).spawn(serve).expect("a thread");
        })
    }
}

/// Copies between a client that speaks TLS and a target that does not, until one of them ends.
fn relay(mut client: &TcpStream, config: Arc<ServerConfig>, target: &str) -> std::io::Result<()> {
    let mut tls = ServerConnection::new(config).unwrap();
    while tls.is_handshaking() {
        if let Err(error) = tls.complete_io(&mut client) {
            while tls.wants_write() {
                tls.write_tls(&mut client)?; // the alert
            }
            return Err(error);
        }
    }
    let mut target = TcpStream::connect(target)?;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        while tls.wants_write() {
            tls.write_tls(&mut client)?;
        }
        // Some may have come with the end of the handshake.
        loop {
            match tls.reader().read(&mut chunk) {
                Ok(0) => return target.shutdown(Shutdown::Both),
                Ok(read) => target.write_all(&chunk[..read])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut fds = [PollFd::new(client, PollFlags::IN), PollFd::new(&target, PollFlags::IN)];
        poll(&mut fds, None)?;
        let ready = fds.map(|fd| !fd.revents().is_empty());
        if ready[0] {
            if tls.read_tls(&mut client)? == 0 {
                return target.shutdown(Shutdown::Both);
            }
            tls.process_new_packets().map_err(std::io::Error::other)?;
        }
        if ready[1] {
            let read = target.read(&mut chunk)?;
            if read == 0 {
                tls.send_close_notify();
                tls.write_tls(&mut client)?;
                return Ok(());
            }
            let mut left = &chunk[..read];
            while !left.is_empty() {
                left = &left[tls.writer().write(left)?..];
                while tls.wants_write() {
                    tls.write_tls(&mut client)?;
                }
            }
        }
    }
}

fn session_id(daemon: &Daemon) -> serde_json::Value {
    let answer = new_session(daemon);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["data"]["session"]["sessionId"].clone()
}

#[test]
fn turns_of_the_real_codex_over_wss() {
    let codex = real_codex_or_skip!("turns_of_the_real_codex_over_wss");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let listener = Listener::start(&codex, &home, &[]);
    let authority = Authority::new();
    let secured = authority.relay("127.0.0.1", listener.authority());
    let cut = Relay::to(&secured);
    let url = cut.url().replace("ws://", "wss://");
    let mut daemon = external(&url).flags(&["--server-ca-file", &authority.pem()]).start();
    let stream = daemon.stream();
    let session = session_id(&daemon);
    let turn = |prompt: &str| {
        let answer = daemon.client().post("/v1/codexd/turn", &json!({"sessionId": session, "input": prompt}));
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["data"]["turnId"].clone()
    };
    let ended = |turn: &serde_json::Value| {
        stream.wait_for(
            |event| event["type"] == "app-server.turn.completed" && event["detail"]["turnId"] == *turn,
            DEADLINE,
        )
    };
    assert_eq!(ended(&turn("say 2000 words"))["detail"]["status"], "completed");
    let going_on = turn("slow: 40 100");
    stream.wait_for(
        |event| event["detail"]["turnId"] == going_on && event["detail"]["delta"] == "word1 ",
        DEADLINE,
    );
    cut.cut();
    stream.wait_for_type("app-server.turn.completed.missing");
    assert_eq!(ended(&going_on)["detail"]["status"], "completed");
    assert_eq!(cut.accepted(), 2);
    assert_eq!(daemon.stop().status.code(), Some(0));
}

#[test]
fn large_messages_in_both_directions_at_once() {
    const SIZE: usize = 15_000_000;
    let fake = Fake::start(|socket| {
        socket.send(Message::text(delta(&"a".repeat(SIZE)))).unwrap();
        send_in_pieces(socket, &delta(&"b".repeat(SIZE)), 1_000_001);
        socket.send(Message::text(completed())).unwrap();
    });
    let authority = Authority::new();
    let url = format!("https://{}", authority.relay("127.0.0.1", &fake.authority()));
    // The system's authorities, as the environment says where they are.
    let daemon =
        external(&url).env("SSL_CERT_FILE", &authority.pem()).flags(&["--max-log-bytes", "0"]).start();
    let session = session_id(&daemon);
    let input = "x".repeat(3_000_000);
    let answer = daemon.client().post("/v1/codexd/turn", &json!({"sessionId": session, "input": input}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    // From the log: a stream's queue is bounded in bytes, and these are more than it need take.
    wait_until_completed(&daemon);
    assert_eq!(deltas(&daemon.log_events()), [SIZE, SIZE]);
}

#[test]
fn a_certificate_that_is_not_trusted() {
    let (known, other) = (Authority::new(), Authority::new());
    let nowhere = "127.0.0.1:9";
    let stranger = format!("wss://{}", other.relay("127.0.0.1", nowhere));
    fails_with(
        &stranger,
        &["--server-ca-file", &known.pem()],
        "is from none of the authorities in --server-ca-file",
    );
    let daemon = external(&stranger).env("SSL_CERT_FILE", &known.pem()).start();
    let answer = new_session(&daemon).text();
    assert!(
        answer.contains(
            "is from an authority this system does not know: give its certificate with --server-ca-file"
        ),
        "{answer}"
    );

    let ca = ["--server-ca-file", &known.pem()];
    let misnamed = format!("wss://{}", known.relay("other.example", nowhere));
    fails_with(&misnamed, &ca, "is not for 127.0.0.1: --server-endpoint must name the host");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = format!("wss://{}", known.relay_with(params, nowhere));
    fails_with(&expired, &ca, "is not valid: certificate expired");
}

#[test]
fn authorities_that_cannot_be_read() {
    let authority = Authority::new();
    let url = format!("wss://{}", authority.relay("127.0.0.1", "127.0.0.1:9"));
    let missing = authority.folder.path().join("missing.pem");
    let empty = authority.file("empty.pem", "nothing\n");
    let broken =
        authority.file("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (file, words) in [
        (missing, "missing.pem cannot be read"),
        (empty, "empty.pem holds no certificate"),
        (broken, "broken.pem has a bad certificate"),
    ] {
        fails_with(&url, &["--server-ca-file", &file.display().to_string()], words);
    }
}

#[test]
fn one_side_speaks_tls_and_the_other_does_not() {
    let authority = Authority::new();
    let ca = ["--server-ca-file", &authority.pem()];
    let plain = answering(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    fails_with(&format!("wss://{plain}"), &ca, "does not speak TLS: use ws:// (or http://)");
    let closing = answering(b"");
    fails_with(&format!("wss://{closing}"), &ca, "closed the connection during the TLS handshake");
    let secured = authority.relay("127.0.0.1", "127.0.0.1:9");
    fails_with(&format!("ws://{secured}"), &ca, "speaks TLS: use wss://");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    fails_with(
        &format!("wss://{}", silent.local_addr().unwrap()),
        &["--server-ca-file", &authority.pem(), "--app-server-timeout-ms", "300"],
        "took the connection but no TLS handshake within 300 ms",
    );
}
