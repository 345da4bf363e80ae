//! Git's smart HTTP on loopback: `git http-backend` behind the smallest server that git talks to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::bed::git_command;

/// How the server behaves; it can be changed between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Asks for a password.
    Locked,
    /// Reads the request and never answers.
    Hangs,
    /// Closes the connection in the middle of the pack.
    DropsMidPack,
    /// Answers like a server that is overloaded.
    Overloaded,
    /// Answers with a page for people.
    NotGit,
}

pub(crate) struct Server {
    address: String,
    manner: Arc<Mutex<Manner>>,
    requests: Arc<AtomicUsize>,
    ended: Receiver<()>,
}

impl Server {
    /// Serves the repositories below a directory.
    pub(crate) fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let manner = Arc::new(Mutex::new(Manner::Honest));
        let requests = Arc::new(AtomicUsize::new(0));
        let (tell, ended) = mpsc::channel();
        let (root, manners, count) = (root.to_owned(), Arc::clone(&manner), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (root, tell): (PathBuf, Sender<()>) = (root.clone(), tell.clone());
                let (manners, count) = (Arc::clone(&manners), Arc::clone(&count));
                thread::spawn(move || {
                    let manner = *manners.lock().unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    serve(stream.unwrap(), &root, manner, &tell);
                });
            }
        });
        Self {
            address,
            manner,
            requests,
            ended,
        }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Waits until a client that the server let hang has gone.
    pub(crate) fn wait_for_hang_up(&self) {
        self.ended.recv_timeout(crate::bed::SOON).unwrap();
    }
}

fn serve(mut stream: TcpStream, root: &Path, manner: Manner, tell: &Sender<()>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut parts = first.split(' ');
    let method = parts.next().unwrap().to_owned();
    let target = parts.next().unwrap_or_default().to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut backend = git_command(root);
    backend
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
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
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let plain = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: 6\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nsorry\n"
        )
    };
    let answer = match manner {
        Manner::Hangs => {
            // Until the client goes away: its end is the end of this read.
            let _ = reader.read_to_end(&mut Vec::new());
            let _ = tell.send(());
            return;
        }
        Manner::Locked => plain("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"").into(),
        Manner::Overloaded => plain("503 Service Unavailable").into(),
        Manner::NotGit => plain("200 OK").into(),
        Manner::Honest => cgi(backend, &body),
        Manner::DropsMidPack => {
            let mut answer = cgi(backend, &body);
            if let Some(at) = answer.windows(4).position(|w| w == b"PACK") {
                answer.truncate(at + 100);
            }
            answer
        }
    };
    let _ = stream.write_all(&answer);
    let _ = stream.shutdown(Shutdown::Both);
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
