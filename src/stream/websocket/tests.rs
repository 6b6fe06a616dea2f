//! The stream over loopback, behind the real front door, with batches made by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::http::api::{Api, EventStream, Kind, Request};
use crate::http::front_door::FrontDoor;
use crate::http::guard::Guard;
use crate::http::limits::Limits;
use crate::hub::batch::Subject;
use crate::hub::subscription::{Offer, Subscriber, goes_directly, queue};
use crate::model::event::EventType;

/// A hub of sorts: whoever subscribes is in `subscribers` before hello is out.
#[derive(Default)]
struct Source {
    subscribers: Mutex<Vec<Subscriber>>,
    seq: AtomicU64,
    clients: AtomicUsize,
}

impl EventSource for Source {
    fn subscribe(&self, query: &str) -> Result<Opening, ApiError> {
        if query == "refuse" {
            return Err(ApiError::unavailable("Not now."));
        }
        let (subscriber, subscription) = queue();
        self.subscribers.lock().unwrap().push(subscriber);
        let seq = self.seq.load(Ordering::SeqCst);
        let hello = format!("{{\"type\":\"hello\",\"clients\":{}}}", self.clients.load(Ordering::SeqCst));
        Ok(Opening { hello, origin: Origin::Live(seq, subscription), filter: Filter::default() })
    }
    fn status_message(&self) -> String {
        "{\"type\":\"status\"}".to_owned()
    }
    fn client_opened(&self) {
        self.clients.fetch_add(1, Ordering::SeqCst);
    }
    fn client_closed(&self) {
        self.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Daemon(Arc<Source>);

impl Api for Daemon {
    fn healthz(&self) -> Reply {
        Reply::json(200, &true)
    }
    fn route(&self, _: &str, _: &str) -> Result<Kind, ApiError> {
        Err(ApiError::not_found("No."))
    }
    fn handle(&self, _: Request) -> Reply {
        ApiError::not_found("No.").into()
    }
    fn stream_path(&self) -> &str {
        "/events"
    }
    fn upgrade(&self, upgrade: Upgrade<'_>) -> Result<(), Reply> {
        serve(&*self.0, upgrade)
    }
    fn events(&self, _: EventStream<'_>) -> Result<bool, Reply> {
        Err(ApiError::not_found("No.").into())
    }
}

struct Port {
    door: FrontDoor,
    address: SocketAddr,
    source: Arc<Source>,
}

struct Client {
    reader: Reader,
    writer: Writer,
    stream: Arc<TcpStream>,
}

fn port() -> Port {
    let source = Arc::new(Source::default());
    let bound = FrontDoor::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr();
    let door = bound
        .prepare(Arc::new(Daemon(Arc::clone(&source))), Guard::new(address.port()), Limits::default())
        .unwrap()
        .open()
        .unwrap();
    Port { door, address, source }
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";

impl Port {
    /// Sends a handshake; what comes back up to the empty line.
    fn handshake(&self, line: &str, fields: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "{line}\r\nHost: {}\r\n{fields}\r\n", self.address).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        (stream, String::from_utf8(head).unwrap())
    }

    fn client(&self) -> Client {
        let (stream, head) = self.handshake("GET /events HTTP/1.1", &format!("{UPGRADE}{VERSION}{KEY}"));
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        let stream = Arc::new(stream);
        let (reader, writer) = Duplex::client(stream.clone(), Vec::new(), 64 << 20).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Client { reader, writer, stream };
        assert!(client.text().starts_with("{\"type\":\"hello\""));
        client
    }

    fn offer(&self, batch: &Arc<Batch>) -> Vec<Offer> {
        self.source.seq.store(batch.entries().last().unwrap().seq, Ordering::SeqCst);
        self.source
            .subscribers
            .lock()
            .unwrap()
            .iter()
            .map(|subscriber| subscriber.offer(batch, goes_directly(batch, 1)))
            .collect()
    }

    fn wait_until_empty(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.source.clients.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < until, "a client is still counted");
            std::thread::yield_now();
        }
    }
}

impl Client {
    fn text(&mut self) -> String {
        match self.reader.read() {
            Ok(Incoming::Text(text)) => text.as_str().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, text: &'static str) {
        self.writer.write(text.into()).and_then(|()| self.writer.flush()).unwrap();
    }

    /// The close code, after whatever else came.
    fn ended(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.reader.read() {
                return ended;
            }
        }
    }
}

fn batch(seqs: std::ops::RangeInclusive<u64>, padding: usize) -> Arc<Batch> {
    let mut batch = Batch::default();
    let about = batch.about(Subject::default());
    for seq in seqs {
        let kind = EventType::ALL[0];
        let event = format!("{{\"seq\":{seq},\"p\":\"{}\"}}", "x".repeat(padding));
        batch.push(seq, kind, kind.level(), about, &[event.as_bytes()]);
    }
    Arc::new(batch)
}

fn seq(text: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(text).unwrap()["event"]["seq"].as_u64().unwrap()
}

#[test]
fn handshakes_that_are_refused() {
    let port = port();
    let get = "GET /events HTTP/1.1";
    for (line, fields, status) in [
        (get, format!("{UPGRADE}{VERSION}"), 400),
        (get, format!("{UPGRADE}{VERSION}{KEY}{KEY}"), 400),
        (get, format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: short\r\n"), 400),
        (get, format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ!=\r\n"), 400),
        (get, format!("{UPGRADE}{KEY}"), 400),
        (get, format!("{UPGRADE}Sec-WebSocket-Version: 8\r\n{KEY}"), 426),
        (get, format!("{UPGRADE}{VERSION}{VERSION}{KEY}"), 426),
        (get, format!("Upgrade: websocket\r\n{VERSION}{KEY}"), 400),
        (get, format!("{UPGRADE}{VERSION}{KEY}Content-Length: 3\r\n"), 400),
        (get, format!("{UPGRADE}{VERSION}{KEY}Origin: null\r\nConnection: close\r\n"), 403),
        ("POST /events HTTP/1.1", format!("{UPGRADE}{VERSION}{KEY}"), 400),
        ("GET /events HTTP/1.0", format!("{UPGRADE}{VERSION}{KEY}"), 400),
        ("GET /other HTTP/1.1", format!("{UPGRADE}{VERSION}{KEY}"), 404),
        ("GET /events?refuse HTTP/1.1", format!("{UPGRADE}{VERSION}{KEY}"), 503),
    ] {
        let (mut stream, head) = port.handshake(line, &fields);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{fields} {head}");
        assert_eq!(head.contains("sec-websocket-version: 13\r\n"), status == 426);
        let mut body = String::new();
        stream.read_to_string(&mut body).unwrap();
        assert!(body.contains("\"ok\": false"), "{body}");
    }
    port.wait_until_empty();
}

#[test]
fn a_conversation() {
    let port = port();
    let mut client = port.client();
    client.send("{\"type\":\"ping\"}");
    assert_eq!(client.text(), "{\"type\":\"pong\"}");
    client.send("{\"type\":\"status\",\"x\":[[[]]],\"type\":\"status\"}");
    assert_eq!(client.text(), "{\"type\":\"status\"}");
    for (sent, shown) in [
        ("{\"type\":\"sub\\\"x\"}", "sub\\\"x"),
        ("{}", "unknown"),
        ("{\"type\":7}", "unknown"),
        ("{\"type\":{\"type\":\"ping\"}}", "unknown"),
    ] {
        client.send(sent);
        assert_eq!(
            client.text(),
            format!("{{\"message\":\"Unsupported websocket message type: {shown}.\",\"type\":\"error\"}}")
        );
    }
    let deep = format!("{{\"type\":\"ping\",\"x\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    client.writer.write(deep.into()).unwrap();
    client.writer.flush().unwrap();
    assert_eq!(client.text(), "{\"type\":\"pong\"}");
    port.offer(&batch(1..=2, 3));
    assert_eq!(client.text(), "{\"event\":{\"seq\":1,\"p\":\"xxx\"},\"type\":\"event\"}");
    assert_eq!(seq(&client.text()), 2);
    client.reader.close(1000, "").unwrap();
    assert_eq!(client.ended(), Ended::Close(Some(1000)));
    drop(client);
    port.wait_until_empty();
}

#[test]
fn payloads_that_end_it() {
    let port = port();
    for text in ["", "x", "[]", "[\"ping\"]", "\"ping\"", "null", "{\"type\":\"ping\"", "{} {}"] {
        let mut client = port.client();
        client.send(text);
        assert_eq!(client.ended(), Ended::Close(Some(4002)), "{text:?}");
    }
    let mut client = port.client();
    (&*client.stream).write_all(&[0x82, 0x80, 0, 0, 0, 0]).unwrap();
    assert_eq!(client.ended(), Ended::Close(Some(1003)));
    let mut client = port.client();
    // The server may close while this is still being sent.
    let _ = client.writer.write(vec![b'x'; (1 << 20) + 1].into());
    let _ = client.writer.flush();
    assert_eq!(client.ended(), Ended::Close(Some(1009)));
    drop(client);
    port.wait_until_empty();
}

#[test]
fn order_of_events_over_many_batches_to_many_clients() {
    const BATCHES: u64 = 300;
    const EACH: u64 = 20;
    let port = port();
    let mut clients: Vec<Client> = (0..4).map(|_| port.client()).collect();
    let (done_send, done) = bounded(4);
    let readers: Vec<_> = clients
        .drain(..)
        .map(|mut client| {
            let done = done_send.clone();
            threads::spawn_contained("test-client", move || {
                for expected in 1..=BATCHES * EACH {
                    assert_eq!(seq(&client.text()), expected);
                }
                client.reader.close(1000, "").unwrap();
                assert_eq!(client.ended(), Ended::Close(Some(1000)));
                done.send(()).unwrap();
            })
            .unwrap()
        })
        .collect();
    for n in 0..BATCHES {
        let size = if n % 50 == 0 { 10_000 } else { 10 };
        let offers = port.offer(&batch(n * EACH + 1..=(n + 1) * EACH, size));
        assert!(offers.iter().all(|offer| *offer == Offer::Queued));
    }
    drop(readers);
    assert_eq!(done.try_iter().count(), 4);
    port.wait_until_empty();
}

#[test]
fn what_goes_directly_to_one_that_reads_late_is_whole_and_in_order() {
    const BATCHES: u64 = 3_000;
    let port = port();
    let mut client = port.client();
    // More than the socket holds: the last direct one is cut off in its middle, and answers come between.
    for n in 0..BATCHES {
        if n % 500 == 0 {
            client.send("{\"type\":\"ping\"}");
        }
        assert_eq!(port.offer(&batch(n * 10 + 1..=n * 10 + 10, 300)), [Offer::Queued]);
    }
    let mut pongs = 0;
    let mut read = |client: &mut Client, seqs: std::ops::RangeInclusive<u64>| {
        for expected in seqs {
            let text = loop {
                match client.text() {
                    pong if pong.contains("pong") => pongs += 1,
                    text => break text,
                }
            };
            assert_eq!(seq(&text), expected);
        }
    };
    read(&mut client, 1..=BATCHES * 10);
    // Up to date again, and each one is read before the next: these go directly, for all but the first.
    for n in BATCHES * 10 + 1..=BATCHES * 10 + 100 {
        port.offer(&batch(n..=n, 10));
        read(&mut client, n..=n);
    }
    client.send("{\"type\":\"status\"}");
    while client.text() != "{\"type\":\"status\"}" {
        pongs += 1;
    }
    assert_eq!(pongs, BATCHES / 500);
    drop(client);
    port.wait_until_empty();
}

/// Offers batches until the first client's queue is full, and drops it as the hub would; the last seq it was given.
fn fill(port: &Port) -> u64 {
    for n in 0..10_000 {
        if port.offer(&batch(n * 10 + 1..=n * 10 + 10, 10_000))[0] == Offer::Lagged {
            return port.source.subscribers.lock().unwrap().remove(0).last_queued();
        }
    }
    panic!("a client that does not read is never cut off");
}

#[test]
fn a_client_that_lags_gets_what_was_queued_and_the_seq_to_go_on_from() {
    let port = port();
    let mut client = port.client();
    let last = fill(&port);
    for expected in 1..=last {
        assert_eq!(seq(&client.text()), expected);
    }
    assert_eq!(client.reader.read(), Err(Ended::Close(Some(1013))));
    assert_eq!(client.reader.close_reason(), format!("lagged after seq {last}"));
    drop(client);
    port.wait_until_empty();
}

#[test]
fn a_client_that_never_reads_costs_others_nothing() {
    let port = port();
    let stuck = port.client();
    let mut other = port.client();
    let (stop, stopped) = bounded::<()>(0);
    let seen = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&seen);
    let reading = threads::spawn_contained("test-other", move || {
        let mut last = 0;
        while last < 20_000 {
            last += 1;
            assert_eq!(seq(&other.text()), last);
            theirs.store(last, Ordering::SeqCst);
        }
        drop(stop);
        let _ = other.ended();
    })
    .unwrap();
    for n in 0..2_000 {
        let offers = port.offer(&batch(n * 10 + 1..=n * 10 + 10, 1_000));
        if offers.len() == 2 && offers[0] == Offer::Lagged {
            port.source.subscribers.lock().unwrap().remove(0);
        }
        // The other one keeps up as long as it gets the processor.
        while n * 10 > seen.load(Ordering::SeqCst) + 2_000 {
            assert!(!reading.is_finished());
            std::thread::yield_now();
        }
    }
    assert!(
        stopped.recv_timeout(Duration::from_secs(20)).is_err_and(|error| error != RecvTimeoutError::Timeout)
    );
    port.source.subscribers.lock().unwrap().clear();
    drop(stuck);
    drop(reading);
    port.wait_until_empty();
}

#[test]
fn a_stop_sends_what_is_queued_and_then_1001() {
    for by_hub in [true, false] {
        let port = port();
        let mut client = port.client();
        port.offer(&batch(1..=500, 100));
        let closing = if by_hub {
            port.source.subscribers.lock().unwrap().clear();
            None
        } else {
            let door = port.door;
            Some(threads::spawn_contained("test-close", move || door.close(Duration::from_secs(10))).unwrap())
        };
        for expected in 1..=500 {
            assert_eq!(seq(&client.text()), expected);
        }
        assert_eq!(client.reader.read(), Err(Ended::Close(Some(1001))));
        drop(client);
        drop(closing);
    }
}

#[test]
fn clients_that_vanish_are_noticed_without_any_event() {
    let port = port();
    let clients: Vec<Client> = (0..50).map(|_| port.client()).collect();
    assert_eq!(port.source.clients.load(Ordering::SeqCst), 50);
    drop(clients);
    port.wait_until_empty();
}
