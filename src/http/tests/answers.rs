//! What a handler's answer is taken for: whole, cut, or more than it says.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::super::inner::receive;

/// Whether an answer that comes in these pieces is whole, and all that was taken of it.
fn taken(pieces: &[&str], head_only: bool) -> (bool, String) {
    let (mut handler, connection) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || pieces.iter().try_for_each(|piece| handler.write_all(piece.as_bytes())));
        let mut answer = Vec::new();
        let whole = receive(&connection, head_only, &mut answer).unwrap();
        (whole, String::from_utf8(answer).unwrap())
    })
}

#[test]
fn an_answer_is_whole_when_it_is_as_long_as_its_head_says() {
    let long = "x".repeat(300_000);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len());
    for pieces in [vec![head.as_str(), &long], vec![&head[..20], &head[20..], &long[1..], "x"]] {
        let (whole, answer) = taken(&pieces, false);
        assert!(whole);
        assert_eq!(answer, format!("{head}{long}"));
    }
    assert!(!taken(&[&head, &long[1..]], false).0, "one byte is missing");
    assert!(!taken(&["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxx"], false).0, "one byte too many");
    assert!(!taken(&[&head[..20]], false).0, "half a head");
    assert!(!taken(&[], false).0);
    assert!(!taken(&["HTTP/1.1 200 OK\r\n\r\nx"], false).0, "no length");
    assert!(!taken(&["no HTTP\r\n\r\n"], false).0);
}

#[test]
fn the_answer_to_head_is_its_head() {
    assert!(taken(&["HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"], true).0);
    assert!(!taken(&["HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nx"], true).0);
    assert!(!taken(&["HTTP/1.1 200 OK\r\nContent-Length: 7\r\n"], true).0);
}
