//! What is asked of a store, each thing as one function.

use bytes::Bytes;
use reqwest::header::{
    CACHE_CONTROL, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use s3::command::{Command, Multipart};
use s3::serde_types::{
    CompleteMultipartUploadData, DeleteObjectsRequest, DeleteObjectsResult,
    InitiateMultipartUploadResponse, ListBucketResult, ListMultipartUploadsResult,
    ObjectIdentifier, Part,
};
use serde::Deserialize;

use super::client::{Ask, Client, Turn};
use super::fault::{StoreAnswer, Trouble};
use super::headers::Headers;
use super::tag::Tag;
use crate::DepotError;

/// How many keys one request to delete may name.
const BATCH: usize = 1000;

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) tag: Option<Tag>,
}

/// An object as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    /// As the store says it, with quotes.
    pub(crate) etag: Option<String>,
}

/// What must be so for an object to be put.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition<'a> {
    /// There is none with this key.
    Absent,
    /// The one that is there has this entity tag.
    Tag(&'a str),
    /// Whatever is there.
    Any,
}

/// What became of a conditional put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// It is there, with this entity tag.
    Put(Option<String>),
    /// The condition did not hold. Also what a store says that had put it and whose answer was lost.
    Unmet,
}

/// An object that could not be deleted.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) why: String,
}

impl Client {
    /// The object; `None` when there is no such object.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Read>, DepotError> {
        let mut ask = Ask::new("read", key, Command::GetObject);
        // Only records are read.
        ask.turn = Turn::AtOnce;
        match self.ask(&ask).await {
            Ok(answer) => Ok(Some(Read {
                etag: text(&answer.headers, &ETAG),
                bytes: answer.body,
            })),
            Err(trouble) if trouble.is_missing() => Ok(None),
            Err(trouble) => Err(ask.failed(trouble)),
        }
    }

    /// Puts an object; the entity tag that the store gave it.
    pub(crate) async fn put(
        &self,
        key: &str,
        headers: &Headers,
        content: &Bytes,
    ) -> Result<Option<Tag>, DepotError> {
        let ask = put(key, headers, content);
        match self.ask(&ask).await {
            Ok(answer) => Ok(text(&answer.headers, &ETAG).and_then(|tag| Tag::read(&tag))),
            Err(trouble) => Err(ask.failed(trouble)),
        }
    }

    /// Puts an object if the condition holds. A store that knows no conditions puts it in any case; whether it is one is not
    /// known unless it says so.
    pub(crate) async fn put_if(
        &self,
        key: &str,
        headers: &Headers,
        content: &Bytes,
        condition: Condition<'_>,
    ) -> Result<PutOutcome, DepotError> {
        let mut ask = put(key, headers, content);
        ask.turn = Turn::AtOnce;
        let header = match condition {
            Condition::Absent => Some((IF_NONE_MATCH, HeaderValue::from_static("*"))),
            Condition::Tag(tag) => HeaderValue::from_str(tag).ok().map(|tag| (IF_MATCH, tag)),
            Condition::Any => None,
        };
        let plain = ask.extra.clone();
        let conditional = self.has_conditions() && header.is_some();
        if let Some((name, value)) = header.filter(|_| conditional) {
            ask.extra.insert(name, value);
        }
        let mut answer = self.ask(&ask).await;
        if conditional && answer.as_ref().is_err_and(Trouble::knows_no_conditions) {
            self.forgo_conditions();
            ask.extra = plain;
            answer = self.ask(&ask).await;
        }
        match answer {
            Ok(answer) => Ok(PutOutcome::Put(text(&answer.headers, &ETAG))),
            Err(trouble) if conditional && trouble.is_unmet() => Ok(PutOutcome::Unmet),
            Err(trouble) => Err(ask.failed(trouble)),
        }
    }

    /// All objects whose keys begin with `prefix`; `each` sees them as they are read.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        mut each: impl FnMut(Listed),
    ) -> Result<(), DepotError> {
        let mut token: Option<String> = None;
        loop {
            let command = Command::ListObjectsV2 {
                prefix: prefix.to_owned(),
                delimiter: None,
                continuation_token: token.clone(),
                start_after: None,
                max_keys: None,
            };
            let ask = Ask::new("list what begins with", prefix, command);
            let page = self.ask(&ask).await.and_then(|answer| answer.xml());
            let page: ListBucketResult = page.map_err(|trouble| ask.failed(trouble))?;
            for object in page.contents {
                // A store that misreads the question must not have another project's files deleted.
                if object.key.starts_with(prefix) {
                    each(Listed {
                        tag: object.e_tag.as_deref().and_then(Tag::read),
                        key: object.key,
                        size: object.size,
                    });
                }
            }
            if !page.is_truncated {
                return Ok(());
            }
            let next = page.next_continuation_token;
            let why = match &next {
                None => "the list goes on and says not where",
                // It would never end.
                Some(_) if next == token => "the list goes on where it was",
                Some(_) => {
                    token = next;
                    continue;
                }
            };
            return Err(ask.failed(Trouble::unreadable(why)));
        }
    }

    /// Deletes all of `keys`, and returns those that could not be deleted.
    pub(crate) async fn delete(&self, keys: &[String]) -> Result<Vec<Kept>, DepotError> {
        let mut kept = Vec::new();
        // XML has no control characters: what somebody else put under such a key is named in a URL.
        let (odd, plain): (Vec<_>, Vec<_>) = keys
            .iter()
            .partition(|key| key.chars().any(char::is_control));
        for batch in plain.chunks(BATCH) {
            kept.extend(self.delete_batch(batch).await?);
        }
        for key in odd {
            kept.extend(self.delete_one(key).await);
        }
        Ok(kept)
    }

    async fn delete_batch(&self, keys: &[&String]) -> Result<Vec<Kept>, DepotError> {
        let data = DeleteObjectsRequest {
            objects: keys.iter().map(|key| ObjectIdentifier::new(*key)).collect(),
            quiet: true,
        };
        let name = self.bucket_name();
        let ask = Ask::new("delete objects in", &name, Command::DeleteObjects { data });
        let answer = match self.ask(&ask).await {
            Ok(answer) => answer,
            // Not every store has batches.
            Err(Trouble {
                answer: StoreAnswer::Status { status: 501, .. },
                ..
            }) => {
                let mut kept = Vec::new();
                for key in keys {
                    kept.extend(self.delete_one(key).await);
                }
                return Ok(kept);
            }
            Err(trouble) => return Err(ask.failed(trouble)),
        };
        let result: DeleteObjectsResult = answer.xml().map_err(|trouble| ask.failed(trouble))?;
        let mut kept = Vec::new();
        for error in result.errors {
            // A store's word is no key: it may be one of another version.
            if !keys.contains(&&error.key) {
                let why = format!("it tells of {:?}, which it was not asked for", error.key);
                return Err(ask.failed(Trouble::unreadable(why)));
            }
            // One object's passing trouble has not been tried again yet.
            kept.extend(self.delete_one(&error.key).await);
        }
        Ok(kept)
    }

    async fn delete_one(&self, key: &str) -> Option<Kept> {
        let trouble = self.try_delete(key).await.err()?;
        Some(Kept {
            key: key.to_owned(),
            why: format!("{}: {}", trouble.fault, trouble.answer),
        })
    }

    /// Deletes one object. One that is not there is no error.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), DepotError> {
        let done = self.try_delete(key).await;
        done.map_err(|trouble| Ask::new("delete", key, Command::DeleteObject).failed(trouble))
    }

    async fn try_delete(&self, key: &str) -> Result<(), Trouble> {
        let ask = Ask::new("delete", key, Command::DeleteObject);
        match self.ask(&ask).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.is_missing() => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Begins an upload in parts; its id.
    pub(crate) async fn begin(&self, key: &str, headers: &Headers) -> Result<String, DepotError> {
        let command = Command::InitiateMultipartUpload {
            content_type: &headers.content_type,
        };
        let mut ask = Ask::new("begin to put", key, command);
        ask.extra = extra(headers);
        let answer = self.ask(&ask).await.and_then(|answer| answer.xml());
        let begun: InitiateMultipartUploadResponse = answer.map_err(|t| ask.failed(t))?;
        Ok(begun.upload_id)
    }

    /// Puts part `number`, counted from 1; its entity tag.
    pub(crate) async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        content: &Bytes,
    ) -> Result<Part, DepotError> {
        let command = Command::PutObject {
            content,
            content_type: "application/octet-stream",
            custom_headers: None,
            multipart: Some(Multipart::new(number, upload)),
        };
        let mut ask = Ask::new("put a part of", key, command);
        ask.body = content.clone();
        let answer = self.ask(&ask).await.map_err(|t| ask.failed(t))?;
        let tag = answer.headers.get(ETAG).and_then(|tag| tag.to_str().ok());
        let Some(tag) = tag else {
            return Err(ask.failed(Trouble::unreadable("it has no entity tag")));
        };
        Ok(Part {
            part_number: number,
            etag: tag.to_owned(),
        })
    }

    /// Makes one object of the parts; its entity tag, where the store tells it. `None`: the store knows no such upload, which
    /// is also what it says when it has finished it already and the answer was lost.
    pub(crate) async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: Vec<Part>,
    ) -> Result<Option<Whole>, DepotError> {
        let command = Command::CompleteMultipartUpload {
            upload_id: upload,
            data: CompleteMultipartUploadData { parts },
        };
        let ask = Ask::new("finish putting", key, command);
        match self.ask(&ask).await {
            // It is put, whatever else the answer says.
            Ok(answer) => Ok(Some(answer.xml().unwrap_or_default())),
            Err(trouble) if trouble.is_missing() => Ok(None),
            Err(trouble) => Err(ask.failed(trouble)),
        }
    }

    /// Gives up an upload in parts, so that nothing is kept of it.
    pub(crate) async fn abort(&self, key: &str, upload: &str) -> Result<(), DepotError> {
        let command = Command::AbortMultipartUpload { upload_id: upload };
        let ask = Ask::new("give up putting", key, command);
        match self.ask(&ask).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.is_missing() => Ok(()),
            Err(trouble) => Err(ask.failed(trouble)),
        }
    }

    /// The uploads in parts that were begun below `prefix` and not ended: key and id.
    pub(crate) async fn begun(&self, prefix: &str) -> Result<Vec<(String, String)>, DepotError> {
        let command = Command::ListMultipartUploads {
            prefix: Some(prefix),
            delimiter: None,
            key_marker: None,
            upload_id_marker: None,
            max_uploads: None,
        };
        let ask = Ask::new("list the unfinished uploads below", prefix, command);
        let answer = self.ask(&ask).await.and_then(|answer| answer.xml());
        let found: ListMultipartUploadsResult = answer.map_err(|t| ask.failed(t))?;
        let ours = found
            .uploads
            .into_iter()
            .filter(|u| u.key.starts_with(prefix));
        Ok(ours.map(|u| (u.key, u.id)).collect())
    }
}

/// An object that was made of parts.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Whole {
    #[serde(rename = "ETag", default)]
    etag: Option<String>,
}

impl Whole {
    pub(crate) fn tag(&self) -> Option<Tag> {
        self.etag.as_deref().and_then(Tag::read)
    }
}

fn put<'a>(key: &'a str, headers: &'a Headers, content: &'a Bytes) -> Ask<'a> {
    let command = Command::PutObject {
        content,
        content_type: &headers.content_type,
        custom_headers: None,
        multipart: None,
    };
    let mut ask = Ask::new("put", key, command);
    ask.body = content.clone();
    ask.extra = extra(headers);
    ask
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

fn extra(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    if let Some(value) = &headers.cache_control
        && let Ok(value) = HeaderValue::from_str(value)
    {
        map.insert(CACHE_CONTROL, value);
    }
    map
}

#[cfg(test)]
mod tests;
