//! Large bodies: so many at a time as fit into memory, which comes back when they are gone.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::client::{Client, authority};
use crate::daemon::Daemon;
use crate::log::wait_until;
use crate::watch::held;

/// Bodies of more than 64 KiB that are taken at a time.
const AT_ONCE: usize = 32;

/// What comes of a request whose body is large and to follow.
fn announce(client: &Client, host: &str) -> (TcpStream, String) {
    let mut stream = client.connect();
    let head = format!(
        "POST /v1/codexd/turn HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 65537\r\n\
         expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    (stream, String::from_utf8_lossy(&status).into_owned())
}

#[test]
fn no_more_large_bodies_are_taken_at_a_time_than_fit() {
    let mut daemon = Daemon::builder().start();
    let (client, host) = (daemon.client(), authority(daemon.base()).to_owned());
    let mut held: Vec<_> = (0..AT_ONCE).map(|_| announce(&client, &host)).collect();
    assert!(held.iter().all(|(_, status)| status == "HTTP/1.1 100"));
    assert_eq!(announce(&client, &host).1, "HTTP/1.1 503");
    assert_eq!(client.get("/v1/codexd/status").status, 200, "what is small is served");
    // Who goes makes room.
    held.pop();
    wait_until("room", || announce(&client, &host).1 == "HTTP/1.1 100");
    drop(held);
    daemon.stop();
}

#[test]
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), ignore = "it is glibc that has to be told")]
fn memory_comes_back() {
    // A body that is read whole and is no JSON.
    let body = vec![b'['; 3_900_000];
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    assert_eq!(client.get("/v1/codexd/status").status, 200);
    let before = held(daemon.pid()).rss;
    std::thread::scope(|scope| {
        let post = || {
            for _ in 0..10 {
                let json = [("content-type", "application/json")];
                let answer = client.request("POST", "/v1/codexd/sessions", &json, &body);
                assert_eq!(answer.status, 400, "{}", answer.text());
            }
        };
        (0..4).for_each(|_| drop(scope.spawn(post)));
    });
    // A thread that has answered may still hold the body.
    wait_until("memory", || held(daemon.pid()).rss < before + 16 * 1024);
    daemon.stop();
}
