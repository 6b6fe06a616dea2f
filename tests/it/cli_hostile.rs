//! What comes from outside, at a terminal and in a pipe.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;

use rustix::process::Signal;
use serde_json::json;
use tungstenite::protocol::CloseFrame;

use crate::DEADLINE;
use crate::cli_support::{Ran, command};
use crate::processes::Process;

/// A title, a colour, text from right to left (two ways), and a line of its own.
const NASTY: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\u{61c}\u{7f}\nforged";

/// Whether a terminal would obey something of it.
fn is_obeyed(text: &str) -> bool {
    let mark = |char| matches!(char, '\u{61c}' | '\u{202e}');
    text.chars().any(|char| (char.is_control() && char != '\n') || mark(char))
}

/// Who has the port, and does with every connection what it is told to; its base URL.
fn stranger(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let all = move || listener.incoming().map_while(Result::ok).for_each(&serve);
    thread::Builder::new().name("stranger".into()).spawn(all).expect("a thread");
    base
}

#[test]
fn an_error_is_one_line_of_text() {
    let body = json!({ "ok": false, "error": "bad_request", "message": NASTY }).to_string();
    let base = stranger(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(format!("HTTP/1.1 400 No\r\n\r\n{body}").as_bytes());
    });
    for words in [&["sessions"][..], &["tail"], &["ask", "hi"], &["run", "hi"], &["answer", "x", "accept"]] {
        let ran: Ran = command([words, &["--local-api-base", &base]].concat()).output().unwrap().into();
        let shown = "codexd: \\u{1b}]0;owned\\u{7}\\u{9b}31m\\u{202e}\\u{61c}\\u{7f} forged\n";
        assert_eq!((ran.code, ran.stderr.as_str()), (1, shown), "{words:?}");
    }
}

#[test]
fn the_reason_of_a_stream_that_is_closed_is_text() {
    let base = stranger(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let reason = NASTY.into();
        let _ = socket.close(Some(CloseFrame { code: 1011.into(), reason }));
        while socket.read().is_ok() {}
    });
    for json in [&["--json"][..], &[]] {
        let words = [&["tail", "--after", "0", "--local-api-base", &base], json].concat();
        let mut tail = Process::spawn(command(words).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (mut stdout, mut stderr) =
            (tail.child().stdout.take().unwrap(), tail.child().stderr.take().unwrap());
        // It says that it is lost, and tries again for ever.
        let mut told = String::new();
        let mut chunk = [0; 4096];
        while !told.contains("waiting for codexd") {
            let heard = if json.is_empty() { stdout.read(&mut chunk) } else { stderr.read(&mut chunk) };
            match heard.unwrap() {
                0 => panic!("it has ended: {told}"),
                length => told.push_str(&String::from_utf8_lossy(&chunk[..length])),
            }
        }
        tail.signal(Signal::TERM);
        tail.wait(DEADLINE).expect("it ends");
        assert!(told.contains("1011 \\u{1b}]0;owned\\u{7}\\u{9b}31m") && !is_obeyed(&told), "{told:?}");
        assert!(!told.lines().any(|line| line.starts_with("forged")), "{told:?}");
    }
}
