use std::net::TcpListener;

use super::*;

#[test]
fn who_does_not_answer_is_told_in_words() {
    // Connections are taken by the system; nobody ever reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = ApiClient::new(silent.local_addr().unwrap()).with_timeout(Duration::from_millis(500));
    let error = client.get("/healthz").unwrap_err();
    assert!(error.to_string().ends_with(": no answer within 0.5 s"), "{error}");
    assert!(error.is_timeout());
}

/// What the client makes of an answer of so many bytes in all.
fn told(length: usize, limit: u64) -> Result<Value, ClientError> {
    let head = "HTTP/1.1 200 OK\r\n\r\n{}";
    told_of(&[head, &" ".repeat(length - head.len())].concat(), limit)
}

fn told_of(answer: &str, limit: u64) -> Result<Value, ClientError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = ApiClient { max_answer: limit, ..ApiClient::new(listener.local_addr().unwrap()) };
    let respond = || {
        let (mut stream, _) = listener.accept().unwrap();
        // Else the answer is lost when this end is closed.
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
    };
    std::thread::scope(|scope| {
        scope.spawn(respond);
        client.get("/x")
    })
}

#[test]
fn an_answer_has_an_end() {
    assert_eq!(told(1000, 1000).unwrap(), serde_json::json!({}));
    for length in [1001, 1 << 24] {
        let error = told(length, 1000).unwrap_err();
        assert!(matches!(error, ClientError::TooLong { limit: 1000, .. }), "{length}: {error}");
        assert!(error.to_string().ends_with(" is longer than 1000 bytes"), "{error}");
    }
}

#[test]
fn who_ends_before_its_answer_does_is_no_stranger() {
    for cut in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"ok\":1"] {
        let error = told_of(cut, 1000).unwrap_err();
        assert!(
            error.to_string().ends_with(": the connection ended before the answer did"),
            "{cut}: {error}"
        );
    }
    let stranger = told_of("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 1000).unwrap_err();
    assert!(matches!(stranger, ClientError::NotCodexd { .. }), "{stranger}");
}

#[test]
fn who_does_not_pass_the_check_is_told_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = ApiClient::new(listener.local_addr().unwrap())
        .with_token(Some("secret".to_owned()))
        .with_timeout(Duration::from_millis(500));
    let client = open.clone().with_peer_check(|_, ours| ours.ip().is_loopback().then_some(7));
    let tries: [&dyn Fn() -> ClientError; 3] =
        [&|| client.get("/x").unwrap_err(), &|| client.post("/x", &Value::Null).unwrap_err(), &|| {
            client.stream("/x").err().unwrap()
        }];
    for attempt in tries {
        let error = attempt();
        assert!(matches!(error, ClientError::OtherUser { uid: 7, .. }), "{error}");
        let mut heard = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"", "{error}");
    }
    assert!(open.get("/x").unwrap_err().is_timeout());
    let mut heard = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
    assert!(String::from_utf8(heard).unwrap().contains("\r\nAuthorization: Bearer secret\r\n"));
}
