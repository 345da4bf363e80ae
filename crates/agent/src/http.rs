//! Health, readiness and metrics for those who look from outside. Nothing can be changed here, and nothing of a job is
//! shown.
//!
//! - `GET /health`: 200 for as long as the agent lives; doc-thor's server asks for it
//! - `GET /ready`: 200 if jobs are taken, else 503 with the reason
//! - `GET /metrics`: counters in the OpenMetrics text format

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::error::AgentError;
use crate::metrics::Now;
use crate::shared::{FeedState, Phase, Shared, Trouble, lock};
use crate::{Listen, socket, watermark};

/// Connections at one time; more wait.
const ABREAST: usize = 32;

/// Whoever connects says what they want within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that is listened on.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens, or takes what the service manager listens on.
pub(crate) async fn bind(listen: &Listen) -> Result<Listener, AgentError> {
    let failed = |place: String| move |source| AgentError::Listen { place, source };
    match listen {
        Listen::Address(address) => tcp(*address).await.map_err(failed(address.to_string())),
        Listen::Socket(path) => unix(path).map_err(failed(path.display().to_string())),
        Listen::Passed => passed().map_err(failed(
            "the socket of the service manager (LISTEN_FDS)".to_owned(),
        )),
    }
}

async fn tcp(address: SocketAddr) -> io::Result<Listener> {
    TcpListener::bind(address).await.map(Listener::Tcp)
}

fn unix(path: &Path) -> io::Result<Listener> {
    socket::clear(path)?;
    UnixListener::bind(path).map(Listener::Unix)
}

fn passed() -> io::Result<Listener> {
    let mut fds = ListenFd::from_env();
    if fds.len() == 0 {
        let text = "there is none: start the agent through its socket unit, or set agent.listen to an address";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    if let Ok(Some(listener)) = fds.take_tcp_listener(0) {
        keep_to_ourselves(&listener)?;
        listener.set_nonblocking(true)?;
        return TcpListener::from_std(listener).map(Listener::Tcp);
    }
    match fds.take_unix_listener(0)? {
        Some(listener) => {
            keep_to_ourselves(&listener)?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener).map(Listener::Unix)
        }
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// What the service manager passes is inherited by every program, unless it is marked.
fn keep_to_ourselves(socket: impl AsFd) -> io::Result<()> {
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Answers for as long as the agent lives.
pub(crate) async fn serve(shared: Arc<Shared>, listener: Listener) {
    let places = Arc::new(Semaphore::new(ABREAST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let shared = Arc::clone(&shared);
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    converse(shared, stream).await;
                    drop(place);
                });
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    converse(shared, stream).await;
                    drop(place);
                });
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "could not take a connection");
            tokio::time::sleep(PATIENCE).await;
        }
    }
}

async fn converse(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return said(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
    }
    match request.uri().path() {
        "/health" => said(StatusCode::OK, JSON, "{\"status\":\"ok\"}\n"),
        "/ready" => match not_ready(shared) {
            None => said(StatusCode::OK, JSON, "{\"status\":\"ready\"}\n"),
            Some(why) => {
                let body = serde_json::json!({"status": "not ready", "reason": why});
                said(StatusCode::SERVICE_UNAVAILABLE, JSON, format!("{body}\n"))
            }
        },
        "/metrics" => said(StatusCode::OK, METRICS, metrics(shared).await),
        _ => said(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /health, /ready and /metrics\n",
        ),
    }
}

fn said(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Why no jobs are taken. What is wrong in detail is for those who can ask on the control socket.
fn not_ready(shared: &Shared) -> Option<&'static str> {
    let refuses = |feed: &Arc<FeedState>| shared.has(&Trouble::Feed(feed.name.clone()));
    match shared.phase() {
        Phase::Open if !*shared.host.borrow() => Some("the host cannot run jobs"),
        Phase::Open if shared.has(&Trouble::Space) => Some("free space is below a watermark"),
        Phase::Open if shared.has(&Trouble::Store) => Some("the agent's state cannot be written"),
        Phase::Open if shared.feeds.iter().all(refuses) => Some("no feed gives jobs"),
        Phase::Open => None,
        Phase::Paused => Some("paused"),
        Phase::Draining | Phase::Stopping => Some("coming to its end"),
    }
}

async fn metrics(shared: &Shared) -> String {
    let free: Vec<_> = shared
        .places
        .iter()
        .filter_map(|dir| watermark::free(dir))
        .collect();
    let marks = shared.settings().watermarks;
    let outbox = shared.store.outbox_depth().await.ok();
    let now = Now {
        running: lock(&shared.running).len(),
        slots: shared.slots.most(),
        outbox,
        troubles: shared.troubles.borrow().len(),
        free_bytes: free.iter().map(|free| free.bytes).min(),
        free_inodes: free.iter().filter_map(|free| free.inodes).min(),
        mark_bytes: marks.free_bytes.bytes(),
        mark_inodes: marks.free_inodes,
    };
    shared.metrics.text(now)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::tests::{Bed, anywhere};

    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn an_agent_that_takes_no_jobs_is_not_ready() {
        let bed = Bed::new(anywhere());
        let shared = &bed.shared;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("health.sock");
        let tcp = bind(&Listen::Address(anywhere())).await.unwrap();
        let Listener::Tcp(listener) = &tcp else {
            panic!("it is TCP");
        };
        let address = listener.local_addr().unwrap();
        let unix = bind(&Listen::Socket(path.clone())).await.unwrap();
        for listener in [tcp, unix] {
            tokio::spawn(serve(Arc::clone(shared), listener));
        }
        let look = async |status: u16, reason: &str| {
            let stream = TcpStream::connect(address).await.unwrap();
            let one = ask(stream, "/ready").await;
            let stream = UnixStream::connect(&path).await.unwrap();
            assert_eq!(ask(stream, "/ready").await, one);
            assert_eq!(one.0, status, "{}", one.1);
            let said: serde_json::Value = serde_json::from_str(&one.1).unwrap();
            assert_eq!(said["reason"].as_str().unwrap_or_default(), reason);
            assert_eq!(said["status"] == "ready", status == 200);
        };
        look(503, "the host cannot run jobs").await;
        shared.host.send_replace(true);
        look(200, "").await;
        let refuses = Trouble::Feed(bed.feed().name.clone());
        for (trouble, reason) in [
            (Trouble::Space, "free space is below a watermark"),
            (Trouble::Store, "the agent's state cannot be written"),
            (refuses, "no feed gives jobs"),
        ] {
            shared.trouble(trouble.clone(), "for a test");
            look(503, reason).await;
            shared.mended(&trouble);
            look(200, "").await;
        }
        for trouble in [Trouble::Cache, Trouble::Outbox(bed.feed().name.clone())] {
            shared.trouble(trouble, "jobs are taken all the same");
        }
        look(200, "").await;
        for (phase, reason) in [
            (Phase::Paused, "paused"),
            (Phase::Draining, "coming to its end"),
        ] {
            shared.phase.send_replace(phase);
            look(503, reason).await;
        }
        let stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(stream, "/health").await.0, 200);
    }
}
