//! The least of HTTP/1.1 that a server in a story needs.
//!
//! Why not a library: a story wants what a library keeps from happening: an answer cut in its middle, one that never comes,
//! bytes that are no HTTP. A thread for each connection is enough for the few clients of a story.
//!
//! Invariant: after [`Listening::close`] the port refuses connections, and connections that were open are broken.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::wait_until;

/// No request of a story has a longer line, or more of them.
const LONGEST_LINE: u64 = 1 << 16;
const MOST_HEADERS: usize = 100;

/// One request, read whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` and its kind.
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    /// The body, without transfer coding.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads the next one. `None` where the client has closed its side.
    pub(crate) fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let Some(first) = line(from)? else {
            return Ok(None);
        };
        let mut words = first.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(bad("no request line"));
        };
        let mut headers = Vec::new();
        loop {
            let text = line(from)?.ok_or_else(|| bad("cut in the headers"))?;
            if text.is_empty() {
                break;
            }
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| bad("a header without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            if headers.len() > MOST_HEADERS {
                return Err(bad("too many headers"));
            }
        }
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body: Vec::new(),
        };
        if request.header("transfer-encoding") == Some("chunked") {
            request.body = chunks(from)?;
        } else if let Some(length) = request.header("content-length") {
            let length = length.parse().map_err(|_| bad("no content length"))?;
            request.body = vec![0; length];
            from.read_exact(&mut request.body)?;
        }
        Ok(Some(request))
    }
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

fn line(from: &mut impl BufRead) -> Result<Option<String>> {
    let mut text = String::new();
    if from.take(LONGEST_LINE).read_line(&mut text)? == 0 {
        return Ok(None);
    }
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn chunks(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?.ok_or_else(|| bad("cut in a chunk"))?;
        let digits = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(digits, 16).map_err(|_| bad("no chunk size"))?;
        let begin = body.len();
        body.resize(begin + size, 0);
        from.read_exact(&mut body[begin..])?;
        line(from)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// One answer, written whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::text(status, value.to_string())
    }

    /// JSON whose members have an order.
    pub(crate) fn text(status: u16, json: String) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", "application/json".to_owned())],
            body: json.into_bytes(),
        }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Status line and headers, to the empty line.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Story\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        // An answer with this status has no body and no length (RFC 9110, 8.6).
        if self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        head.into_bytes()
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> Result<()> {
        to.write_all(&[self.head(), self.body.clone()].concat())
    }
}

/// Whether a connection goes on after an answer.
pub(crate) type GoesOn = bool;

/// What answers requests. It gets the connection itself, so that it can misbehave.
pub(crate) trait Serve: Send + Sync + 'static {
    /// A client has connected; nothing was read yet.
    fn accepted(&self) {}

    /// Answers one request.
    fn serve(&self, request: Request, connection: &mut TcpStream) -> Result<GoesOn>;
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Listening {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Listening {
    /// Listens on an address of this host; with port 0 on any.
    pub(crate) fn open(address: &str, serve: Arc<dyn Serve>) -> Self {
        let mut bound = None;
        // Somebody else's connection may leave from this very port for a moment.
        wait_until("the port is free", || {
            bound = TcpListener::bind(address).ok();
            bound.is_some()
        });
        let listener = bound.expect("it was waited for");
        let address = listener.local_addr().expect("it is bound");
        let over = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (ends, all) = (Arc::clone(&over), Arc::clone(&connections));
        let accepting = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let Ok(other) = connection.try_clone() else {
                    continue;
                };
                all.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(other);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    // What a client did to its connection is the client's story.
                    let _ = converse(&*serve, connection);
                });
            }
        });
        Self {
            address,
            over,
            connections,
            accepting: Some(accepting),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses connections from here on, and breaks those that are open.
    pub(crate) fn close(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.over.store(true, Ordering::SeqCst);
        // It waits for a connection: here is one.
        let _ = TcpStream::connect(self.address);
        let _ = accepting.join();
        let connections = &mut *self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.close();
    }
}

fn converse(serve: &dyn Serve, mut connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    serve.accepted();
    let mut reader = BufReader::new(connection.try_clone()?);
    while let Some(request) = Request::read(&mut reader)? {
        if !serve.serve(request, &mut connection)? {
            break;
        }
    }
    connection.shutdown(Shutdown::Both)
}
