//! A TCP relay on a loopback port that a test can cut, silence and point elsewhere: the network between codexd and an
//! external app-server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A running relay; dropping it cuts its connections.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    stopping: AtomicBool,
}

impl Relay {
    /// A relay to `host:port`.
    pub(crate) fn to(target: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        *shared.target.lock().unwrap() = Some(target.parse().unwrap());
        let for_thread = Arc::clone(&shared);
        let accept = move || accept_loop(&listener, &for_thread);
        let accept = thread::Builder::new().name("relay".into()).spawn(accept).expect("a thread");
        Relay { address, shared, accept: Some(accept) }
    }

    /// `ws://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Further connections are closed at once, until there is a target again; those that are open are cut.
    pub(crate) fn set_target(&self, target: Option<&str>) {
        *self.shared.target.lock().unwrap() = target.map(|target| target.parse().unwrap());
        self.cut();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address); // wakes accept
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming().map_while(Result::ok) {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let target = *shared.target.lock().unwrap();
        let Some(Ok(other)) = target.map(TcpStream::connect) else { continue };
        shared.open.lock().unwrap().extend([stream.try_clone().unwrap(), other.try_clone().unwrap()]);
        for (from, to) in [(stream.try_clone().unwrap(), other.try_clone().unwrap()), (other, stream)] {
            let copy = move || copy(&from, &to);
            threads.push(thread::Builder::new().name("relay-copy".into()).spawn(copy).expect("a thread"));
        }
    }
    for stream in shared.open.lock().unwrap().drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
