//! A daemon of another user: what the command line says to it, and that it says nothing to who is not meant.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::process::{Command, Stdio};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType};

use crate::DEADLINE;
use crate::cli_support::{Ran, command};
use crate::client::authority;
use crate::conversation::until;
use crate::daemon::Daemon;
use crate::processes::{self, Process};
use crate::skipped::skipped;
use crate::strangers::{daemon_of, open_folder};

/// No user that anybody knows.
const STRANGER: u32 = 12_345;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("what is said to a daemon of another user", "it needs root, so as to be another user too");
    }
    root
}

/// All that talk to a daemon.
const ACTIONS: [&[&str]; 7] = [
    &["sessions"],
    &["runs"],
    &["requests"],
    &["answer", "request-1", "accept"],
    &["ask", "my secret"],
    &["run", "my secret"],
    &["tail"],
];

fn refusal(address: &str) -> String {
    format!(
        "codexd: what listens at {address} belongs to another user (uid {STRANGER}), and nothing was sent to it: name the \
         port of your own daemon with --local-api-base, or give --allow-other-users if theirs is meant\n"
    )
}

/// A listener of the stranger's from its first moment on: root can give sockets away.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    fchown(&socket, Some(STRANGER), None)?;
    // Connections that were there before do not count.
    set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, 16)?;
    Ok(TcpListener::from(socket))
}

/// All that has come to a listener.
fn heard(listener: &TcpListener) -> Vec<u8> {
    listener.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.read_to_end(&mut heard).unwrap();
    }
    heard
}

#[test]
fn who_took_the_port_is_told_nothing() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    processes::write_program(&token, "0123456789abcdefghijklmnop");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let Ok(listener) = listen(format!("{host}:0").parse().unwrap()) else { continue };
        let address = listener.local_addr().unwrap().to_string();
        let base = format!("http://{address}");
        for words in ACTIONS {
            let words =
                [words, &["--local-api-base", &base, "--token-file", token.to_str().unwrap()]].concat();
            let ran: Ran = command(&words).output().unwrap().into();
            assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr), (1, "", refusal(&address)), "{words:?}");
            assert_eq!(heard(&listener), b"", "{words:?}");
        }
        let ran: Ran =
            command(["doctor", "--local-api-base", &base, "--token-file", token.to_str().unwrap()])
                .env("HOME", folder.path())
                .current_dir(folder.path())
                .output()
                .unwrap()
                .into();
        let told = format!(
            "fail port: {base} is taken: what listens there belongs to another user (uid {STRANGER}); stop it"
        );
        assert!(ran.stdout.contains(&told), "{ran:?}");
        assert_eq!(heard(&listener), b"", "doctor");
    }
}

/// The port is free while a daemon is started anew.
#[test]
fn who_takes_the_port_from_under_a_tail_is_told_nothing() {
    if !is_root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let base = format!("http://{address}");
    let mut daemon = Daemon::builder().flags(&["--local-api-base", &base]).start();
    let tail = ["tail", "--json", "--after", "0", "--local-api-base", &base];
    let mut tail = Process::spawn(command(tail).stdout(Stdio::null()).stderr(Stdio::piped()));
    let clients = || daemon.client().get("/healthz").json()["service"]["websocketClients"] == 1;
    until("the tail's stream", DEADLINE, || clients().then_some(()));
    daemon.stop();
    let listener = until("the port", DEADLINE, || listen(address).ok());
    let status = tail.wait(DEADLINE).expect("it ends");
    let mut told = String::new();
    tail.child().stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(status.code() == Some(1) && told.ends_with(&refusal(&address.to_string())), "{told}");
    assert_eq!(heard(&listener), b"");
}

#[test]
fn a_daemon_of_another_user_is_talked_to_if_that_is_said() {
    if !is_root() {
        return;
    }
    let (_folder, daemon) = daemon_of(STRANGER);
    let (base, address) = (daemon.base(), authority(daemon.base()));
    // Accepted at once, or not yet: either way it is known.
    for _ in 0..20 {
        let ran: Ran = command(["sessions", "--local-api-base", base]).output().unwrap().into();
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr), (1, "", refusal(address)));
    }
    let allowed = |words: &[&str], set: &str| -> Ran {
        let mut command = command([words, &["--local-api-base", base]].concat());
        command.env("BAA_CODEXD_ALLOW_OTHER_USERS", set).output().unwrap().into()
    };
    let ran = allowed(&["sessions", "--allow-other-users"], "");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "no sessions\n", ""));
    let ran = allowed(&["ask", "say 2 words"], "true");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "word0 word1 \n"), "{ran:?}");
}

/// Root serves whom it likes, and a connection through a forwarder of root is root's.
#[test]
fn a_daemon_of_root_is_talked_to() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::builder().flags(&["--allow-other-users"]).start();
    let (_folder, program) = open_folder();
    let as_stranger = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &STRANGER.to_string(), "--clear-groups"]).args(words);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir("/");
        command.output().unwrap()
    };
    let sessions = [program.to_str().unwrap(), "sessions", "--local-api-base", daemon.base()];
    let ran = Ran::from(as_stranger(&sessions));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "no sessions\n"), "{ran:?}");
    // In a namespace where root of this host has no number of its own.
    let inside = ["unshare", "--user", "--map-root-user"];
    if !as_stranger(&[&inside[..], &["true"]].concat()).status.success() {
        skipped("a daemon of root, seen from a user namespace", "unshare --user is not allowed here");
        return;
    }
    let ran = Ran::from(as_stranger(&[&inside[..], &sessions].concat()));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "no sessions\n"), "{ran:?}");
}
