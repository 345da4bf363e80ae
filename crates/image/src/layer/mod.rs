//! Inside the namespace: one layer from blob to directory.
//!
//! This runs as a program of its own, as root of the user namespace in which the ids of containers are, slot by slot, from 1 on. It is told
//! everything by arguments, and answers with files beside the result: `meta.json` when all went well, `error.json` when
//! the layer is to blame. On standard output it tells how much of the blob it has read.
//!
//! ```text
//! unpack BLOB TARGET DIFF_ID KIND     BLOB becomes TARGET/fs; what was at TARGET before is removed
//! remove TARGET                       a tree that belongs to subordinate ids goes away
//!   --slot N                            (anywhere) whose the files become: container id i is the i-th id of slot N
//!   --owner keep                      (anywhere) files stay whose they are: for use without a namespace
//!   --max-bytes N, --max-entries N    (anywhere) refuse a layer that becomes larger than this
//! ```

mod apply;
mod confined;
mod decode;
mod entry_name;
mod meta;
mod options;
pub(crate) mod tar_stream;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::syncfs;

pub(crate) use meta::{Account, Failure, LayerMeta};
use options::{Command, Options, Unpack};

use crate::error::{Fault, ImageError, io};

/// What hostile headers may make us allocate. Far more than honest layers need, far less than a host has.
const MAX_MEMORY: u64 = 1 << 30;

/// Runs the unpacker of layers: what the hidden subcommand does that [`ImageStore::unpack`](crate::ImageStore::unpack)
/// starts inside the user namespace.
///
/// It limits the memory of the whole process and sets its umask, and is therefore only for a process of its own.
///
/// # Errors
///
/// When the layer cannot be unpacked; [`ImageStore::unpack`](crate::ImageStore::unpack) learns the cause from the file
/// that was written about it, so that the process only has to end with something else than 0.
pub fn unpack_layer_main(args: &[OsString]) -> Result<(), ImageError> {
    let options = Options::parse(args)?;
    restrict();
    match &options.command {
        Command::Remove(target) => remove(target),
        Command::Unpack(unpack) => {
            let result = unpack_layer(unpack, &options);
            if let Err(error) = &result
                && error.fault() == Fault::Unusable
            {
                Failure::write(&unpack.target, error)?;
            }
            result
        }
    }
}

/// Best effort: without these limits, a hostile layer is only stopped later.
fn restrict() {
    // Modes of files are set explicitly; until then nobody else has to see them.
    umask(Mode::from_bits_truncate(0o077));
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) {
        let _ = setrlimit(Resource::RLIMIT_DATA, MAX_MEMORY.min(hard), hard);
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Removing a tree holds one directory open per level.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn unpack_layer(order: &Unpack, options: &Options) -> Result<(), ImageError> {
    let target = &order.target;
    remove(target)?;
    let fs_dir = target.join("fs");
    fs::create_dir(target).map_err(io("create", target))?;
    fs::create_dir(&fs_dir).map_err(io("create", &fs_dir))?;
    let blob = File::open(&order.blob).map_err(io("read", &order.blob))?;
    let input = Told {
        inner: blob,
        done: 0,
        told: 0,
    };
    let limits = options.limits;
    let (counts, found) = decode::decoded(
        input,
        order.compression,
        limits.stream_bytes(),
        &order.blob,
        |stream| apply::apply(stream, &fs_dir, options.owner, limits, &order.blob),
    )?;
    if found != order.diff_id {
        return Err(ImageError::unusable(format!(
            "its layer {} is damaged: the content is {found}",
            order.diff_id
        )));
    }
    fs::set_permissions(target, fs::Permissions::from_mode(0o755)).map_err(io("chmod", target))?;
    LayerMeta::collect(target, order.diff_id, options.slot, counts)?.write(target)?;
    // After a power cut, what has its name in the store must be whole.
    let dir = File::open(target).map_err(io("read", target))?;
    syncfs(&dir).map_err(io("write back", target))
}

fn remove(target: &Path) -> Result<(), ImageError> {
    confined::remove_tree(target).map_err(io("remove", target))
}

/// A reader that tells on standard output how far it got.
struct Told<R> {
    inner: R,
    done: u64,
    told: u64,
}

const TELL_EVERY: u64 = 1 << 20;

impl<R: Read> Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        if n == 0 || self.done >= self.told + TELL_EVERY {
            self.told = self.done;
            // Progress that nobody reads is no reason to fail.
            let _ = writeln!(io::stdout(), "read {}", self.done);
        }
        Ok(n)
    }
}
