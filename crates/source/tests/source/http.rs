//! Git's smart HTTP on loopback, plain or over TLS: `git http-backend` behind the smallest server that git talks to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::bed::{git, git_command};
use crate::lfs_server::{self, After, StandIn};

/// How the server behaves; it can be changed between requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Asks for a password, and takes none.
    Locked,
    /// Takes this `USER:PASSWORD` alone.
    Knows(String),
    /// Asks for a password, and repeats what it got in what it says.
    Repeats,
    /// Reads the request and never answers.
    Hangs,
    /// Closes the connection in the middle of the pack.
    DropsMidPack,
    /// Stops sending in the middle of the pack, and keeps the connection.
    StopsMidPack,
    /// Sends a pack that has no end.
    Endless,
    /// Answers with what is not HTTP.
    Garbage,
    /// Answers with a pack in which bytes are changed.
    BadPack,
    /// Answers like a server that is overloaded.
    Overloaded,
    /// Answers with a page for people.
    NotGit,
    /// Gives only what a reference names, and else says this, where `ID` is what was wanted.
    TipsOnly(&'static str),
    /// Answers after so long.
    Slow(Duration),
    /// Says that its objects are named in this way.
    Names(&'static str),
    /// Sends everybody to the same path below this address.
    Redirects(String),
}

/// What the server has seen and is to do.
#[derive(Debug)]
struct State {
    root: PathBuf,
    manner: Mutex<Manner>,
    /// The headers of each request.
    requests: Mutex<Vec<String>>,
    /// Requests that wait for their answer, and the most that ever were.
    waiting: Mutex<(usize, usize)>,
    lfs: StandIn,
}

pub(crate) struct Server {
    address: String,
    /// The certificate of the authority that a server with TLS has its own from.
    pub(crate) authority: Option<PathBuf>,
    state: Arc<State>,
    ended: Receiver<()>,
    _dir: tempfile::TempDir,
}

/// A connection, plain or not.
trait Wire: Read + Write {
    fn close(&mut self);
}

impl Wire for TcpStream {
    fn close(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Wire for StreamOwned<ServerConnection, TcpStream> {
    fn close(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
        let _ = self.sock.shutdown(Shutdown::Both);
    }
}

impl Server {
    /// Serves the repositories below a directory.
    pub(crate) fn start(root: &Path) -> Self {
        Self::serve(root, None)
    }

    /// The same over TLS, with a certificate for `127.0.0.1` and `localhost` of an authority that nobody knows.
    pub(crate) fn start_tls(root: &Path) -> Self {
        let (config, authority) = certificates();
        Self::serve(root, Some((config, authority)))
    }

    fn serve(root: &Path, tls: Option<(Arc<ServerConfig>, String)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            root: root.to_owned(),
            manner: Mutex::new(Manner::Honest),
            requests: Mutex::default(),
            waiting: Mutex::default(),
            lfs: StandIn::new(root, &address),
        });
        let (config, authority) = tls.unzip();
        let authority = authority.map(|pem| {
            let path = dir.path().join("authority.pem");
            fs::write(&path, pem).unwrap();
            path
        });
        let (tell, ended) = mpsc::channel();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let (state, tell, config) = (Arc::clone(&shared), tell.clone(), config.clone());
                thread::spawn(move || match config {
                    None => serve(stream, &state, &tell),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        serve(StreamOwned::new(connection, stream), &state, &tell);
                    }
                });
            }
        });
        Self {
            address,
            authority,
            state,
            ended,
            _dir: dir,
        }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
    }

    /// How many requests were ever there at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.waiting.lock().unwrap().1
    }

    /// What it has of Git LFS; nothing until it is told how to behave.
    pub(crate) fn lfs(&self) -> &StandIn {
        &self.state.lfs
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.seen().len()
    }

    /// The headers of each request.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Whether any client proved who it is, or tried.
    pub(crate) fn was_told_who(&self) -> bool {
        let told = |headers: &String| headers.to_ascii_lowercase().contains("authorization");
        self.seen().iter().any(told)
    }

    /// Waits until a client that the server let hang has gone.
    pub(crate) fn wait_for_hang_up(&self) {
        self.ended.recv_timeout(crate::bed::SOON).unwrap();
    }
}

/// The header of who is this `USER:PASSWORD`.
pub(crate) fn basic(known: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(known))
}

fn certificates() -> (Arc<ServerConfig>, String) {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let name = rcgen::DnType::CommonName;
    params
        .distinguished_name
        .push(name, "an authority of the stories");
    let root = params.self_signed(&authority).unwrap();
    let issuer = rcgen::Issuer::new(params, authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = rcgen::CertificateParams::new(names).unwrap();
    let chain = vec![server.signed_by(&key, &issuer).unwrap().der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (Arc::new(config), root.pem())
}

fn serve(stream: impl Wire, state: &State, tell: &Sender<()>) {
    let mut wire = BufReader::new(stream);
    let mut first = String::new();
    // A client that does not believe the certificate says nothing more.
    if wire.read_line(&mut first).is_err() || first.is_empty() {
        return;
    }
    let manner = state.manner.lock().unwrap().clone();
    let mut parts = first.split(' ');
    let method = parts.next().unwrap().to_owned();
    let target = parts.next().unwrap_or_default().to_owned();
    // As a proxy is asked; what it is asked for, it has itself.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest[rest.find('/').unwrap()..].to_owned(),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut backend = git_command(&state.root);
    backend
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &state.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query);
    let mut headers = String::new();
    let (mut length, mut chunked, mut who) = (0, false, String::new());
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        headers.push_str(&line);
        let (name, value) = line.split_once(':').unwrap();
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                length = value.parse().unwrap();
                backend.env("CONTENT_LENGTH", value);
            }
            "content-type" => {
                backend.env("CONTENT_TYPE", value);
            }
            "content-encoding" => {
                backend.env("HTTP_CONTENT_ENCODING", value);
            }
            "git-protocol" => {
                backend.env("GIT_PROTOCOL", value);
            }
            "authorization" => who = value.to_owned(),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    state.requests.lock().unwrap().push(headers);
    assert!(!chunked, "the requests of these stories are short");
    let mut body = vec![0; length];
    if wire.read_exact(&mut body).is_err() {
        return;
    }
    let known = match &manner {
        Manner::Knows(known) => basic(known),
        _ => String::new(),
    };
    let request = lfs_server::Request {
        method: &method,
        path,
        who: &who,
        known,
        body: &body,
    };
    match state.lfs.answer(&request, wire.get_mut()) {
        After::NotMine => {}
        After::Close => return wire.get_mut().close(),
        After::Hang => {
            let _ = wire.read_to_end(&mut Vec::new());
            let _ = tell.send(());
            return;
        }
    }
    let plain = |status: &str, text: &str| {
        let length = text.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Type: text/plain");
        format!("{head}\r\nConnection: close\r\n\r\n{text}").into_bytes()
    };
    let locked = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"";
    let half = |mut answer: Vec<u8>| {
        if let Some(at) = answer.windows(4).position(|w| w == b"PACK") {
            answer.truncate(at + 100);
        }
        answer
    };
    let answer = match &manner {
        Manner::Hangs => {
            // Until the client goes away: its end is the end of this read.
            let _ = wire.read_to_end(&mut Vec::new());
            let _ = tell.send(());
            return;
        }
        Manner::Locked => plain(locked, "sorry\n"),
        Manner::Knows(known) => {
            if who == basic(known) {
                cgi(backend, &body)
            } else {
                plain(locked, "sorry\n")
            }
        }
        Manner::Repeats if who.is_empty() => plain(locked, "sorry\n"),
        Manner::Repeats => {
            let given = BASE64_STANDARD.decode(&who["Basic ".len()..]).unwrap();
            let text = format!("who is {}?\n", String::from_utf8(given).unwrap());
            plain("500 Internal Server Error", &text)
        }
        Manner::Overloaded => plain("503 Service Unavailable", "sorry\n"),
        Manner::NotGit => plain("200 OK", "sorry\n"),
        Manner::Redirects(to) => plain(&format!("302 Found\r\nLocation: {to}{target}"), ""),
        Manner::Garbage => vec![0x17; 4096],
        Manner::Honest => cgi(backend, &body),
        Manner::Slow(pause) => {
            let count = |more: bool| {
                let mut waiting = state.waiting.lock().unwrap();
                waiting.0 = if more { waiting.0 + 1 } else { waiting.0 - 1 };
                waiting.1 = waiting.1.max(waiting.0);
            };
            count(true);
            thread::sleep(*pause);
            count(false);
            cgi(backend, &body)
        }
        Manner::TipsOnly(words) => match not_a_tip(state, path, &body) {
            Some(id) => refusal(&words.replace("ID", &id)),
            None => cgi(backend, &body),
        },
        Manner::Names(format) => {
            let honest = String::from_utf8_lossy(&cgi(backend, &body)).into_owned();
            let (_, content) = honest.split_once("\r\n\r\n").unwrap();
            let line = format!("object-format={format}\n");
            let line = format!("{:04x}{line}", line.len() + 4);
            let content = content.replace("0017object-format=sha1\n", &line);
            let kind = "application/x-git-upload-pack-advertisement";
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{content}", content.len()).into_bytes()
        }
        Manner::DropsMidPack => half(cgi(backend, &body)),
        Manner::BadPack => {
            let mut answer = cgi(backend, &body);
            if let Some(at) = answer.windows(4).position(|w| w == b"PACK") {
                answer[at + 20..at + 40].fill(0x55);
            }
            answer
        }
        Manner::StopsMidPack => {
            let answer = cgi(backend, &body);
            let stops = answer.windows(4).any(|w| w == b"PACK");
            let _ = wire.get_mut().write_all(&half(answer));
            let _ = wire.get_mut().flush();
            if stops {
                let _ = wire.read_to_end(&mut Vec::new());
                let _ = tell.send(());
            }
            return wire.get_mut().close();
        }
        Manner::Endless => {
            let answer = cgi(backend, &body);
            if answer.windows(4).any(|w| w == b"PACK") {
                let wire = wire.get_mut();
                let _ = endless(wire);
                let _ = tell.send(());
                return;
            }
            answer
        }
    };
    let wire = wire.get_mut();
    let _ = wire.write_all(&answer);
    wire.close();
}

/// A pack of one blob that is longer than anybody has room for, as stored blocks of zlib; until nobody takes it.
fn endless(wire: &mut impl Write) -> std::io::Result<()> {
    wire.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\nConnection: close\r\n\r\n",
    )?;
    // Lines of the protocol begin with four digits, their own length; 1 is the band of the pack.
    wire.write_all(b"000dpackfile\n")?;
    let mut send = |piece: &[u8]| {
        wire.write_all(format!("{:04x}\x01", piece.len() + 5).as_bytes())?;
        wire.write_all(piece)
    };
    // Version 2, one object: a blob of about 2^59 bytes, in zlib's form.
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
    pack.extend_from_slice(&[
        0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x78, 0x01,
    ]);
    send(&pack)?;
    let mut block = vec![0, 0x00, 0x80, 0xff, 0x7f];
    block.resize(5 + 0x8000, 0x55);
    loop {
        send(&block)?;
    }
}

/// What a request wants and no reference of the repository names.
fn not_a_tip(state: &State, path: &str, body: &[u8]) -> Option<String> {
    let repository = path
        .trim_start_matches('/')
        .strip_suffix("/git-upload-pack")?;
    let tips = git(
        &state.root.join(repository),
        &["for-each-ref", "--format=%(objectname)"],
    );
    let body = String::from_utf8_lossy(body);
    let mut wants = body.split("want ").skip(1).map(|rest| &rest[..40]);
    wants.find(|id| !tips.contains(id)).map(str::to_owned)
}

/// An answer of the protocol that is an error.
fn refusal(words: &str) -> Vec<u8> {
    let line = format!("ERR {words}\n");
    let line = format!("{:04x}{line}", line.len() + 4);
    let kind = "application/x-git-upload-pack-result";
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{line}", line.len()).into_bytes()
}

/// Runs the backend and turns what it says into an answer.
fn cgi(mut backend: std::process::Command, body: &[u8]) -> Vec<u8> {
    let mut child = backend
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    let status = head
        .lines()
        .find_map(|l| l.strip_prefix("Status: "))
        .unwrap_or("200 OK");
    let length = said.len() - end - 4;
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(&said[end + 4..]);
    answer
}
