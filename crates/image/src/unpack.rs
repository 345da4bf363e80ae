//! From an image in the store to directories that an overlay mount can stack: the caller's side.
//!
//! Each layer is unpacked by a program that the caller provides, into `tmp/`, under the layer's lock; what it leaves
//! there is renamed into place here. Layers that are there already cost one read each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bryo_model::{Amount, IdSlot};
use bryo_process::{Program, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::digest::Digest;
use crate::error::{ImageError, io};
use crate::image::{Image, LayerRef};
use crate::layer::{Failure, LayerMeta};
use crate::lock::{Hold, Lock};
use crate::paths::{Paths, UNPACKING};
use crate::store::{ImageStore, Progress};

/// How many different layers an image may have: their directories, named relative to one that they share, have to fit
/// into the one page that a mount's options have, with room for the upper and the work directory.
pub const MAX_LAYERS: usize = 110;

/// How much of the unpacker's standard error an error shows.
const STDERR_TAIL: usize = 4096;

/// The unpacked layers of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    dirs: Vec<PathBuf>,
    metas: Vec<LayerMeta>,
    /// While a job has them, nobody removes them.
    _hold: Hold,
}

impl Layers {
    /// The directories with the layers' files, topmost first, none twice. Each is called `fs`, in a directory of its
    /// own, and these are all in one.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    pub(crate) fn metas(&self) -> impl Iterator<Item = &LayerMeta> {
        self.metas.iter()
    }
}

impl ImageStore {
    /// Makes sure that every layer of the image is unpacked, several at a time.
    ///
    /// `unpacker` runs [`unpack_layer_main`](crate::unpack_layer_main) as root of the user namespace that layers are
    /// mounted in, with the arguments that are added to it here. The files will belong to the ids of `slot`: a layer that
    /// was unpacked for another one is not used. Dropping the future ends the programs.
    ///
    /// # Errors
    ///
    /// [`Fault::Unusable`](crate::Fault::Unusable) when a layer is damaged, hostile, or there are too many;
    /// [`Fault::Infrastructure`](crate::Fault::Infrastructure) when the unpacker or the disk fail.
    pub async fn unpack(
        &self,
        image: &Image,
        slot: IdSlot,
        unpacker: &Program,
        progress: Progress,
    ) -> Result<Layers, ImageError> {
        let layers = distinct(&image.layers);
        if layers.len() > MAX_LAYERS {
            return Err(ImageError::unusable(format!(
                "it has {} layers, and no more than {MAX_LAYERS} can be mounted",
                layers.len()
            )));
        }
        let mut used = Vec::with_capacity(layers.len());
        for layer in &layers {
            used.push(Lock::share(&self.paths.use_lock(&layer.diff_id, slot)).await?);
        }
        let hold = Hold::on(used);
        let absent = self.absent(&layers, slot)?;
        if !absent.is_empty() {
            self.sweep_unpacking(unpacker).await;
            self.unpack_all(absent, slot, unpacker, progress).await?;
        }
        let mut dirs = Vec::with_capacity(layers.len());
        let mut metas = Vec::with_capacity(layers.len());
        for layer in layers {
            let dir = self.paths.layer(&layer.diff_id, slot);
            let gone = || io("find", &dir)(io::Error::from(io::ErrorKind::NotFound));
            metas.push(LayerMeta::read(&dir, &layer.diff_id, slot)?.ok_or_else(gone)?);
            dirs.push(dir.join("fs"));
        }
        // The image last: it never looks older than what is made from it.
        hold.touch();
        image.hold.touch();
        Ok(Layers {
            dirs,
            metas,
            _hold: hold,
        })
    }

    fn absent(&self, layers: &[LayerRef], slot: IdSlot) -> Result<Vec<LayerRef>, ImageError> {
        let mut absent = Vec::new();
        for layer in layers {
            if !is_ready(&self.paths, &layer.diff_id, slot)? {
                absent.push(layer.clone());
            }
        }
        Ok(absent)
    }

    async fn unpack_all(
        &self,
        layers: Vec<LayerRef>,
        slot: IdSlot,
        unpacker: &Program,
        progress: Progress,
    ) -> Result<(), ImageError> {
        let place = self.paths.layers(slot);
        fs::create_dir_all(&place).map_err(io("create", &place))?;
        let meter = Arc::new(Meter {
            done: AtomicU64::new(0),
            total: layers.iter().map(|l| l.blob.size).sum(),
            progress,
        });
        let at_once = thread::available_parallelism()
            .map_or(2, usize::from)
            .max(2);
        let seats = Arc::new(Semaphore::new(at_once));
        let mut work = JoinSet::new();
        for layer in layers {
            let (paths, unpacker) = (self.paths.clone(), unpacker.clone());
            let (seats, meter) = (Arc::clone(&seats), Arc::clone(&meter));
            work.spawn(async move {
                let _seat = seats.acquire().await.map_err(|_| ImageError::GivenUp)?;
                unpack_layer(&paths, &layer, slot, &unpacker, &meter).await
            });
        }
        let mut result = Ok(());
        while let Some(one) = work.join_next().await {
            let one = one.unwrap_or(Err(ImageError::GivenUp));
            if result.is_ok() && one.is_err() {
                // The first failure is the one to tell; the others stop because of it.
                result = one;
                work.abort_all();
            }
        }
        result
    }

    /// Removes what a crash left of layers that nobody unpacks now. Best effort.
    pub(crate) async fn sweep_unpacking(&self, unpacker: &Program) {
        let Ok(entries) = fs::read_dir(self.paths.tmp()) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(layer) = name.to_str().and_then(|n| n.strip_prefix(UNPACKING)) else {
                continue;
            };
            let lock = self.paths.layer_lock_named(layer);
            if let Ok(Some(_lock)) = Lock::try_now(&lock) {
                let remove = unpacker.clone().arg("remove").arg(entry.path());
                let _ = run(&remove, |_| {}).await;
            }
        }
    }
}

/// Topmost first, without repetition. Where a layer occurs twice, the lower occurrence changes nothing: all it has the
/// upper one brings again. Overlay refuses the same directory twice.
fn distinct(layers: &[LayerRef]) -> Vec<LayerRef> {
    let mut distinct: Vec<LayerRef> = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev() {
        if !distinct.iter().any(|known| known.diff_id == layer.diff_id) {
            distinct.push(layer.clone());
        }
    }
    distinct
}

fn is_ready(paths: &Paths, diff_id: &Digest, slot: IdSlot) -> Result<bool, ImageError> {
    let dir = paths.layer(diff_id, slot);
    dir.try_exists().map_err(io("inspect", &dir))
}

struct Meter {
    done: AtomicU64,
    total: u64,
    progress: Progress,
}

impl Meter {
    fn add(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        (self.progress)(Amount::Bytes {
            done: (before + bytes).min(self.total),
            total: self.total,
        });
    }
}

async fn unpack_layer(
    paths: &Paths,
    layer: &LayerRef,
    slot: IdSlot,
    unpacker: &Program,
    meter: &Meter,
) -> Result<(), ImageError> {
    let _lock = Lock::wait(&paths.layer_lock(&layer.diff_id, slot)).await?;
    if is_ready(paths, &layer.diff_id, slot)? {
        meter.add(layer.blob.size);
        return Ok(());
    }
    let target = paths.unpacking(&layer.diff_id, slot);
    let program = unpacker
        .clone()
        .arg("unpack")
        .arg(paths.blob(&layer.blob.digest))
        .arg(&target)
        .arg(layer.diff_id.to_string())
        .arg(layer.compression.word())
        .arg("--slot")
        .arg(slot.number().to_string());
    let mut told = 0;
    let result = run(&program, |read| {
        meter.add(read.saturating_sub(told));
        told = read.max(told);
    })
    .await;
    if let Err(error) = result {
        return Err(blame(paths, layer, &target, error));
    }
    if LayerMeta::read(&target, &layer.diff_id, slot)?.is_none() {
        return Err(ImageError::Unpacker {
            detail: "it left nothing".to_owned(),
        });
    }
    let place = paths.layer(&layer.diff_id, slot);
    fs::rename(&target, &place).map_err(io("move into the store", &target))
}

/// The layer's fault, if the unpacker said so. Then its blob goes away too: it may have been damaged on the disk, and the
/// next attempt shall fetch it again.
fn blame(paths: &Paths, layer: &LayerRef, target: &Path, error: ImageError) -> ImageError {
    match Failure::read(target) {
        Some(Failure { why }) => {
            // If it cannot be removed, the next attempt fails as this one does.
            let _ = fs::remove_file(paths.blob(&layer.blob.digest));
            ImageError::Unusable { why }
        }
        None => error,
    }
}

/// Removes an unpacked layer by its name, in its directory; `false` when a job uses it. It becomes work in progress
/// first: that is whole or not there for everybody else, and what a crash leaves of it is swept.
pub(crate) async fn remove_layer(
    paths: &Paths,
    dir: &Path,
    name: &str,
    unpacker: &Program,
) -> Result<bool, ImageError> {
    let Some(_unused) = Lock::try_now(&paths.use_lock_named(name))? else {
        return Ok(false);
    };
    let Some(_alone) = Lock::try_now(&paths.layer_lock_named(name))? else {
        return Ok(false);
    };
    let going = paths.unpacking_named(name);
    let remove = unpacker.clone().arg("remove").arg(&going);
    if going.exists() {
        run(&remove, |_| {}).await?;
    }
    match fs::rename(dir, &going) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.map_err(io("move out of the store", dir))?,
    }
    run(&remove, |_| {}).await?;
    Ok(true)
}

/// Runs the unpacker, telling `read` how many bytes it has read.
async fn run(program: &Program, read: impl FnMut(u64)) -> Result<(), ImageError> {
    let mut running = program
        .start(Stdio::OutputPiped)
        .map_err(ImageError::Program)?;
    let (_, stdout, stderr) = running.take_pipes();
    let (_, said) = tokio::join!(listen(stdout, read), tail(stderr));
    let status = running.wait().await.map_err(ImageError::Program)?;
    if status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&said);
        Err(ImageError::Unpacker {
            detail: format!("{status}: {}", said.trim()),
        })
    }
}

async fn listen(stdout: Option<impl AsyncRead + Unpin>, mut read: impl FnMut(u64)) {
    let Some(stdout) = stdout else { return };
    // Other lines are not for us; an unreadable rest shows in the exit status.
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(bytes) = line.strip_prefix("read ").and_then(|n| n.parse().ok()) {
            read(bytes);
        }
    }
}

async fn tail(stderr: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stderr) = stderr else {
        return kept;
    };
    let mut piece = [0; 4096];
    while let Ok(n) = stderr.read(&mut piece).await {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&piece[..n]);
        kept.drain(..kept.len().saturating_sub(STDERR_TAIL));
    }
    kept
}
