//! s3s-fs behind a real socket.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

use crate::fault::{Conditions, Fault, Faults, Seen};
use crate::filesystem::Files;
use crate::store::Store;

const REGION: &str = "test";
const BUCKET: &str = "docs";
const ACCESS_KEY: &str = "TESTACCESSKEY";
const SECRET_KEY: &str = "test-secret-key";

/// A store inside this process, on a port of its own of the loopback address.
pub struct Server {
    store: Store,
    faults: Faults,
    address: SocketAddr,
    authority: Option<PathBuf>,
    runtime: Option<Runtime>,
    directory: tempfile::TempDir,
}

/// The connection ends without an answer.
#[derive(Debug)]
struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a fault of the test")
    }
}

impl std::error::Error for Ended {}

impl Server {
    /// Starts one with an empty bucket.
    pub fn start() -> Self {
        Self::with(None, Conditions::Obeyed)
    }

    /// Starts one that makes this of the conditions of a put.
    pub fn start_with(conditions: Conditions) -> Self {
        Self::with(None, conditions)
    }

    /// Starts one that speaks TLS, with a certificate of an authority that nobody knows; see [`Server::authority`]. Its
    /// objects are looked at through the file system alone.
    pub fn start_tls() -> Self {
        let authority = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&authority).unwrap();
        let pem = certificate.pem();
        let issuer = rcgen::Issuer::new(params, authority);
        let key = rcgen::KeyPair::generate().unwrap();
        let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = server.signed_by(&key, &issuer).unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], der)
            .unwrap();
        Self::with(Some((config, pem)), Conditions::Obeyed)
    }

    fn with(tls: Option<(ServerConfig, String)>, conditions: Conditions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let objects = directory.path().join("objects");
        std::fs::create_dir_all(objects.join(BUCKET)).unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let system = s3s_fs::FileSystem::new(&objects).unwrap();
        let mut builder = S3ServiceBuilder::new(Files::new(system, conditions));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let faults = Faults::default();
        let authority = tls.as_ref().map(|(_, pem)| {
            let path = directory.path().join("ca.pem");
            std::fs::write(&path, pem).unwrap();
            path
        });
        let acceptor = tls.map(|(config, _)| TlsAcceptor::from(Arc::new(config)));
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let host = if acceptor.is_some() {
            "localhost"
        } else {
            "127.0.0.1"
        };
        runtime.spawn(serve(listener, acceptor, builder.build(), faults.clone()));
        Self {
            store: Store::new(
                format!("{scheme}://{host}:{}", address.port()),
                [REGION, BUCKET, ACCESS_KEY, SECRET_KEY],
            ),
            faults,
            address,
            authority,
            runtime: Some(runtime),
            directory,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority that a TLS server's own is signed by, as a PEM file.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// `decide` says what goes wrong with each request from here on.
    pub fn faults(&self, decide: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        self.faults.set(Some(Box::new(decide)));
    }

    /// Nothing goes wrong from here on.
    pub fn no_faults(&self) {
        self.faults.set(None);
    }

    /// What was asked since this was last called.
    pub fn seen(&self) -> Vec<Seen> {
        self.faults.take_seen()
    }

    /// The file with an object's bytes.
    pub fn file(&self, key: &str) -> PathBuf {
        self.directory.path().join("objects").join(BUCKET).join(key)
    }
}

impl Deref for Server {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    service: S3Service,
    faults: Faults,
) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            return;
        };
        let (acceptor, service, faults) = (acceptor.clone(), service.clone(), faults.clone());
        let _ = socket.set_nodelay(true);
        tokio::spawn(async move {
            match acceptor {
                None => talk(socket, service, faults).await,
                // A client that trusts nobody ends the handshake.
                Some(acceptor) => {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        talk(socket, service, faults).await;
                    }
                }
            }
        });
    }
}

async fn talk<S>(socket: S, service: S3Service, faults: Faults)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, faults) = (service.clone(), faults.clone());
        async move { handle(request, &service, &faults).await }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), answer)
        .await;
}

async fn handle(
    request: Request<Incoming>,
    service: &S3Service,
    faults: &Faults,
) -> Result<Response<Body>, Ended> {
    let fault = faults.of(Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
    });
    match fault {
        Some(Fault::Status(status, code)) => return Ok(refusal(status, code)),
        Some(Fault::Answer(status, body)) => return Ok(answer(status, body)),
        Some(Fault::Cut) => return Err(Ended),
        Some(Fault::Hang) => match std::future::pending::<Infallible>().await {},
        Some(Fault::Held(gate)) => gate.pass().await,
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::AnswerLost) => {
            let _ = service.call(request.map(Body::from)).await;
            return Err(Ended);
        }
        None => {}
    }
    service
        .call(request.map(Body::from))
        .await
        .map_err(|_| Ended)
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>of the test</Message></Error>"
    );
    answer(status, text)
}

fn answer(status: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
