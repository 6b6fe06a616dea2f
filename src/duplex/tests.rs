use std::net::TcpListener;

use super::*;
use crate::threads::spawn_contained;

fn pair() -> (Arc<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (Arc::new(listener.accept().unwrap().0), client)
}

/// A masked frame as a client sends it (the mask is zero, so the payload stays readable).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ ..126 => out.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

fn close_payload(code: u16) -> Vec<u8> {
    code.to_be_bytes().to_vec()
}

/// What the server's side makes of the bytes, and the bytes it answers with.
fn served(bytes: &[u8]) -> (Vec<Incoming>, Ended, Vec<u8>) {
    let (server, mut client) = pair();
    client.write_all(bytes).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut reader, _writer) = Duplex::server(server, Vec::new()).unwrap();
    let mut got = Vec::new();
    let ended = loop {
        match reader.read() {
            Ok(incoming) => got.push(incoming),
            Err(ended) => break ended,
        }
    };
    reader.finish();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    (got, ended, answer)
}

fn text(text: &'static str) -> Incoming {
    Incoming::Text(Utf8Bytes::from_static(text))
}

#[test]
fn messages_in_pieces_with_pings_between_them() {
    let mut bytes = frame(0x01, b"he");
    bytes.extend(frame(0x89, b"p1"));
    bytes.extend(frame(0x00, b"l"));
    bytes.extend(frame(0x8a, b"unasked pong"));
    bytes.extend(frame(0x80, b"lo"));
    bytes.extend(frame(0x82, b"\xff"));
    bytes.extend(frame(0x88, &close_payload(1000)));
    let (got, ended, answer) = served(&bytes);
    assert_eq!(got, [text("hello"), Incoming::Binary(Bytes::from_static(b"\xff"))]);
    assert_eq!(ended, Ended::Close(Some(1000)));
    assert_eq!(answer, b"\x8a\x02p1\x88\x02\x03\xe8");
}

/// A socket that takes few bytes at a time of what is not to wait.
#[derive(Debug)]
struct Narrow(TcpStream, usize);

impl Transport for Narrow {
    fn socket(&self) -> &TcpStream {
        &self.0
    }
    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        transport::read_socket(&self.0, buffer, wait)
    }
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        transport::write_socket(&self.0, bytes)
    }
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        transport::write_socket_now(&self.0, &bytes[..self.1.min(bytes.len())])
    }
}

#[test]
fn what_was_begun_without_waiting_goes_on_before_anything_else() {
    // Fewer bytes than the frame's header, than the frame, and than two of them; nothing; and all.
    for (room, order) in
        [(1, ["one", "two", "between"]), (9, ["one", "two", "between"]), (0, ["between", "one", "two"])]
    {
        let (server, client) = pair();
        let (mut there, _) = Duplex::server(server, Vec::new()).unwrap();
        let (reader, mut writer) =
            Duplex::client(Arc::new(Narrow(client, room)), Vec::new(), MAX_MESSAGE).unwrap();
        writer.write("one".into()).and_then(|()| writer.write("two".into())).unwrap();
        assert_eq!(writer.flush_now(), Ok(false), "{room}");
        assert_eq!(writer.flush_now(), Ok(false), "{room}: what is begun is not begun again");
        reader.send("between".to_owned()).unwrap();
        writer.flush().unwrap();
        assert_eq!(order.map(|_| there.read()), order.map(|expected| Ok(text(expected))), "{room}");
        writer.write("all".into()).unwrap();
        while writer.flush_now() == Ok(false) {
            writer.flush().unwrap();
        }
        assert_eq!(there.read(), Ok(text("all")));
        writer.close(code::NORMAL, "").unwrap();
        assert_eq!(writer.write("x".into()).and_then(|()| writer.flush_now()), Err(Closed::Gone));
    }
}

#[test]
fn after_both_closes_nobody_waits_for_the_other_socket() {
    let (server, mut client) = pair();
    let (mut reader, mut writer) = Duplex::server(server, Vec::new()).unwrap();
    writer.close(code::GOING_AWAY, "").unwrap();
    client.write_all(&frame(0x88, &close_payload(code::GOING_AWAY))).unwrap();
    assert_eq!(reader.read(), Err(Ended::Close(Some(code::GOING_AWAY))));
    let began = Instant::now();
    reader.finish();
    assert!(began.elapsed() < DRAIN_TIME / 2, "it waited {:?}", began.elapsed());
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"\x88\x02\x03\xe9", "our Close, and then the end without a reset");
}

#[test]
fn rules_broken_and_what_is_said_to_it() {
    let big = vec![b'x'; MAX_MESSAGE + 1];
    let mut pieces = frame(0x01, &big[..MAX_MESSAGE]);
    pieces.extend(frame(0x80, b"y"));
    let mut unmasked = frame(0x81, b"x");
    unmasked[1] &= 0x7f;
    let mut two_texts = frame(0x01, b"a");
    two_texts.extend(frame(0x81, b"b"));
    for (what, bytes, code) in [
        ("unmasked", unmasked, 1002),
        ("reserved bit", frame(0xc1, b"x"), 1002),
        ("reserved data opcode", frame(0x83, b"x"), 1002),
        ("reserved control opcode", frame(0x8b, b"x"), 1002),
        ("continuation of nothing", frame(0x80, b"x"), 1002),
        ("a text inside of a text", two_texts, 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("large ping", frame(0x89, &[0; 126]), 1002),
        ("close of one byte", frame(0x88, b"x"), 1002),
        ("invalid text", frame(0x81, b"\xff"), 1007),
        ("invalid text in pieces", [frame(0x01, b"\xe2"), frame(0x80, b"\x28")].concat(), 1007),
        ("invalid reason", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("large message", frame(0x81, &big), 1009),
        ("large message in pieces", pieces, 1009),
        ("absurd length", [&[0x81, 0xff][..], &[0x7f; 8], &[0; 4]].concat(), 1009),
    ] {
        let (got, ended, answer) = served(&bytes);
        assert_eq!((got.len(), ended), (0, Ended::Refused(code)), "{what}");
        assert_eq!(answer[..1], [0x88], "{what}");
        assert_eq!(answer[2..4], code.to_be_bytes(), "{what}");
        assert_eq!(answer.len(), usize::from(answer[1]) + 2, "{what}: nothing follows");
    }
    let most = vec![b'x'; MAX_MESSAGE];
    assert_eq!(served(&frame(0x81, &most)).0.len(), 1);
    // A close code nobody may send is answered with 1002 (RFC 6455 section 7.4.2).
    let (_, ended, answer) = served(&frame(0x88, &close_payload(1005)));
    assert_eq!((ended, &answer[2..4]), (Ended::Close(Some(1002)), &1002_u16.to_be_bytes()[..]));
    assert_eq!(served(&frame(0x88, b"")).2, [0x88, 0]);
    assert_eq!(served(b"").1, Ended::Gone);
    assert_eq!(served(&frame(0x81, b"abc")[..5]).1, Ended::Gone);
}

#[test]
fn leftover_of_the_handshake_is_read_first() {
    let (server, mut client) = pair();
    let bytes = frame(0x81, b"abc");
    client.write_all(&bytes[4..]).unwrap();
    let (mut reader, _writer) = Duplex::server(server, bytes[..4].to_vec()).unwrap();
    assert_eq!(reader.read(), Ok(text("abc")));
}

#[test]
fn after_our_close_nothing_is_written_by_either_thread() {
    let (server, mut client) = pair();
    let (mut reader, mut writer) = Duplex::server(server, Vec::new()).unwrap();
    writer.write(Bytes::from_static(b"last")).unwrap();
    writer.close(1013, &"é".repeat(100)).unwrap();
    assert_eq!(writer.write(Bytes::from_static(b"late")).and_then(|()| writer.flush()), Err(Closed::Gone));
    assert_eq!(writer.write(vec![b'x'; GATHER].into()), Err(Closed::Gone));
    assert_eq!(writer.close(1001, ""), Err(Closed::Gone));
    assert_eq!(reader.send("late".into()), Err(Closed::Gone));
    client.write_all(&frame(0x89, b"ping")).unwrap();
    client.write_all(&frame(0x81, b"still heard")).unwrap();
    client.write_all(&frame(0x88, &close_payload(1013))).unwrap();
    assert_eq!(reader.read(), Ok(text("still heard")));
    assert_eq!(reader.read(), Err(Ended::Close(Some(1013))));
    client.shutdown(Shutdown::Write).unwrap();
    reader.finish();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    let expected = [&b"\x81\x04last\x88\x7c\x03\xf5"[..], "é".repeat(61).as_bytes()].concat();
    assert_eq!(answer, expected);
}

#[test]
fn two_threads_write_whole_frames() {
    const EACH: usize = 2000;
    let (server, client) = pair();
    let client = Arc::new(client);
    let (mut reader, mut writer) = Duplex::server(server, Vec::new()).unwrap();
    let (mut theirs, mut asks) = Duplex::client(client, Vec::new(), 1 << 20).unwrap();
    let answering = spawn_contained("test-reader", move || {
        while let Ok(Incoming::Text(text)) = reader.read() {
            reader.send(text.as_str().to_owned()).unwrap();
        }
        reader.finish();
    })
    .unwrap();
    let writing = spawn_contained("test-writer", move || {
        for n in 0..EACH {
            // Small ones are gathered, large ones are not.
            let size = if n % 100 == 0 { 50_000 } else { n % 300 };
            writer.write(format!("w{}", "x".repeat(size)).into()).unwrap();
        }
        writer.flush().unwrap();
    })
    .unwrap();
    let asking = spawn_contained("test-asker", move || {
        for n in 0..EACH {
            asks.write(format!("r{n}").into()).unwrap();
        }
        asks.flush().unwrap();
    })
    .unwrap();
    let (mut written, mut answered) = (0, 0);
    while written < EACH || answered < EACH {
        let Ok(Incoming::Text(text)) = theirs.read() else { panic!("ended early") };
        if let Some(number) = text.strip_prefix('r') {
            assert_eq!(number.parse(), Ok(answered));
            answered += 1;
        } else {
            assert!(text.bytes().skip(1).all(|byte| byte == b'x'));
            written += 1;
        }
    }
    theirs.close(1000, "").unwrap();
    assert_eq!(theirs.read(), Err(Ended::Close(Some(1000))));
    theirs.finish();
    drop((answering, writing, asking));
}
