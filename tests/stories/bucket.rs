//! The bucket of a story: what agents put there, and what goes wrong on the way.
//!
//! It speaks as much of S3 as an upload needs, from <https://docs.aws.amazon.com/AmazonS3/latest/API/>, and keeps everything
//! in memory, so that a story can hold one certain request and look at the bucket meanwhile. What it cannot show is whether a
//! real server understands us: the depot's own tests ask real ones.
//!
//! Refuses requests that are not signed with the key of the story; whether the signature is right it does not know.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Result;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Gate;
use crate::http::{Answer, GoesOn, Listening, Request, Serve};

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Its `Content-Type`.
    pub kind: String,
}

/// A large object on its way.
#[derive(Debug)]
struct Upload {
    key: String,
    kind: String,
    parts: BTreeMap<u32, Vec<u8>>,
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
enum Wrong {
    /// Answered with this status and this code of an error.
    Says(u16, &'static str),
    /// The connection is closed in the middle of the answer.
    Cut,
    /// Waits at the gate before anything happens.
    Held(Gate),
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    made: usize,
    /// After so many uploads of a site's files more, this goes wrong with the next one.
    at_put: Vec<(usize, Wrong)>,
    /// The next requests, whatever they are.
    next: Vec<Wrong>,
    /// What the keys may not do, by method and beginning of the key.
    denied: Vec<(&'static str, &'static str)>,
    puts: Vec<String>,
}

/// A server with one bucket.
#[derive(Debug)]
pub struct Bucket {
    state: Arc<Shared>,
    listening: Option<Listening>,
    address: String,
}

impl Bucket {
    /// Its name.
    pub const NAME: &str = "docs";
    /// Who agents are.
    pub const ACCESS_KEY: &str = "GK5107c0de5107c0de";
    /// What they sign with. It is looked for wherever it should not be.
    pub const SECRET_KEY: &str = "5ec4e7d06f00d5ec4e7d06f00d5ec4e7d06f00d5ec4e7d06f00d";

    /// An empty one.
    #[must_use]
    pub fn start() -> Self {
        let state = Arc::new(Shared::default());
        let listening = Listening::open("127.0.0.1:0", Arc::<Shared>::clone(&state));
        Self {
            address: listening.address().to_string(),
            listening: Some(listening),
            state,
        }
    }

    /// Its address for agents.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that is there, but what agents note for themselves.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Object> {
        let objects = self.state.lock().objects.clone();
        objects
            .into_iter()
            .filter(|(key, _)| is_site(key))
            .collect()
    }

    /// What is below a prefix, without the prefix.
    #[must_use]
    pub fn below(&self, prefix: &str) -> BTreeMap<String, Object> {
        let state = self.state.lock();
        let of = |(key, object): (&String, &Object)| {
            Some((key.strip_prefix(prefix)?.to_owned(), object.clone()))
        };
        state.objects.iter().filter_map(of).collect()
    }

    /// The keys that were written since it was made, in their order, but what agents note for themselves.
    #[must_use]
    pub fn puts(&self) -> Vec<String> {
        let puts = self.state.lock().puts.clone();
        puts.into_iter().filter(|key| is_site(key)).collect()
    }

    /// After so many uploads from now on the next one waits at the gate before it takes effect.
    pub fn hold_after(&self, puts: usize, gate: &Gate) {
        let held = Wrong::Held(gate.clone());
        self.state.lock().at_put.push((puts, held));
    }

    /// After so many uploads from now on the next one is cut off in its middle.
    pub fn cut_after(&self, puts: usize) {
        self.state.lock().at_put.push((puts, Wrong::Cut));
    }

    /// The next requests are answered with 503 and `SlowDown`.
    pub fn storm(&self, requests: usize) {
        let busy = Wrong::Says(503, "SlowDown");
        let more = std::iter::repeat_n(busy, requests);
        self.state.lock().next.extend(more);
    }

    /// The agent's keys may not do this with what begins so.
    pub fn deny(&self, method: &'static str, prefix: &'static str) {
        self.state.lock().denied.push((method, prefix));
    }

    /// Nothing goes wrong any more.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.next.clear();
        state.denied.clear();
        state.at_put.clear();
    }

    /// The program is gone: connections are refused, those that were open are broken.
    pub fn away(&mut self) {
        self.listening = None;
    }

    /// It is there again, at the same address, with what it had.
    pub fn back(&mut self) {
        let serve = Arc::<Shared>::clone(&self.state);
        self.listening = Some(Listening::open(&self.address, serve));
    }
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serve for Shared {
    fn serve(&self, request: Request, connection: &mut TcpStream) -> Result<GoesOn> {
        let path = request.target.split('?').next().unwrap_or_default();
        let key = path.splitn(3, '/').nth(2).unwrap_or_default();
        let is_put = request.method == "PUT" && is_site(key);
        let wrong = {
            let mut state = self.lock();
            if is_put && let Some(at) = state.at_put.iter().position(|(left, _)| *left == 0) {
                Some(state.at_put.remove(at).1)
            } else {
                if is_put {
                    for (left, _) in &mut state.at_put {
                        *left -= 1;
                    }
                }
                (!state.next.is_empty()).then(|| state.next.remove(0))
            }
        };
        match wrong {
            Some(Wrong::Says(status, code)) => {
                error(status, code).write(connection)?;
                return Ok(true);
            }
            Some(Wrong::Cut) => {
                let answer = xml(200, "<cut/>");
                std::io::Write::write_all(connection, &answer.head()[..20])?;
                return Ok(false);
            }
            Some(Wrong::Held(gate)) => gate.pass(),
            None => {}
        }
        let mut answer = self.lock().answer(&request);
        let is_head = request.method == "HEAD";
        if is_head {
            // The length of what is not sent.
            let head = answer.head();
            std::io::Write::write_all(connection, &head)?;
            answer.body.clear();
            return Ok(true);
        }
        answer.write(connection)?;
        Ok(true)
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let who = format!("Credential={}/", Bucket::ACCESS_KEY);
        let signed = request.header("authorization").unwrap_or_default();
        if !signed.contains(&who) {
            return error(403, "InvalidAccessKeyId");
        }
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let query = Query::read(query);
        if self.denies(request, path) {
            return error(403, "AccessDenied");
        }
        let path = decode(path);
        let path = path.strip_prefix('/').unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket != Bucket::NAME {
            return error(404, "NoSuchBucket");
        }
        match (&*request.method, key) {
            ("GET", "") => self.list(&query),
            ("HEAD", "") => Answer::empty(200),
            ("POST", "") if query.has("delete") => self.delete_many(request),
            ("POST", _) if query.has("uploads") => self.begin(key, request),
            ("POST", _) if query.has("uploadId") => self.complete(&query),
            ("PUT", _) if query.has("uploadId") => self.part(&query, request),
            ("PUT", _) if request.header("x-amz-copy-source").is_none() => {
                if !self.condition_holds(key, request) {
                    return error(412, "PreconditionFailed");
                }
                self.put(key, kind(request), request.body.clone())
            }
            ("GET" | "HEAD", _) => self.get(key),
            ("DELETE", _) if query.has("uploadId") => {
                self.uploads.remove(query.get("uploadId"));
                Answer::empty(204)
            }
            ("DELETE", _) => {
                self.remove(key);
                Answer::empty(204)
            }
            _ => error(501, "NotImplemented"),
        }
    }

    /// Keys that must be encoded are none that a story denies.
    fn denies(&self, request: &Request, path: &str) -> bool {
        let key = path.splitn(3, '/').nth(2).unwrap_or_default();
        let is_it = |(method, prefix): &(&str, &str)| {
            request.method == *method && !key.is_empty() && key.starts_with(prefix)
        };
        self.denied.iter().any(is_it)
    }

    fn condition_holds(&self, key: &str, request: &Request) -> bool {
        let there = self.objects.get(key);
        let is_new = request.header("if-none-match") != Some("*") || there.is_none();
        let is_that = request
            .header("if-match")
            .is_none_or(|wanted| there.is_some_and(|object| tag(&object.bytes) == wanted));
        is_new && is_that
    }

    fn put(&mut self, key: &str, kind: String, bytes: Vec<u8>) -> Answer {
        let mut answer = Answer::empty(200);
        answer.headers = vec![("ETag", tag(&bytes))];
        self.puts.push(key.to_owned());
        self.objects.insert(key.to_owned(), Object { bytes, kind });
        answer
    }

    fn get(&self, key: &str) -> Answer {
        let Some(object) = self.objects.get(key) else {
            return error(404, "NoSuchKey");
        };
        Answer {
            status: 200,
            headers: vec![
                ("ETag", tag(&object.bytes)),
                ("Content-Type", object.kind.clone()),
            ],
            body: object.bytes.clone(),
        }
    }

    fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }

    fn delete_many(&mut self, request: &Request) -> Answer {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let keys = text.split("<Key>").skip(1);
        for key in keys.filter_map(|rest| rest.split("</Key>").next()) {
            let key = key
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&apos;", "'")
                .replace("&amp;", "&");
            self.remove(&key);
        }
        xml(200, "<DeleteResult></DeleteResult>")
    }

    /// In pages of a few, so that every story has several of them.
    fn list(&self, query: &Query) -> Answer {
        const PAGE: usize = 20;
        let prefix = query.get("prefix");
        let after = query.get("continuation-token");
        let mut keys = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let page: Vec<_> = keys.by_ref().take(PAGE).collect();
        let more = keys.next().is_some();
        let contents: String = page
            .iter()
            .map(|(key, object)| {
                format!(
                    "<Contents><Key>{}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>{}</ETag>\
                     <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                    escape(key),
                    escape(&tag(&object.bytes)),
                    object.bytes.len()
                )
            })
            .collect();
        let next = match page.last() {
            Some((key, _)) if more => {
                format!(
                    "<NextContinuationToken>{}</NextContinuationToken>",
                    escape(key)
                )
            }
            _ => String::new(),
        };
        xml(
            200,
            &format!(
                "<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{PAGE}</MaxKeys>\
                 <IsTruncated>{more}</IsTruncated>{next}{contents}</ListBucketResult>",
                Bucket::NAME,
                escape(prefix),
                page.len()
            ),
        )
    }

    fn begin(&mut self, key: &str, request: &Request) -> Answer {
        self.made += 1;
        let id = format!("upload-{}", self.made);
        let upload = Upload {
            key: key.to_owned(),
            kind: kind(request),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        xml(
            200,
            &format!(
                "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>",
                Bucket::NAME,
                escape(key)
            ),
        )
    }

    fn part(&mut self, query: &Query, request: &Request) -> Answer {
        let Some(upload) = self.uploads.get_mut(query.get("uploadId")) else {
            return error(404, "NoSuchUpload");
        };
        let Ok(number) = query.get("partNumber").parse() else {
            return error(400, "InvalidArgument");
        };
        upload.parts.insert(number, request.body.clone());
        let mut answer = Answer::empty(200);
        answer.headers = vec![("ETag", tag(&request.body))];
        answer
    }

    fn complete(&mut self, query: &Query) -> Answer {
        let Some(Upload { key, kind, parts }) = self.uploads.remove(query.get("uploadId")) else {
            return error(404, "NoSuchUpload");
        };
        let bytes = parts.into_values().flatten().collect();
        self.put(&key, kind, bytes);
        xml(
            200,
            &format!(
                "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>\"whole-1\"</ETag>\
                 </CompleteMultipartUploadResult>",
                Bucket::NAME,
                escape(&key)
            ),
        )
    }
}

/// Whether a key is a file of a site, and not a note that agents make beside all projects.
fn is_site(key: &str) -> bool {
    !key.starts_with(".bryo/")
}

fn kind(request: &Request) -> String {
    request
        .header("content-type")
        .unwrap_or_default()
        .to_owned()
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{:x}\"", md5::compute(bytes))
}

fn xml(status: u16, inner: &str) -> Answer {
    Answer {
        status,
        headers: vec![("Content-Type", "application/xml".to_owned())],
        body: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{inner}").into_bytes(),
    }
}

fn error(status: u16, code: &str) -> Answer {
    xml(
        status,
        &format!("<Error><Code>{code}</Code><Message>a story wants it so</Message></Error>"),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A query, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Other than in a path, a plus is a space here: so clients write one.
            (decode(name), decode(&value.replace('+', " ")))
        };
        Self(pairs.map(pair).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// Percent signs with two digits become the byte that they mean; a plus is a plus.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
