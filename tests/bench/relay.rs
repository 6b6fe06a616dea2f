//! The physical limit here: the same child, its bytes copied to one TCP client, nothing else done with them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::clients::age;

/// How long `count` lines took from the first byte to the last, and each one's age at the client if wanted.
pub fn run(prompt: &str, count: usize, latency: bool) -> (Duration, Vec<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || receive(TcpStream::connect(address).unwrap(), count, latency));
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("--child")
        .args(prompt.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = output.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        socket.write_all(&buffer[..read]).unwrap();
    }
    drop(socket);
    child.wait().unwrap();
    client.join().unwrap()
}

fn receive(mut stream: TcpStream, count: usize, latency: bool) -> (Duration, Vec<u64>) {
    let mut buffer = vec![0; 1 << 20];
    let (mut filled, mut lines) = (0, 0);
    let mut ages = Vec::new();
    let mut began = None;
    loop {
        let read = stream.read(&mut buffer[filled..]).unwrap();
        let began = *began.get_or_insert_with(Instant::now);
        filled += read;
        let mut at = 0;
        while let Some(end) = memchr::memchr(b'\n', &buffer[at..filled]) {
            if latency {
                ages.push(age(&buffer[at..at + end]));
            }
            lines += 1;
            at += end + 1;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if read == 0 {
            assert_eq!(lines, count);
            return (began.elapsed(), ages);
        }
    }
}
