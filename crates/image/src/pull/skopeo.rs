//! The distribution's `skopeo`, which knows every transport, credential helper, mirror and signature policy.
//!
//! - *Why copy to `dir:` and not to `oci:`?* `dir:` keeps the manifest byte for byte, whatever its kind, and with it the
//!   digest that pins the image; `oci:` would rewrite Docker's.
//!
//! Credentials are in files that skopeo reads by itself, never in its arguments.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bryo_model::Amount;
use bryo_process::{Finished, ProcessError, Program, find_program};

use super::failure;
use crate::blobs::MAX_DOCUMENT;
use crate::blocking;
use crate::digest::Digest;
use crate::error::{ImageError, io};
use crate::image::Blob;
use crate::import::{self, Arrival};
use crate::lock::Lock;
use crate::paths::Paths;
use crate::record;
use crate::scratch::Scratch;
use crate::store::{Progress, PullOptions};

/// How long it may take is the caller's decision, who drops the future.
const NO_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What skopeo needs to find its configuration, credentials, certificates and storage, and to pass a proxy.
const ENVIRONMENT: [&str; 30] = [
    "HOME",
    "USER",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "REGISTRY_AUTH_FILE",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "REGISTRIES_CONFIG_PATH",
    "CONTAINERS_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_STORAGE_CONF",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    // Set together inside `podman unshare`.
    "_CONTAINERS_USERNS_CONFIGURED",
    "_CONTAINERS_ROOTLESS_UID",
    "_CONTAINERS_ROOTLESS_GID",
];

/// skopeo, for one image.
pub(super) struct Skopeo<'a> {
    program: Program,
    image: String,
    options: &'a PullOptions,
}

impl<'a> Skopeo<'a> {
    /// Looks for it on this host.
    pub(super) fn find(image: String, options: &'a PullOptions) -> Result<Self, ImageError> {
        let path = find_program("skopeo").ok_or(ImageError::NoSkopeo)?;
        let program = ENVIRONMENT
            .iter()
            .fold(Program::new(path), |program, name| program.inherit(name));
        Ok(Self {
            program,
            image,
            options,
        })
    }

    /// The manifest or index behind a reference, byte for byte.
    pub(super) async fn manifest(&self, reference: &str) -> Result<Vec<u8>, ImageError> {
        let program = self
            .program
            .clone()
            .args(["inspect", "--raw"])
            .args(self.flags("--authfile", "--tls-verify=false"))
            .arg(reference);
        let most = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
        Ok(self.finish(&program, most).await?.stdout)
    }

    /// Copies an image into `to`, telling how many of `total` bytes are there.
    pub(super) async fn copy(
        &self,
        reference: &str,
        to: &Path,
        total: u64,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let mut target = OsString::from("dir:");
        target.push(to);
        let program = self
            .program
            .clone()
            .arg("--tmpdir")
            .arg(to.parent().unwrap_or(to))
            .args(["copy", "--quiet"])
            .args(self.flags("--src-authfile", "--src-tls-verify=false"))
            .arg(reference)
            .arg(target);
        let mut tick = tokio::time::interval(LOOK_AGAIN);
        let copy = self.finish(&program, 1 << 20);
        tokio::pin!(copy);
        loop {
            tokio::select! {
                done = &mut copy => return done.map(|_| ()),
                _ = tick.tick() => if total > 0 {
                    let done = size_of(to).min(total);
                    progress(Amount::Bytes { done, total });
                },
            }
        }
    }

    fn flags(&self, authfile: &str, insecure: &str) -> Vec<OsString> {
        let mut flags = Vec::new();
        if let Some(file) = &self.options.authfile {
            flags.extend([authfile.into(), file.into()]);
        }
        if self.options.plain_http {
            flags.push(insecure.into());
        }
        flags
    }

    async fn finish(&self, program: &Program, most: usize) -> Result<Finished, ImageError> {
        let done = program.finish(b"", most, NO_DEADLINE).await;
        let done = done.map_err(|error| match error {
            ProcessError::NotInstalled { .. } => ImageError::NoSkopeo,
            other => ImageError::Program(other),
        })?;
        if done.status.success() {
            Ok(done)
        } else {
            Err(failure::classify(&self.image, &done.stderr))
        }
    }
}

/// A copy that skopeo is asked for.
pub(super) struct Order<'a> {
    pub(super) reference: &'a str,
    /// What the manifest must be, where that is known.
    pub(super) manifest: Option<Digest>,
    pub(super) bytes: u64,
    /// Under what to record the result.
    pub(super) record: Option<Digest>,
}

/// Copies an image with skopeo and brings it into the store. The caller holds the lock of what it is called.
pub(super) async fn bring(
    paths: &Paths,
    skopeo: &Skopeo<'_>,
    order: Order<'_>,
    lock: Lock,
    progress: &Progress,
) -> Result<Digest, ImageError> {
    let scratch = Scratch::new(paths)?;
    let dir = scratch.path().join("image");
    fs::create_dir(&dir).map_err(io("create", &dir))?;
    skopeo
        .copy(order.reference, &dir, order.bytes, progress)
        .await?;
    let paths = paths.clone();
    let Order {
        manifest, record, ..
    } = order;
    blocking::run(move |waiting| {
        let _lock = lock;
        let file = dir.join("manifest.json");
        let open = File::open(&file).map_err(io("read", &file))?;
        let bytes = crate::blobs::read_bounded(open, &file)?;
        let top = Blob {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        if manifest.is_some_and(|expected| expected != top.digest) {
            return Err(ImageError::unusable(format!(
                "its manifest changed to {} while it was fetched",
                top.digest
            )));
        }
        let mut files = Copied {
            dir: &dir,
            manifest: (file, top),
            waiting,
        };
        let digest = import::import(&paths, &scratch, top, &mut files)?;
        if let Some(key) = record {
            record::write(&paths, &scratch, &key, &digest)?;
        }
        Ok(digest)
    })
    .await
}

/// The files of a `dir:` copy: `manifest.json`, and blobs named after their digest.
struct Copied<'a> {
    dir: &'a Path,
    manifest: (PathBuf, Blob),
    waiting: &'a blocking::Waiting,
}

impl Arrival for Copied<'_> {
    fn take(&mut self, blob: &Blob) -> Result<PathBuf, ImageError> {
        let path = if blob.digest == self.manifest.1.digest {
            self.manifest.0.clone()
        } else {
            self.dir.join(blob.digest.hex())
        };
        let file = File::open(&path).map_err(io("read", &path))?;
        import::check_file(&path, blob, self.waiting.watch(file))?;
        Ok(path)
    }
}

/// How much is in a directory's files by now.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|m| m.len())
        .sum()
}
