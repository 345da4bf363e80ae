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
use crate::shared::{Phase, Shared, lock};
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
    match shared.phase() {
        Phase::Open if *shared.host.borrow() => None,
        Phase::Open => Some("the host cannot run jobs"),
        Phase::Paused => Some("paused"),
        Phase::Draining | Phase::Stopping => Some("coming to its end"),
    }
}

async fn metrics(shared: &Shared) -> String {
    let outbox = shared.store.outbox_depth().await.unwrap_or(0);
    let free = shared.places.iter().filter_map(|dir| watermark::free(dir));
    let now = Now {
        running: lock(&shared.running).len(),
        slots: shared.slots.most(),
        outbox,
        troubles: shared.troubles.borrow().len(),
        free_bytes: free.map(|free| free.bytes).min().unwrap_or(0),
    };
    shared.metrics.text(now)
}
