//! What the two archive forms have in common: a tar file that is read once, and not at all the next time.
//!
//! Every file of the archive is hashed on its way into a scratch directory, because the list of what belongs to the
//! image may come last. What the image does not need goes away with the scratch directory.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bryo_model::ImageRef;
use flate2::bufread::MultiGzDecoder;

use super::reported::Reported;
use super::{docker_archive, loaded, oci_archive};
use crate::blocking::{self, Waiting};
use crate::digest::{self, Digest};
use crate::error::{ImageError, io, reading};
use crate::image::{Blob, Compression, Image};
use crate::import::{self, Arrival};
use crate::layer::tar_stream::TarStream;
use crate::lock::Lock;
use crate::paths::Paths;
use crate::record;
use crate::scratch::Scratch;
use crate::store::Progress;

/// An archive with more files than this is not one of an image.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 256 << 30;

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Oci,
    Docker,
}

/// Finds what the archive held when it was last read, or reads it.
pub(super) async fn resolve(
    paths: &Paths,
    image: &ImageRef,
    file: &Path,
    kind: Kind,
    progress: Progress,
) -> Result<Image, ImageError> {
    let place = canonical(image, file)?;
    let state = fs::metadata(&place).map_err(|e| missing(image, &e))?;
    // Before it is opened: a pipe would make us wait for whoever writes to it.
    if !state.is_file() {
        return Err(ImageError::unusable(format!(
            "{} is not a file",
            place.display()
        )));
    }
    let key = record::file_key(&format!("{kind:?}"), &place, &state);
    if let Some(image) = recorded(paths, &key)? {
        return Ok(image);
    }
    let lock = Lock::wait(&paths.pull_lock(&key)).await?;
    if let Some(image) = recorded(paths, &key)? {
        return Ok(image);
    }
    if !record::is_settled(&state, SystemTime::now()) {
        // Written just now, perhaps for us: a moment later its times tell it from whatever it may become.
        tokio::time::sleep(2 * record::TICK).await;
    }
    let (paths, name) = (paths.clone(), image.clone());
    blocking::run(move |waiting| {
        let _lock = lock;
        read(&paths, &name, &place, kind, waiting, &progress)
    })
    .await
}

/// A path without links and dots: the same file has the same key, however it is called.
pub(super) fn canonical(image: &ImageRef, path: &Path) -> Result<PathBuf, ImageError> {
    fs::canonicalize(path).map_err(|e| missing(image, &e))
}

/// Whether a local image is missing is the user's matter, and so is whether it may be read.
pub(super) fn missing(image: &ImageRef, error: &io::Error) -> ImageError {
    ImageError::Missing {
        image: image.to_string(),
        detail: error.to_string(),
    }
}

fn recorded(paths: &Paths, key: &Digest) -> Result<Option<Image>, ImageError> {
    match record::find(paths, key) {
        Some(manifest) => import::load(paths, &manifest),
        None => Ok(None),
    }
}

fn read(
    paths: &Paths,
    image: &ImageRef,
    place: &Path,
    kind: Kind,
    waiting: &Waiting,
    progress: &Progress,
) -> Result<Image, ImageError> {
    let began = SystemTime::now();
    let file = File::open(place).map_err(|e| missing(image, &e))?;
    let state = file.metadata().map_err(io("inspect", place))?;
    let scratch = Scratch::new(paths)?;
    let input = Reported::new(waiting.watch(file), state.len(), progress);
    let mut contents = unpack(input, &scratch, place)?;
    let manifest = match kind {
        Kind::Oci => oci_archive::import(paths, &scratch, &mut contents)?,
        Kind::Docker => docker_archive::import(paths, &scratch, &mut contents)?,
    };
    let now = fs::metadata(place).map_err(io("inspect", place))?;
    let key = record::file_key(&format!("{kind:?}"), place, &now);
    let unchanged = key == record::file_key(&format!("{kind:?}"), place, &state);
    if unchanged && record::is_settled(&state, began) {
        record::write(paths, &scratch, &key, &manifest)?;
    }
    loaded(paths, &manifest)
}

/// A file of an archive, in the scratch directory.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) path: PathBuf,
    pub(super) blob: Blob,
    pub(super) compression: Compression,
}

/// The files of an archive by name, and by content.
pub(super) struct Contents {
    pub(super) place: PathBuf,
    pub(super) names: HashMap<String, Item>,
    pub(super) links: HashMap<String, String>,
}

impl Contents {
    /// The bytes of a document by its name.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let item = self.item(name)?;
        let file = File::open(&item.path).map_err(io("read", &item.path))?;
        crate::blobs::read_bounded(file, Path::new(name))
    }

    /// A file by its name, through links within the archive.
    pub(super) fn item(&self, name: &str) -> Result<&Item, ImageError> {
        let mut name = normal(name);
        // As many links in a row as the kernel allows.
        for _ in 0..40 {
            if let Some(item) = self.names.get(&name) {
                return Ok(item);
            }
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        Err(ImageError::unusable(format!(
            "the archive {} does not hold {name}",
            self.place.display()
        )))
    }
}

impl Arrival for Contents {
    fn take(&mut self, blob: &Blob) -> Result<PathBuf, ImageError> {
        let found = self.names.values().find(|i| i.blob.digest == blob.digest);
        match found {
            Some(item) => {
                import::check(blob, (item.blob.digest, item.blob.size))?;
                Ok(item.path.clone())
            }
            None => {
                // Somebody may have damaged it: then the name tells what it was.
                let named = self.item(&format!("blobs/sha256/{}", blob.digest.hex()))?;
                import::check(blob, (named.blob.digest, named.blob.size))?;
                Ok(named.path.clone())
            }
        }
    }
}

fn unpack(input: impl Read, scratch: &Scratch, place: &Path) -> Result<Contents, ImageError> {
    let damaged = |e| reading("the archive", place)(e);
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let head = input.fill_buf().map_err(damaged)?;
    let packed = Compression::detect(head) == Compression::Gzip;
    let input: Box<dyn Read + '_> = if packed {
        Box::new(MultiGzDecoder::new(input))
    } else {
        Box::new(input)
    };
    let mut contents = Contents {
        place: place.to_owned(),
        names: HashMap::new(),
        links: HashMap::new(),
    };
    let (mut bytes, mut count) = (0_u64, 0);
    TarStream::new(input).for_each(damaged, |entry| {
        let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        bytes = bytes.saturating_add(entry.size());
        count += 1;
        if count > MAX_FILES || bytes > MAX_BYTES {
            return Err(ImageError::unusable(
                "its archive holds more than an image can need",
            ));
        }
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            let target = if kind.is_symlink() {
                beside(&name, &target)
            } else {
                normal(&target)
            };
            contents.links.insert(name, target);
        } else if kind.is_file() {
            let item = keep(entry, scratch, count, place)?;
            contents.names.insert(name, item);
        }
        Ok(())
    })?;
    Ok(contents)
}

fn keep(
    entry: &mut impl Read,
    scratch: &Scratch,
    number: usize,
    place: &Path,
) -> Result<Item, ImageError> {
    let path = scratch.path().join(format!("file-{number}"));
    let mut file = File::create(&path).map_err(io("create", &path))?;
    let mut head = Vec::with_capacity(4);
    entry
        .take(4)
        .read_to_end(&mut head)
        .map_err(reading("the archive", place))?;
    let mut whole = io::Cursor::new(head.clone()).chain(entry);
    let (digest, size) =
        digest::copy_hashed(&mut whole, &mut file).map_err(reading("the archive", place))?;
    Ok(Item {
        path,
        blob: Blob { digest, size },
        compression: Compression::detect(&head),
    })
}

/// A name in an archive without `.`, `..` and superfluous slashes; names are only compared, never opened.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a symbolic link at `name` points to.
fn beside(name: &str, target: &str) -> String {
    match name.rsplit_once('/') {
        Some((dir, _)) if !target.starts_with('/') => normal(&format!("{dir}/{target}")),
        _ => normal(target),
    }
}
