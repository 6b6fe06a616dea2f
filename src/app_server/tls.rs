//! TLS of a connection that two threads use: one reads, one writes.
//!
//! rustls keeps both directions in one state, so the state is under a mutex that is held only for work in memory. The
//! socket is read and written outside of it: a reader that waits for the server never stops the writer.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use log::warn;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, InvalidMessage, RootCertStore};

use super::dial::{DialError, Limit, Timed};
use super::upgrade;
use crate::config::Endpoint;
use crate::duplex::Transport;
use crate::duplex::transport::{read_socket, write_socket};
use crate::threads::lock;

/// Bytes read from the socket at once: a TLS record and its header fit.
const RAW: usize = 32 * 1024;
/// Plaintext encrypted at once while the state is locked: a TLS record.
const PART: usize = 16 * 1024;
/// Bytes of a --server-ca-file.
const MAX_CA_FILE: u64 = 4 * 1024 * 1024;

/// Secures a connection and upgrades it; also gives what was read behind the upgrade's answer.
///
/// # Errors
/// What is wrong with the certificate, the other side or the connection, and what to check.
pub(super) fn secure(
    stream: Arc<TcpStream>,
    endpoint: &Endpoint,
    ca_file: Option<&Path>,
    token: Option<&str>,
    limit: &Limit<'_>,
    timeout: Duration,
) -> Result<(Arc<dyn Transport>, Vec<u8>), DialError> {
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| DialError(format!("{} is no name a certificate can have", endpoint.host)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DialError(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    let mut state = ClientConnection::new(Arc::new(config), name)
        .map_err(|error| DialError(format!("TLS cannot be set up: {error}")))?;
    let mut timed = Timed { stream: &stream, limit };
    while state.is_handshaking() {
        state
            .complete_io(&mut timed)
            .map_err(|error| handshake_error(&error, endpoint, ca_file.is_some(), timeout))?;
    }
    let mut upgrading = rustls::Stream::new(&mut state, &mut timed);
    let leftover = upgrade::upgrade(&mut upgrading, endpoint, token, timeout)?;
    let tls = TlsStream {
        stream,
        state: Mutex::new(state),
        raw: Mutex::new(Raw { bytes: vec![0; RAW], waiting: 0..0 }),
        records: Mutex::new(Vec::new()),
    };
    Ok((Arc::new(tls), leftover))
}

/// The certificates to trust: those of the file, or the system's.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, DialError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            warn!("a root certificate of the system cannot be read: {error}");
        }
        let (added, _) = roots.add_parsable_certificates(found.certs);
        return if added > 0 {
            Ok(roots)
        } else {
            Err(DialError::new(
                "this system has no root certificates: install them (ca-certificates) or give --server-ca-file",
            ))
        };
    };
    let about = |problem: &str| DialError(format!("the --server-ca-file {} {problem}", path.display()));
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CA_FILE).read_to_end(&mut pem))
        .map_err(|error| about(&format!("cannot be read: {error}")))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|error| about(&format!("is no PEM file: {error}"))).and_then(|der| {
            roots.add(der).map_err(|error| about(&format!("has a bad certificate: {error}")))
        })?;
    }
    if roots.is_empty() {
        return Err(about("holds no certificate (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(roots)
}

fn handshake_error(error: &io::Error, endpoint: &Endpoint, private_ca: bool, timeout: Duration) -> DialError {
    let at = endpoint.authority();
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    DialError(match (tls, error.kind()) {
        (Some(rustls::Error::InvalidCertificate(problem)), _) => {
            certificate_error(problem, endpoint, private_ca)
        }
        (Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)), _) => {
            format!("{at} does not speak TLS: use ws:// (or http://) in --server-endpoint")
        }
        (Some(error), _) => format!("no TLS with {at}: {error}"),
        (None, ErrorKind::TimedOut) => format!(
            "{at} took the connection but no TLS handshake within {} ms: check that it speaks TLS, else use ws://",
            timeout.as_millis()
        ),
        (None, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            format!(
                "{at} closed the connection during the TLS handshake: if it does not speak TLS, use ws://"
            )
        }
        (None, _) => format!("no TLS with {at}: {error}"),
    })
}

fn certificate_error(problem: &CertificateError, endpoint: &Endpoint, private_ca: bool) -> String {
    let at = endpoint.authority();
    match problem {
        CertificateError::UnknownIssuer if private_ca => {
            format!("the certificate of {at} is from none of the authorities in --server-ca-file")
        }
        CertificateError::UnknownIssuer => format!(
            "the certificate of {at} is from an authority this system does not know: give its certificate with \
             --server-ca-file"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the certificate of {at} is not for {}: --server-endpoint must name the host as the certificate does",
            endpoint.host
        ),
        problem => format!("the certificate of {at} is not valid: {problem}"),
    }
}

/// A secured connection after its upgrade.
#[derive(Debug)]
struct TlsStream {
    stream: Arc<TcpStream>,
    state: Mutex<ClientConnection>,
    /// What the reader has of the socket; only it takes this.
    raw: Mutex<Raw>,
    /// The writer's buffer; only whoever writes takes this.
    records: Mutex<Vec<u8>>,
}

/// Bytes of the socket, some of which rustls has not taken yet: it takes no more than it has room to decrypt.
#[derive(Debug)]
struct Raw {
    bytes: Vec<u8>,
    waiting: Range<usize>,
}

impl TlsStream {
    /// Plaintext that is there already; `None` if more must be read first.
    fn plaintext(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match lock(&self.state).reader().read(buffer) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // Closed without a goodbye: for a WebSocket the same end.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Hands on some of the socket's bytes, or its end when there are none; how many were taken.
    fn digest(&self, mut raw: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let taken = state.read_tls(&mut raw)?;
        // What has to be answered (a key update) goes out with the next message or ping.
        state.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(taken)
    }
}

impl Transport for TlsStream {
    fn socket(&self) -> &TcpStream {
        &self.stream
    }

    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        loop {
            if let Some(read) = self.plaintext(buffer)? {
                return Ok(read);
            }
            let mut raw = lock(&self.raw);
            if raw.waiting.is_empty() {
                let read = match read_socket(&self.stream, &mut raw.bytes, wait) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    outcome => outcome?,
                };
                raw.waiting = 0..read;
            }
            raw.waiting.start += self.digest(&raw.bytes[raw.waiting.clone()])?;
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut records = lock(&self.records);
        for part in bytes.chunks(PART) {
            records.clear();
            {
                let mut state = lock(&self.state);
                let mut left = part;
                while !left.is_empty() {
                    let taken = state.writer().write(left)?;
                    left = &left[taken..];
                    while state.wants_write() {
                        state.write_tls(&mut *records)?;
                    }
                }
            }
            write_socket(&self.stream, &records)?;
        }
        Ok(())
    }
}
