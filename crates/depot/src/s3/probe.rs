//! Whether the keys may do what a publication needs, found out before there is one: by doing each of it to a small object.

use bytes::Bytes;

use super::api::Listed;
use super::client::Client;
use super::fault::StoreFault;
use super::headers::Headers;
use crate::DepotError;

/// Where such objects are, for a moment: beside the records, where everything must be allowed that is done here.
const PROBES: &str = ".bryo/probe-";

/// What a publication does to objects, each with the right that it needs.
const LIST: (&str, &str) = ("list the bucket", "s3:ListBucket");
const PUT: (&str, &str) = ("put objects", "s3:PutObject");
const READ: (&str, &str) = ("read objects", "s3:GetObject");
const DELETE: (&str, &str) = ("delete objects", "s3:DeleteObject");

impl Client {
    /// Lists, puts, reads and deletes. What probes of agents that were killed have left is deleted too.
    pub(crate) async fn probe(&self) -> Result<(), DepotError> {
        let mut probes = Vec::new();
        // What else is there is somebody's whose it is.
        let each = |object: Listed| {
            let word = object.key.strip_prefix(PROBES).unwrap_or_default();
            if word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
                probes.push(object.key);
            }
        };
        self.list(PROBES, each).await.map_err(lacks(LIST))?;
        let key = format!("{PROBES}{:016x}", fastrand::u64(..));
        let headers = Headers {
            content_type: "text/plain".to_owned(),
            cache_control: Some("no-store".to_owned()),
        };
        let content = Bytes::from_static(b"an agent looks whether it may publish\n");
        self.put(&key, &headers, &content)
            .await
            .map_err(lacks(PUT))?;
        // Whether it is there still is no matter: another agent may have taken it for one that was left.
        let read = self.get(&key).await.map_err(lacks(READ));
        let deleted = self.remove(&key).await.map_err(lacks(DELETE));
        read?;
        deleted?;
        for left in &probes {
            self.remove(left).await.map_err(lacks(DELETE))?;
        }
        Ok(())
    }
}

fn lacks((what, right): (&'static str, &'static str)) -> impl Fn(DepotError) -> DepotError {
    move |error| match error {
        DepotError::Store {
            fault: StoreFault::Denied,
            source,
            ..
        } => DepotError::Right {
            what,
            right,
            source,
        },
        other => other,
    }
}
