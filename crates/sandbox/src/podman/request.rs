//! One request on one connection.
//!
//! Why no pool: connecting to a unix socket costs tens of microseconds, and a connection that is never used twice has no
//! state that could be stale. The connection is driven by the same future that waits for the answer, so dropping that
//! future ends both.

use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;

use super::error::{Refusal, RequestError};

/// The oldest API that has every field we send; newer services take it too.
const API: &str = "/v4.0.0/libpod";

/// The longest answer: `inspect` of a container with many mounts is some ten kilobytes.
const MOST_ANSWER: usize = 4 << 20;

/// How much of a streamed body is in memory at one time.
const CHUNK: usize = 128 << 10;

type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// A request still to be sent.
pub(super) struct Call {
    method: Method,
    path: String,
    content_type: Option<&'static str>,
    body: Sent,
    within: Option<Duration>,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, RequestError> {
        serde_json::from_slice(&self.body).map_err(RequestError::Answer)
    }
}

impl Call {
    /// The time an ordinary request may take.
    const USUAL: Duration = Duration::from_secs(30);

    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            content_type: None,
            body: nothing(),
            within: Some(Self::USUAL),
        }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Sends a value as JSON.
    ///
    /// # Errors
    ///
    /// When it has no JSON form.
    pub(super) fn json(mut self, value: &impl Serialize) -> Result<Self, RequestError> {
        let text = serde_json::to_vec(value).map_err(RequestError::Answer)?;
        self.content_type = Some("application/json");
        self.body = Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync();
        Ok(self)
    }

    /// Sends a tar archive as it is read.
    pub(super) fn tar(mut self, archive: impl AsyncRead + Send + 'static) -> Self {
        self.content_type = Some("application/x-tar");
        self.body = BodyExt::boxed_unsync(ReaderBody {
            reader: Box::pin(archive),
            buffer: BytesMut::new(),
        });
        self
    }

    /// Bounds the time in which the whole answer must be there.
    pub(super) fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// Takes away the bound.
    pub(super) fn for_as_long_as_it_takes(mut self) -> Self {
        self.within = None;
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    ///
    /// Every status that is not a success is one.
    pub(super) async fn send(self, socket: &Path) -> Result<Answer, RequestError> {
        let within = self.within;
        bounded(within, async {
            let (mut sender, connection) = http1::handshake(connect(socket).await?).await?;
            let talk = async {
                let response = sender.send_request(self.request(false)?).await?;
                let (parts, body) = response.into_parts();
                let body = read(body).await?;
                if parts.status.is_success() {
                    Ok(Answer {
                        headers: parts.headers,
                        body,
                    })
                } else {
                    Err(RequestError::Refused(Refusal::parse(parts.status, &body)))
                }
            };
            drive(talk, connection).await
        })
        .await
    }

    /// Sends it and takes over the connection, with the bytes that came after the answer's head.
    ///
    /// # Errors
    ///
    /// When the service does not give the connection away.
    pub(super) async fn upgrade(self, socket: &Path) -> Result<(UnixStream, Bytes), RequestError> {
        let within = self.within;
        bounded(within, async {
            let (mut sender, connection) = http1::handshake(connect(socket).await?).await?;
            let talk = async {
                let response = sender.send_request(self.request(true)?).await?;
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    return Err(refused(response).await);
                }
                let upgraded = hyper::upgrade::on(response).await?;
                let parts = upgraded
                    .downcast::<TokioIo<UnixStream>>()
                    .map_err(|_| RequestError::Closed)?;
                Ok((parts.io.into_inner(), parts.read_buf))
            };
            drive(talk, connection.with_upgrades()).await
        })
        .await
    }

    fn request(self, upgrade: bool) -> Result<Request<Sent>, RequestError> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = format!("{API}{}", self.path)
            .parse()
            .map_err(|_| RequestError::Closed)?;
        let headers = request.headers_mut();
        let value = header::HeaderValue::from_static;
        headers.insert(header::HOST, value("d"));
        if let Some(kind) = self.content_type {
            headers.insert(header::CONTENT_TYPE, value(kind));
        }
        if upgrade {
            headers.insert(header::CONNECTION, value("Upgrade"));
            headers.insert(header::UPGRADE, value("tcp"));
        }
        Ok(request)
    }
}

async fn connect(socket: &Path) -> Result<TokioIo<UnixStream>, RequestError> {
    let stream = UnixStream::connect(socket).await;
    stream.map(TokioIo::new).map_err(RequestError::Connect)
}

async fn bounded<T>(
    within: Option<Duration>,
    work: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    match within {
        Some(time) => tokio::time::timeout(time, work)
            .await
            .unwrap_or(Err(RequestError::TimedOut(time))),
        None => work.await,
    }
}

/// Runs the connection for as long as the talk on it needs.
async fn drive<T>(
    talk: impl Future<Output = Result<T, RequestError>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<T, RequestError> {
    let mut talk = pin!(talk);
    tokio::select! {
        biased;
        said = &mut talk => said,
        ended = connection => match ended {
            // What was received before the end is still there to be read.
            Ok(()) => talk.await,
            Err(error) => Err(error.into()),
        },
    }
}

async fn read<B>(body: B) -> Result<Bytes, RequestError>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let all = Limited::new(body, MOST_ANSWER).collect().await;
    all.map(http_body_util::Collected::to_bytes)
        .map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => RequestError::Http(*error),
            Err(_) => RequestError::TooLong,
        })
}

async fn refused(response: Response<hyper::body::Incoming>) -> RequestError {
    let status = response.status();
    match read(response.into_body()).await {
        Ok(body) => RequestError::Refused(Refusal::parse(status, &body)),
        Err(error) => error,
    }
}

fn nothing() -> Sent {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is read from somewhere while it is sent; one chunk is in memory at a time.
struct ReaderBody {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    buffer: BytesMut,
}

impl Body for ReaderBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        this.buffer.resize(CHUNK, 0);
        let mut space = ReadBuf::new(&mut this.buffer);
        if let Err(error) = ready!(this.reader.as_mut().poll_read(context, &mut space)) {
            return Poll::Ready(Some(Err(error)));
        }
        let filled = space.filled().len();
        if filled == 0 {
            return Poll::Ready(None);
        }
        let chunk = this.buffer.split_to(filled).freeze();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}
