use std::future::{Future, pending};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bryo_depot::{
    DepotError, OutputBounds, OutputTree, Prefix, Retry, S3Credentials, S3Depot, S3Settings,
    S3Tuning, Uploaded, Watch,
};
use bryo_model::{Amount, Secret};
use bryo_test_s3::Store;
use tempfile::TempDir;

struct Patient;

impl Watch for Patient {
    fn stop(&self) -> bool {
        false
    }

    fn progress(&self, _: Amount) {}
}

/// The real server, if there is one; without it that is said where no test harness hides it.
pub(crate) fn real() -> Option<Store> {
    let store = Store::real();
    if store.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no real S3 server; `make test-s3` starts one"
        );
    }
    store
}

/// The settings with which a store is reached.
pub(crate) fn settings(store: &Store) -> S3Settings {
    S3Settings {
        endpoint: store.endpoint.clone(),
        region: store.region.clone(),
        bucket: store.bucket.clone(),
        path_style: true,
        credentials: S3Credentials {
            access_key: store.access_key.clone(),
            secret_key: Secret::new(store.secret_key.clone()),
            session_token: None,
        },
        ca_bundle: None,
        parallel: 8,
    }
}

/// As usual, but for pauses that a test can wait for.
pub(crate) fn tuning() -> S3Tuning {
    S3Tuning {
        retry: Retry {
            attempts: 5,
            first: Duration::from_millis(5),
            longest: Duration::from_millis(50),
        },
        ..S3Tuning::default()
    }
}

pub(crate) fn depot(store: &Store) -> S3Depot {
    S3Depot::tuned(settings(store), tuning()).unwrap()
}

/// An output with these files.
pub(crate) fn output(files: &[(&str, &[u8])]) -> (TempDir, OutputTree) {
    let top = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = top.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let tree = collect(top.path());
    (top, tree)
}

pub(crate) fn collect(top: &Path) -> OutputTree {
    OutputTree::collect(top, &OutputBounds::default(), &Patient).unwrap()
}

pub(crate) fn prefix(slug: &str, version: &str) -> Prefix {
    Prefix::of(slug, version).unwrap()
}

/// Publishes `files` as this version.
pub(crate) fn publish(
    depot: &S3Depot,
    place: (&str, &str),
    files: &[(&str, &[u8])],
) -> Result<Uploaded, DepotError> {
    publish_until(depot, place, files, pending())
}

pub(crate) fn publish_until(
    depot: &S3Depot,
    (slug, version): (&str, &str),
    files: &[(&str, &[u8])],
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<Uploaded, DepotError> {
    let (_top, tree) = output(files);
    let target = depot.target(prefix(slug, version));
    let progress = Arc::new(|_| {});
    block_on(target.publish(tree, progress, stop))
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

/// An error as the edge prints it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A name that no other test and no earlier run has used in a bucket that outlives them.
pub(crate) fn slug(what: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let word = directory.path().file_name().unwrap().to_str().unwrap();
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{what}-{word}")
}

/// Bytes of which no part is like another.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
