//! Where a bucket is, who we are there, and how hard it is used.
//!
//! Nothing here shows a credential: `Debug` has none, and there is no `Display`.

use std::path::PathBuf;
use std::time::Duration;

use bryo_model::Secret;

use super::headers::CacheRule;

/// Who we are to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Credentials {
    /// The name of the key. It is not a secret, and is not shown in messages all the same.
    pub access_key: String,
    /// The key itself.
    pub secret_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// A bucket and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The store's URL: `https://s3.example.org`, with the port if it has one.
    pub endpoint: String,
    /// The region's name, which is a part of every signature.
    pub region: String,
    /// The bucket; it must exist.
    pub bucket: String,
    /// Whether the bucket's name stands in the path (`https://store/bucket/key`) or before the host's.
    pub path_style: bool,
    /// Who we are.
    pub credentials: S3Credentials,
    /// A file of PEM certificates that are trusted beside those of the system.
    pub ca_bundle: Option<PathBuf>,
    /// How many requests are under way at a time, of all attempts together; at least one. 16 are usual.
    pub parallel: usize,
}

/// What seldom needs to be otherwise; `Default` is what is usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Tuning {
    /// How many threads sign and send.
    pub threads: usize,
    /// Files larger than this, in bytes, are sent in parts of this size. A store takes no less than 5 MiB and no more
    /// than 10 000 parts; parts are made larger where that needs it.
    pub part_size: u64,
    /// How many bytes of files are in memory at a time, of all attempts together.
    pub memory: u64,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long it may take to be connected.
    pub connect_timeout: Duration,
    /// What is tried again, and how.
    pub retry: Retry,
    /// Which files may be kept by caches, and for how long. The first rule that matches a file counts; without one a file
    /// gets no such header.
    pub cache_rules: Vec<CacheRule>,
    /// How long another publication of the same version watches a record that does not change before it takes it over.
    /// Those that go on speak eight times as often, and change nothing while their last word is older
    /// than half of it. A request for a record takes a quarter of it at most.
    pub lease: Duration,
}

impl Default for S3Tuning {
    fn default() -> Self {
        Self {
            threads: 2,
            part_size: 8 << 20,
            memory: 64 << 20,
            request_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            retry: Retry::default(),
            cache_rules: Vec::new(),
            lease: Duration::from_secs(30),
        }
    }
}

/// How a request that failed for a passing reason is tried again: a full server, a lost connection, a time-out.
///
/// The pause doubles each time, up to the longest one, and is shortened at random by up to a half, so that many requests
/// that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is sent at most.
    pub attempts: u32,
    /// The first pause.
    pub first: Duration,
    /// The longest pause, also of those that the server asks for.
    pub longest: Duration,
}

impl Default for Retry {
    /// Some 40 seconds in all: a restart of the store is survived, a store that is gone is told within the minute.
    fn default() -> Self {
        Self {
            attempts: 9,
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// The pause after this many failed attempts.
    pub(crate) fn pause(&self, failed: u32, asked: Option<Duration>) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << failed.saturating_sub(1).min(20));
        let pause = doubled.max(asked.unwrap_or_default()).min(self.longest);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_their_bounds() {
        let retry = Retry::default();
        for (failed, asked, least, most) in [
            (1, 0, 100, 200),
            (2, 0, 200, 400),
            (5, 0, 1600, 3200),
            (8, 0, 5000, 10_000),
            (60, 0, 5000, 10_000),
            (1, 3000, 1500, 3000),
            (1, 3_600_000, 5000, 10_000),
        ] {
            let asked = (asked > 0).then(|| Duration::from_millis(asked));
            for _ in 0..50 {
                let pause = retry.pause(failed, asked).as_millis();
                assert!(
                    (least..=most).contains(&pause),
                    "{failed} {asked:?}: {pause}"
                );
            }
        }
    }

    #[test]
    fn settings_show_no_credentials() {
        let credentials = S3Credentials {
            access_key: "GK1".into(),
            secret_key: Secret::new("hunter2".into()),
            session_token: Some(Secret::new("hunter3".into())),
        };
        let settings = S3Settings {
            endpoint: "http://x".into(),
            region: "r".into(),
            bucket: "b".into(),
            path_style: true,
            credentials,
            ca_bundle: None,
            parallel: 16,
        };
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
