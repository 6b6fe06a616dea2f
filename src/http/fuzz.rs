//! Seeded inputs for what the front door reads behind a head; see `tests/it/fuzz.rs` for the rest and for `make fuzz`.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::{self, Framing};
use super::mutate::{Mutator, corpus};
use super::wire::{Stop, Wire};

const MAX: usize = 10_000;

fn count() -> u64 {
    std::env::var("CODEXD_FUZZ_INPUTS").map_or(20_000, |text| text.parse().unwrap())
}

/// A wire on which nothing more comes than what it has.
fn wire(stream: &Arc<TcpStream>, bytes: &[u8]) -> Wire {
    Wire::with_buffer(Arc::clone(stream), bytes.to_vec())
}

fn ended() -> Arc<TcpStream> {
    // All that matters is that reading says the end: what is asked of the socket is the same for both kinds.
    let (ours, _) = UnixStream::pair().unwrap();
    Arc::new(TcpStream::from(OwnedFd::from(ours)))
}

#[test]
fn chunked_bodies() {
    let (stream, corpus) = (ended(), corpus("chunks"));
    let mut mutator = Mutator::new(0x5eed, &corpus);
    let mut whole = 0;
    let until = Instant::now() + Duration::from_secs(24 * 3600);
    for round in 0..count() {
        let input = mutator.next();
        match body::read(&mut wire(&stream, &input), Framing::Chunked, MAX, until) {
            Ok(body) => {
                whole += 1;
                assert!(body.len() <= MAX.min(input.len()), "round {round}: {input:?}");
            }
            Err(Stop::Refuse(error)) => {
                assert!(matches!(error.code.status(), 400 | 413), "{error}: {input:?}")
            }
            Err(Stop::Silent) => panic!("round {round}: {input:?}"),
        }
    }
    assert!(whole > 100, "{whole} bodies were whole: the inputs are too wild");
}

#[test]
fn whole_requests() {
    let (stream, corpus) = (ended(), corpus("head"));
    let mut mutator = Mutator::new(0x5eed, &corpus);
    let mut whole = 0;
    let until = Instant::now() + Duration::from_secs(24 * 3600);
    for _ in 0..count() {
        let input = mutator.next();
        let mut wire = wire(&stream, &input);
        let Ok(mut head) = wire.read_head(Duration::from_secs(9), Duration::from_secs(9)) else { continue };
        let query = head.query().to_owned();
        let token = head.take_parameter("token");
        assert_eq!(token.is_none(), head.query() == query);
        let again = head.take_parameter("token");
        assert!(again.is_none(), "{query}");
        let Ok(framing) = body::framing(&head) else { continue };
        if body::check_size(framing, MAX).is_ok() && body::read(&mut wire, framing, MAX, until).is_ok() {
            whole += 1;
        }
    }
    assert!(whole > 100, "{whole} requests were whole: the inputs are too wild");
}
