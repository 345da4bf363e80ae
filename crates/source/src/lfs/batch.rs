//! What a server of Git LFS is asked, and reading what it answers:
//! <https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>.
//!
//! An answer is the text of a stranger. What was not asked for is passed over, and so are fields that nobody knows; what
//! was asked for and has no honest answer is an error in words, without an address: those are often passwords. Words of the
//! stranger's are at the end of an error, as they came: whoever tells it takes the secrets out first, and then cuts it.

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use super::Pointer;

/// The specification's advice for one request.
pub(crate) const MOST_OBJECTS: usize = 100;

/// Bytes of an answer.
pub(crate) const LARGEST: usize = 4 << 20;

pub(crate) const KIND: &str = "application/vnd.git-lfs+json";

const MOST_HEADERS: usize = 32;

/// Bytes of an address, or of all headers of an object.
const LONGEST: usize = 16 << 10;

/// What belongs to a connection, or would make the answer another one.
const NOT_THEIRS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where an object is.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub(crate) url: Url,
    /// For the server of `url` alone.
    pub(crate) headers: HeaderMap,
    /// The server says that nothing more is needed.
    pub(crate) authenticated: bool,
}

/// What a server says of one object: where it is, or why it is not to be had.
pub(crate) type Said = Result<Action, String>;

#[derive(Serialize)]
struct Request<'a> {
    operation: &'static str,
    transfers: [&'static str; 1],
    objects: Vec<Asked<'a>>,
    hash_algo: &'static str,
}

#[derive(Serialize)]
struct Asked<'a> {
    oid: &'a str,
    size: u64,
}

/// The body of a request for these objects.
pub(crate) fn request<'a>(wanted: impl IntoIterator<Item = &'a Pointer>) -> String {
    let objects = wanted.into_iter().map(|pointer| Asked {
        oid: pointer.oid(),
        size: pointer.size,
    });
    let request = Request {
        operation: "download",
        transfers: ["basic"],
        objects: objects.collect(),
        hash_algo: "sha256",
    };
    // Text and numbers are always JSON.
    serde_json::to_string(&request).unwrap_or_default()
}

#[derive(Deserialize)]
struct Answer {
    transfer: Option<String>,
    hash_algo: Option<String>,
    objects: Vec<AnsweredObject>,
}

#[derive(Deserialize)]
struct AnsweredObject {
    oid: String,
    authenticated: Option<bool>,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct Actions {
    download: Option<Place>,
}

/// Where something is: of an object, or what `git-lfs-authenticate` says of the whole.
#[derive(Deserialize)]
struct Place {
    href: Option<String>,
    header: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: Option<i64>,
    message: Option<String>,
}

/// The message of an answer that is an error.
#[derive(Deserialize)]
struct Message {
    message: String,
}

/// Reads an answer. Objects that it passes over are not in the result.
///
/// # Errors
///
/// Why it is none, in words.
pub(crate) fn read(bytes: &[u8], wanted: &[&Pointer]) -> Result<BTreeMap<String, Said>, String> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|e| {
        format!(
            "the server's answer is not of the batch API: {}",
            misread(&e)
        )
    })?;
    if let Some(transfer) = answer.transfer.filter(|name| name != "basic") {
        return Err(format!(
            "only \"basic\" was offered to transfer objects, and the server wants \"{transfer}\""
        ));
    }
    if let Some(algorithm) = answer.hash_algo.filter(|name| name != "sha256") {
        return Err(format!(
            "the server names objects not by SHA-256, but by \"{algorithm}\""
        ));
    }
    let mut said = BTreeMap::new();
    for object in answer.objects {
        if wanted.iter().any(|pointer| pointer.oid() == object.oid)
            && !said.contains_key(&object.oid)
        {
            let of = of_object(object.authenticated, object.actions, object.error);
            said.insert(object.oid, of);
        }
    }
    Ok(said)
}

fn of_object(
    authenticated: Option<bool>,
    actions: Option<Actions>,
    error: Option<ObjectError>,
) -> Said {
    if let Some(error) = error {
        return Err(in_words(&error));
    }
    let Some(place) = actions.and_then(|actions| actions.download) else {
        return Err("the server says of it neither where it is nor why not".to_owned());
    };
    let (url, headers) = place.read()?;
    Ok(Action {
        url: url.ok_or("the server gives no address for it")?,
        headers,
        authenticated: authenticated.unwrap_or_default(),
    })
}

fn in_words(error: &ObjectError) -> String {
    let message = error.message.as_deref().unwrap_or_default();
    match error.code {
        Some(404) => "the server does not have it (404)".to_owned(),
        Some(410) => "it was removed from the server (410)".to_owned(),
        Some(code) => format!("the server says {code}: {message}"),
        None => format!("the server says: {message}"),
    }
}

impl Place {
    fn read(self) -> Result<(Option<Url>, HeaderMap), String> {
        let url =
            match self.href.filter(|href| !href.is_empty()) {
                Some(href) if href.len() > LONGEST => {
                    return Err("the server gives an address for it that is too long".to_owned());
                }
                Some(href) => Some(Url::parse(&href).map_err(|e| {
                    format!("the server gives an address for it that is none ({e})")
                })?),
                None => None,
            };
        Ok((url, headers(self.header.unwrap_or_default())?))
    }
}

fn headers(said: BTreeMap<String, String>) -> Result<HeaderMap, String> {
    let bytes: usize = said
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if said.len() > MOST_HEADERS || bytes > LONGEST {
        return Err("the server wants too many headers for it".to_owned());
    }
    let mut headers = HeaderMap::new();
    for (name, value) in said {
        let bad = || format!("the server wants a header for it that is none, \"{name}\"");
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        // A line end would begin another header, or another request.
        let mut value = HeaderValue::from_str(&value).map_err(|_| bad())?;
        value.set_sensitive(true);
        if !NOT_THEIRS.contains(&known.as_str()) {
            headers.insert(known, value);
        }
    }
    Ok(headers)
}

/// Reads what `git-lfs-authenticate` says: where the server is, if it says so, and what it is to be told.
pub(crate) fn read_granted(bytes: &[u8]) -> Result<(Option<Url>, HeaderMap), String> {
    let place: Place = serde_json::from_slice(bytes).map_err(|e| {
        let why = misread(&e);
        format!("what git-lfs-authenticate says on the server is not JSON of Git LFS: {why}")
    })?;
    place.read()
}

/// Where JSON cannot be read. The error itself quotes what is there.
fn misread(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Io | Category::Syntax => "no JSON",
        Category::Data => "something else is expected",
        Category::Eof => "it ends too early",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

/// What an answer that is an error says for people.
pub(crate) fn message(bytes: &[u8]) -> Option<String> {
    let message: Message = serde_json::from_slice(bytes).ok()?;
    Some(message.message).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::pointer::{Reading, read as read_pointer};
    use super::*;

    fn pointer() -> Pointer {
        let oid = "4d7a".repeat(16);
        let text =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 10\n");
        match read_pointer(text.as_bytes()) {
            Reading::Pointer(pointer) => pointer,
            other => panic!("{other:?}"),
        }
    }

    fn of_one(object: &str) -> Said {
        let pointer = pointer();
        let text = format!(
            r#"{{"x":1,"objects":[{{"oid":"{}","size":10,"y":[],{object}}}]}}"#,
            pointer.oid()
        );
        let mut said = read(text.as_bytes(), &[&pointer]).unwrap();
        said.remove(pointer.oid()).unwrap()
    }

    #[test]
    fn a_request_is_what_the_specification_says() {
        let pointer = pointer();
        let oid = pointer.oid();
        assert_eq!(
            request([&pointer]),
            format!(
                r#"{{"operation":"download","transfers":["basic"],"objects":[{{"oid":"{oid}","size":10}}],"hash_algo":"sha256"}}"#
            )
        );
    }

    #[test]
    fn an_object_is_somewhere_or_it_is_told_why_not() {
        let action = of_one(
            r#""authenticated":true,"actions":{"download":{"href":"https://h/x?sig=1","header":{"Authorization":"Basic eA==","Host":"evil","Range":"bytes=0-1"},"expires_in":60}}"#,
        )
        .unwrap();
        assert_eq!(action.url.as_str(), "https://h/x?sig=1");
        assert_eq!(action.headers.len(), 1);
        assert!(action.authenticated && action.headers.contains_key("authorization"));
        assert!(!format!("{:?}", action.headers).contains("eA=="));
        let long = "x".repeat(LONGEST + 1);
        let header = |value: &str| {
            format!(
                r#""actions":{{"download":{{"href":"https://h/x","header":{{"X":"{value}"}}}}}}"#
            )
        };
        for (object, why) in [
            (
                r#""error":{"code":404,"message":"m"}"#.to_owned(),
                "does not have it",
            ),
            (r#""error":{"code":410}"#.to_owned(), "removed"),
            (
                r#""error":{"code":422,"message":"a\nb"}"#.to_owned(),
                "422: a\nb",
            ),
            (r#""error":{"message":"m"}"#.to_owned(), "says: m"),
            (r#""actions":{}"#.to_owned(), "neither where"),
            (
                r#""actions":{"download":{"href":""}}"#.to_owned(),
                "no address",
            ),
            (
                r#""actions":{"download":{"href":"/x"}}"#.to_owned(),
                "is none",
            ),
            (
                format!(r#""actions":{{"download":{{"href":"https://h/{long}"}}}}"#),
                "too long",
            ),
            (header(r"a\r\nX: b"), "a header for it that is none"),
            (header(&long), "too many headers"),
        ] {
            let told = of_one(&object).unwrap_err();
            assert!(told.contains(why), "{object}: {told}");
        }
    }

    #[test]
    fn answers_that_are_none() {
        let pointer = pointer();
        for (text, why) in [
            ("", "not of the batch API"),
            ("<html>", "not of the batch API"),
            (r#"{"objects":{}}"#, "not of the batch API"),
            (r#"{"message":"no"}"#, "not of the batch API"),
            (r#"{"transfer":"tus","objects":[]}"#, "tus"),
            (r#"{"hash_algo":"md5","objects":[]}"#, "md5"),
        ] {
            let told = read(text.as_bytes(), &[&pointer]).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
        // The library would quote it.
        let text = r#"{"objects":"RemoteAuth secret-7f3a9c"}"#;
        let granted = read_granted(b"\"secret-7f3a9c\"").unwrap_err();
        for told in [read(text.as_bytes(), &[&pointer]).unwrap_err(), granted] {
            assert!(
                told.contains("line 1 column ") && !told.contains("secret"),
                "{told}"
            );
        }
        let other = r#"{"objects":[{"oid":"other","error":{"code":404}}]}"#;
        assert!(read(other.as_bytes(), &[&pointer]).unwrap().is_empty());
    }
}
