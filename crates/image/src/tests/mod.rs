//! Whole images through the whole store, made here entry by entry.

mod build;
mod collecting;
mod forms;
mod hostile;
mod layers;
mod namespace;
mod skopeo;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bryo_model::{IdSlot, ImageRef};
use bryo_process::Program;

use crate::{Image, ImageError, ImageStore, Layers, Progress, PullOptions, unpack_layer_main};
use build::{TestImage, TestLayer};

/// A store that lives as long as the test.
struct World {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn resolve(&self, image: impl Into<String>) -> Result<Image, ImageError> {
        let image: ImageRef = image.into().parse().unwrap();
        self.store
            .resolve(&image, &PullOptions::default(), quiet())
            .await
    }

    /// An image of these layers, by way of an archive.
    async fn image(&self, layers: Vec<TestLayer>) -> Result<Image, ImageError> {
        let archive = self.path("image.tar");
        TestImage::new(layers).write_oci_archive(&archive);
        self.resolve(format!("oci-archive:{}", archive.display()))
            .await
    }

    async fn unpack(&self, image: &Image) -> Result<Layers, ImageError> {
        self.unpack_with(image, &[]).await
    }

    async fn unpack_with(&self, image: &Image, options: &[&str]) -> Result<Layers, ImageError> {
        self.store
            .unpack(image, IdSlot::SHARED, &unpacker(options), quiet())
            .await
    }

    /// The one layer, unpacked.
    async fn unpacked(&self, layer: TestLayer) -> Result<std::path::PathBuf, ImageError> {
        let image = self.image(vec![layer]).await?;
        Ok(self.unpack(&image).await?.dirs()[0].clone())
    }

    fn left_in_tmp(&self) -> Vec<OsString> {
        names(&self.path("store/tmp"))
    }
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

/// Says that a test did not test, past the capture of test output.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

fn quiet() -> Progress {
    Arc::new(|_| {})
}

/// The unpacker without a namespace: this very program, made to run [`the_unpacker`] only.
fn unpacker(options: &[&str]) -> Program {
    helper(Program::new(std::env::current_exe().unwrap()))
        .args(["--owner", "keep"])
        .args(options)
}

/// Adds what makes this program the unpacker.
fn helper(program: Program) -> Program {
    program.args(["-q", "--exact", "--nocapture", "--", "tests::the_unpacker"])
}

/// Not a test, but what [`helper`] runs.
#[test]
fn the_unpacker() -> Result<(), ImageError> {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.iter().position(|arg| arg == "--") {
        Some(at) => unpack_layer_main(&args[at + 2..]),
        None => Ok(()),
    }
}
