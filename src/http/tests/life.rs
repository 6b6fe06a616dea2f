//! Time, numbers, and the end: slow clients, many clients, busy and dying handlers, closing.

use super::*;

#[test]
fn slow_heads_and_bodies_time_out() {
    let short = Duration::from_millis(80);
    let port = port_with(Limits { head: short, body_time: short, idle: short, ..Limits::default() });
    assert_eq!(status(&port.talk("GET /healthz HTTP/1.1\r\n@X: ")), 408);
    let head = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    assert_eq!(status(&port.talk(head)), 408);
    // Byte by byte does not help: the limit is for the whole head.
    let mut stream = port.connect();
    let until = Instant::now() + Duration::from_secs(10);
    let (_tick, wait) = bounded::<()>(0);
    while Instant::now() < until && stream.write_all(b"G").is_ok() {
        let _ = wait.recv_timeout(Duration::from_millis(5));
    }
    assert!(Instant::now() < until);
    // Silence is answered with silence.
    assert_eq!(port.talk(""), "");
    let mut stream = port.connect();
    stream.write_all(port.expand("GET /healthz HTTP/1.1\r\n@\r\n").as_bytes()).unwrap();
    read_answer(&mut stream);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    // A body cut short is refused, a client that is gone costs nothing.
    let mut stream = port.connect();
    stream.write_all(port.expand(head).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_answer(&mut stream).0.starts_with("http/1.1 400"));
}

#[test]
fn half_open_connections_do_not_keep_health_waiting() {
    // An answer that waits for one of them does not come at all.
    let for_good = Duration::from_secs(3600);
    let port = port_with(Limits { head: for_good, body_time: for_good, ..Limits::default() });
    let half: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = port.connect();
            let part = [
                "",
                "GET",
                "GET /v1/echo HTTP/1.1\r\nHo",
                "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
            ][n % 4];
            stream.write_all(port.expand(part).as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(status(&port.get("/healthz")), 200);
        assert_eq!(status(&port.get("/v1/echo")), 200);
    }
    assert!(port.door.connections() >= half.len());
}

#[test]
fn connections_beyond_the_cap_get_503_while_all_are_served() {
    let mut port = port_with(Limits { connections: 2, ..Limits::default() });
    let mut served: Vec<TcpStream> = (0..2).map(|_| port.connect()).collect();
    for stream in &mut served {
        stream.write_all(port.expand("GET /v1/hold HTTP/1.1\r\n@\r\n").as_bytes()).unwrap();
        port.entered.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    assert_eq!(status(&port.talk("")), 503);
    drop(port.release.take());
    for stream in &mut served {
        assert!(read_answer(stream).0.starts_with("http/1.1 200"));
    }
    drop(served);
    let until = Instant::now() + Duration::from_secs(5);
    while port.door.connections() > 0 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    assert_eq!(status(&port.get("/healthz")), 200);
}

#[test]
fn a_newcomer_takes_the_place_of_whoever_has_said_nothing_for_longest() {
    let (head, silence) = (Duration::from_secs(60), Duration::ZERO);
    let mut port = port_with(Limits { connections: 4, head, silence, ..Limits::default() });
    let ask = |stream: &mut TcpStream, path: &str| {
        stream.write_all(port.expand(&format!("GET {path} HTTP/1.1\r\n@\r\n")).as_bytes()).unwrap();
    };
    let until = Instant::now() + Duration::from_secs(30);
    // Each is there before the next: that is answered on it, or seen among the open ones.
    let mut talking = port.connect();
    ask(&mut talking, "/healthz");
    read_answer(&mut talking);
    let mut held = port.connect();
    ask(&mut held, "/v1/hold");
    port.entered.recv_timeout(Duration::from_secs(10)).unwrap();
    let mut first = port.connect();
    while port.door.connections() == 2 {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    let mut second = port.connect();
    let half = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 9\r\n\
                Expect: 100-continue\r\n\r\n";
    second.write_all(port.expand(half).as_bytes()).unwrap();
    assert!(read_answer(&mut second).0.starts_with("http/1.1 100"));
    // That one waits anew, and so for less long than the two.
    ask(&mut talking, "/healthz");
    read_answer(&mut talking);
    let newcomers = [(&mut first, ""), (&mut second, "HTTP/1.1 503")].map(|(silent, word)| {
        let mut newcomer = port.connect();
        ask(&mut newcomer, "/healthz");
        assert!(read_answer(&mut newcomer).0.starts_with("http/1.1 200"));
        // Whose request was not whole is told.
        let mut last = String::new();
        silent.read_to_string(&mut last).unwrap();
        assert!(last.starts_with(word) && last.is_empty() == word.is_empty(), "{last}");
        newcomer
    });
    assert_eq!(port.door.connections(), 4);
    for mut stream in newcomers.into_iter().chain([talking]) {
        ask(&mut stream, "/healthz");
        assert!(read_answer(&mut stream).0.starts_with("http/1.1 200"));
    }
    drop(port.release.take());
    assert!(read_answer(&mut held).0.starts_with("http/1.1 200"));
}

/// Each request is handled and answered, or refused, or never read because its connection ended before; none of the
/// clients sends it again.
#[test]
fn who_makes_way_was_not_handled() {
    let port = port_with(Limits { connections: 2, silence: Duration::ZERO, ..Limits::default() });
    let post = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 2\r\n";
    let whole = format!("{post}Connection: close\r\n\r\n{{}}");
    // After an answer that no handler gave.
    let second = format!("GET /nope HTTP/1.1\r\n@\r\n{whole}");
    let answered: usize = std::thread::scope(|scope| {
        let client = |number: usize| {
            let (port, request) = (&port, if number.is_multiple_of(2) { &whole } else { &second });
            scope.spawn(move || {
                let sent = port.expand(request);
                let answers = (0..50).map(|_| {
                    let mut stream = port.connect();
                    let mut answer = Vec::new();
                    let _ = stream.write_all(sent.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
                    String::from_utf8_lossy(&answer).matches("HTTP/1.1 200").count()
                });
                answers.sum::<usize>()
            })
        };
        let clients: Vec<_> = (0..8).map(client).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!(port.handled.load(Ordering::Relaxed), answered);
    assert!(answered > 0);
}

#[test]
fn a_burst_beyond_the_cap_leaves_no_whole_request_without_an_answer() {
    // However busy the machine is, none is silent for as long.
    let silence = Duration::from_secs(20);
    let port = port_with(Limits { connections: 16, silence, ..Limits::default() });
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    let answer = port.get("/v1/echo");
                    assert!([200, 503].contains(&status(&answer)), "{answer:?}");
                });
            }
        });
    }
}

#[test]
fn slow_calls_keep_nothing_else_waiting_and_no_worker_is_503() {
    let mut port = port_with(Limits { wait: Duration::from_millis(50), ..Limits::default() });
    let mut held: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = port.connect();
            stream.write_all(port.expand("GET /v1/hold HTTP/1.1\r\n@\r\n").as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..16 {
        port.entered.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    for path in ["/v1/echo", "/v1/local", "/healthz"] {
        assert_eq!(status(&port.get(path)), 200, "{path}");
    }
    let busy = port.get("/v1/hold");
    assert_eq!(status(&busy), 503);
    assert!(busy.contains("retry-after: 1"));
    drop(port.release.take());
    for stream in &mut held {
        assert!(read_answer(stream).0.starts_with("http/1.1 200"));
    }
}

#[test]
fn a_panic_is_500_and_its_worker_goes_on() {
    let port = port();
    for _ in 0..6 {
        assert_eq!(status(&port.get("/v1/panic")), 500);
    }
    assert_eq!(status(&port.get("/v1/echo")), 200);
}

#[test]
fn the_inner_server_is_started_again_when_it_dies() {
    let port = port();
    let get = "GET /v1/echo HTTP/1.1\r\n@Connection: close\r\n\r\n";
    let post = "POST /v1/echo HTTP/1.1\r\n@Connection: close\r\n\r\n";
    for (first, second) in [(get, post), (post, get), (get, post), (post, get)] {
        assert_eq!(status(&port.talk(get)), 200);
        port.door.kill_inner();
        assert_eq!((status(&port.talk(first)), status(&port.talk(second))), (200, 200), "{first}");
    }
}

#[test]
fn no_request_is_lost_or_mistaken_while_the_inner_server_dies_again_and_again() {
    let port = port();
    let (answered, answers) = bounded(0);
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (mut stream, answered) = (port.connect(), answered.clone());
            let head = port.expand("POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\n");
            crate::threads::spawn_contained(format!("test-client-{client}"), move || {
                for n in 0..200 {
                    // Some are more than tiny_http reads ahead.
                    let body = format!("{{\"mine\":\"{client}-{n}-{}\"}}", "x".repeat(n % 7 * 300));
                    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(request.as_bytes()).unwrap();
                    let (status, answer) = read_answer(&mut stream);
                    let right =
                        status.starts_with("http/1.1 200") && answer.contains(&format!("{client}-{n}-"));
                    answered.send(right.then_some(()).ok_or((status, answer))).unwrap();
                }
            })
            .unwrap()
        })
        .collect();
    // Goes first when an assertion fails, so that the clients end.
    let answers = answers;
    for n in 0..1200 {
        let answer = answers.recv_timeout(Duration::from_secs(20)).expect("a request hangs");
        assert_eq!(answer, Ok(()));
        // Rarely enough that nobody meets with more dying servers than a request is tried.
        if n % 60 == 0 {
            port.door.kill_inner();
        }
    }
    drop(clients);
}

#[test]
fn closing_lets_work_end_and_then_nothing_listens() {
    let mut port = port();
    let mut idle = port.connect();
    idle.write_all(port.expand("GET /healthz HTTP/1.1\r\n@\r\n").as_bytes()).unwrap();
    read_answer(&mut idle);
    let mut busy = port.connect();
    busy.write_all(port.expand("GET /v1/hold HTTP/1.1\r\n@\r\n").as_bytes()).unwrap();
    port.entered.recv_timeout(Duration::from_secs(10)).unwrap();
    let (address, door, release) = (port.address, port.door, port.release.take());
    let closing =
        crate::threads::spawn_contained("test-close", move || door.close(Duration::from_secs(10))).unwrap();
    // The idle connection ends at once; the other one is answered.
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    drop(release);
    let (head, _) = read_answer(&mut busy);
    assert!(head.starts_with("http/1.1 200") && head.contains("connection: close"), "{head}");
    closing.join();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_error_while_the_port_closes_promises_no_further_request() {
    // The last request gives up waiting for a handler. If the machine is so busy that it did so before the port began
    // to close, that says nothing, and it is tried with a longer wait.
    for wait in [1, 4, 16] {
        let mut port = port_with(Limits { wait: Duration::from_secs(wait), ..Limits::default() });
        let ask = |request: &str| {
            let mut stream = port.connect();
            stream.write_all(port.expand(&format!("{request}\r\n")).as_bytes()).unwrap();
            stream
        };
        let mut idle = ask("GET /healthz HTTP/1.1\r\n@");
        read_answer(&mut idle);
        let held: Vec<TcpStream> = (0..16).map(|_| ask("GET /v1/hold HTTP/1.1\r\n@")).collect();
        for _ in 0..16 {
            port.entered.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let post = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 2\r\n";
        let mut last = ask(&format!("{post}Expect: 100-continue\r\n"));
        assert!(read_answer(&mut last).0.starts_with("http/1.1 100"));
        last.write_all(b"{}").unwrap();
        let (door, release) = (port.door, port.release.take());
        let closing =
            crate::threads::spawn_contained("test-close", move || door.close(Duration::from_secs(30)))
                .unwrap();
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        last.set_nonblocking(true).unwrap();
        let in_time = last.peek(&mut [0]).is_err();
        last.set_nonblocking(false).unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).unwrap();
        drop(release);
        drop(held);
        closing.join();
        if in_time {
            assert_eq!(status(&answer), 503, "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
            return;
        }
    }
    panic!("the machine is too busy to tell");
}

#[test]
fn what_may_have_had_an_effect_is_not_done_again_when_the_port_is_cut() {
    let mut port = port();
    let post = "POST /v1/hold HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let _busy = [(); 2].map(|()| {
        let mut stream = port.connect();
        stream.write_all(port.expand(post).as_bytes()).unwrap();
        port.entered.recv_timeout(Duration::from_secs(10)).unwrap();
        stream
    });
    // There is a worker that has nothing to do.
    let release = port.release.take().unwrap();
    release.send_timeout((), Duration::from_secs(10)).unwrap();
    // No grace: the other one's connection is cut while its handler is at it.
    port.door.close(Duration::ZERO);
    assert_eq!(port.handled.load(Ordering::Relaxed), 2);
}
