//! A client of the event stream that speaks Server-Sent Events (WHATWG HTML, section 9.2): `curl -N` is a tail.
//!
//! Served whole in the connection's thread. The client says nothing after its request, so its end shows when something
//! is written to it, every 15 s at the latest.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::feed::{End, Feed, Sink};
use super::source::HubSource;
use crate::duplex::WRITE_TIMEOUT;
use crate::duplex::transport::write_socket_now;
use crate::http::api::EventStream;
use crate::http::reply::Reply;
use crate::hub::batch::{Batch, Entry};
use crate::hub::replay::{Gap, Logged};
use crate::os::socket::write_within;

/// From one comment to the next.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes gathered before they are written without waiting for the moment's last event.
const GATHER: usize = 64 * 1024;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";

/// Serves one client to its end. The answer is all up to the end of the connection. Returns whether the client is
/// still there to be told of it.
///
/// # Errors
/// The answer to a request that is refused; nothing has been written then.
pub fn serve(source: &HubSource, request: EventStream<'_>) -> Result<bool, Reply> {
    let (origin, filter) = source.begin(request.head.query(), request.head.get("last-event-id"))?;
    let gathered = HEAD.as_bytes().to_vec();
    let mut client = Client { stream: request.stream, gathered, limit: WRITE_TIMEOUT };
    if request.head.is_head() {
        return Ok(client.flush().is_ok());
    }
    let _present = source.sse_client();
    // The head goes out at once: the client is to know that it is connected.
    if client.flush().is_err() {
        return Ok(false);
    }
    let feed = Feed { origin, filter, stopping: request.stopping, heartbeat: Some(HEARTBEAT) };
    let ended = feed.run(client, &crossbeam_channel::never(), |client, ended| {
        let end = ended?;
        match &end {
            End::Lagged(seq) => client.comment(&format!("lagged after seq {seq}")),
            End::Failed(reason) => client.comment(reason),
            End::ClientGone | End::Stopping => {}
        }
        client.flush().map(|()| end)
    });
    log::debug!("a client of Server-Sent Events ended: {ended:?}");
    Ok(ended.is_ok())
}

struct Client {
    stream: Arc<TcpStream>,
    gathered: Vec<u8>,
    /// For each [`GATHER`] bytes.
    limit: Duration,
}

impl Client {
    fn event(&mut self, seq: u64, kind: &str, data: &[u8]) -> io::Result<()> {
        // Neither a type nor the JSON of one line has a line break.
        self.gathered.extend_from_slice(format!("id: {seq}\nevent: {kind}\ndata: ").as_bytes());
        self.gathered.extend_from_slice(data);
        self.gathered.extend_from_slice(b"\n\n");
        if self.gathered.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    fn comment(&mut self, text: &str) {
        self.gathered.extend_from_slice(b": ");
        self.gathered.extend(text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        self.gathered.extend_from_slice(b"\n\n");
    }
}

impl Sink for Client {
    type Gone = io::Error;

    fn is_stalled(gone: &io::Error) -> bool {
        // As the socket says it when its write timeout is over.
        matches!(gone.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
    }

    fn live(&mut self, batch: &Batch, run: &[Entry]) -> io::Result<()> {
        run.iter().try_for_each(|entry| self.event(entry.seq, entry.kind.name(), batch.event(entry)))
    }

    fn logged(&mut self, event: &Logged<'_>) -> io::Result<()> {
        // A type of a newer version that names no line is still one.
        let kind: String = event.kind.chars().filter(|char| !char.is_control()).collect();
        self.event(event.seq, &kind, event.json.as_bytes())
    }

    fn gap(&mut self, gap: Gap) -> io::Result<()> {
        // With an id, so that a client that comes back is not told of it again.
        let data = format!("{{\"from\":{},\"to\":{}}}", gap.from, gap.to);
        self.event(gap.to, "gap", data.as_bytes())
    }

    fn synced(&mut self, seq: u64) -> io::Result<()> {
        self.comment(&format!("synced {seq}"));
        Ok(())
    }

    fn beat(&mut self) -> io::Result<()> {
        // A client that has hung up shows as the end of its side; one that shut down only that side has to do without.
        self.stream.set_nonblocking(true)?;
        let ended = matches!(self.stream.peek(&mut [0]), Ok(0));
        self.stream.set_nonblocking(false)?;
        if ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.comment("");
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        // A client that takes nothing for that long has lagged, and so has one that takes byte by byte.
        write_within(&*self.stream, &self.gathered, GATHER, self.limit)?;
        self.gathered.clear();
        if self.gathered.capacity() > 4 * GATHER {
            self.gathered = Vec::new();
        }
        Ok(())
    }

    fn flush_now(&mut self) -> io::Result<bool> {
        if self.gathered.is_empty() {
            return Ok(true);
        }
        let sent = write_socket_now(&self.stream, &self.gathered)?;
        self.gathered.drain(..sent);
        Ok(self.gathered.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use rustix::net::sockopt;

    use super::*;

    #[test]
    fn what_does_not_go_at_once_goes_later_and_nothing_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Arc::new(listener.accept().unwrap().0);
        let mut client = Client { stream, gathered: Vec::new(), limit: WRITE_TIMEOUT };
        assert!(client.flush_now().unwrap(), "nothing is left of nothing");
        let mut seq = 0;
        let expected = loop {
            seq += 1;
            client.event(seq, "x", &[b'y'; 20_000]).unwrap();
            let before = client.gathered.len();
            if !client.flush_now().unwrap() {
                assert!(client.gathered.len() <= before);
                break 20_000 * usize::try_from(seq).unwrap();
            }
            assert!(client.gathered.is_empty());
        };
        let writing =
            crate::threads::spawn_contained("test-writer", move || client.flush().unwrap()).unwrap();
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        writing.join();
        for (event, seq) in all.split_terminator("\n\n").zip(1u64..) {
            assert!(event.starts_with(&format!("id: {seq}\nevent: x\ndata: y")), "{seq}");
        }
        assert_eq!(all.matches('y').count(), expected);
    }

    #[test]
    fn a_client_that_takes_a_little_now_and_then_has_lagged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // What is on the way is little as well, so that each little that is taken lets something be written.
        sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sockopt::set_socket_send_buffer_size(&stream, 16 * 1024).unwrap();
        let mut reader = listener.accept().unwrap().0;
        let limit = Duration::from_millis(300);
        stream.set_write_timeout(Some(limit)).unwrap();
        let mut client = Client { stream: Arc::new(stream), gathered: vec![b'x'; 10 * GATHER], limit };
        let (lagged, noticed) = crossbeam_channel::bounded::<()>(0);
        let reading = crate::threads::spawn_contained("test-reader", move || {
            // Much less than the limit allows; once everything is written or given up, the rest at once.
            while noticed.recv_timeout(Duration::from_millis(10)).is_err_and(|end| end.is_timeout()) {
                if reader.read(&mut [0; 1024]).unwrap_or(0) == 0 {
                    return;
                }
            }
        })
        .unwrap();
        // Goes first when an assertion fails, so that the reader ends.
        let lagged = lagged;
        let error = client.flush().unwrap_err();
        assert!(Client::is_stalled(&error), "{error}");
        drop(lagged);
        reading.join();
    }
}
