//! A store as a test sees it: with a client of its own, so that what is looked at is not what is tested.

use s3::creds::Credentials;
use s3::{Bucket, Region};
use tokio::runtime::{Builder, Runtime};

/// An S3 store and what is in it. Its methods block, and may not be called on an event loop.
pub struct Store {
    /// Its URL.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// A bucket that exists.
    pub bucket: String,
    /// Who may use it.
    pub access_key: String,
    /// The key.
    pub secret_key: String,
    /// Made once: a client reads the trust store of the system.
    client: Box<Bucket>,
    runtime: Runtime,
}

/// An object as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// The header of that name; empty without.
    pub content_type: String,
    /// The header of that name; empty without.
    pub cache_control: String,
}

impl Store {
    pub(crate) fn new(endpoint: String, [region, bucket, access, secret]: [&str; 4]) -> Self {
        Self {
            client: open(&endpoint, [region, bucket, access, secret]),
            endpoint,
            region: region.to_owned(),
            bucket: bucket.to_owned(),
            access_key: access.to_owned(),
            secret_key: secret.to_owned(),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    /// The real server that `make test-s3` has started, if it has.
    pub fn real() -> Option<Self> {
        let value = |name| std::env::var(format!("BRYO_TEST_S3_{name}"));
        let endpoint = value("ENDPOINT").ok()?;
        let rest = ["REGION", "BUCKET", "ACCESS_KEY", "SECRET_KEY"].map(|n| value(n).unwrap());
        Some(Self::new(endpoint, rest.each_ref().map(String::as_str)))
    }

    /// All keys that begin with `prefix`, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let pages = self
            .runtime
            .block_on(self.client.list(prefix.to_owned(), None));
        let contents = pages.unwrap().into_iter().flat_map(|page| page.contents);
        let mut keys: Vec<_> = contents.map(|object| object.key).collect();
        keys.sort();
        keys
    }

    /// The object with this key.
    pub fn object(&self, key: &str) -> Option<Object> {
        let answer = match self.runtime.block_on(self.client.get_object(key)) {
            Ok(answer) => answer,
            Err(s3::error::S3Error::HttpFailWithBody(404, _)) => return None,
            Err(error) => panic!("cannot read {key}: {error}"),
        };
        let headers = answer.headers();
        let header = |name| headers.get(name).cloned().unwrap_or_default();
        Some(Object {
            bytes: answer.to_vec(),
            content_type: header("content-type"),
            cache_control: header("cache-control"),
        })
    }

    /// Puts an object, as somebody else would.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.runtime
            .block_on(self.client.put_object(key, bytes))
            .unwrap();
    }

    /// Begins an upload in parts and leaves it, as somebody does who is killed.
    pub fn leave_upload(&self, key: &str) {
        let bucket = &self.client;
        let begun = bucket.initiate_multipart_upload(key, "text/plain");
        self.runtime.block_on(begun).unwrap();
    }

    /// How many uploads in parts below `prefix` have begun and not ended.
    pub fn unfinished_uploads(&self, prefix: &str) -> usize {
        let bucket = &self.client;
        let pages = bucket.list_multiparts_uploads(Some(prefix), None);
        let pages = self.runtime.block_on(pages).unwrap();
        pages.iter().map(|page| page.uploads.len()).sum()
    }
}

fn open(endpoint: &str, [region, bucket, access, secret]: [&str; 4]) -> Box<Bucket> {
    let credentials = Credentials::new(Some(access), Some(secret), None, None, None);
    let region = Region::Custom {
        region: region.to_owned(),
        endpoint: endpoint.to_owned(),
    };
    Bucket::new(bucket, region, credentials.unwrap())
        .unwrap()
        .with_path_style()
}
