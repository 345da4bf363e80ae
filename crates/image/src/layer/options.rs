//! The arguments of the unpacker.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use bryo_model::IdSlot;

use super::apply::{Limits, Owner};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::Compression;

/// What to do.
#[derive(Debug)]
pub(super) enum Command {
    Unpack(Unpack),
    Remove(PathBuf),
}

/// One layer to unpack.
#[derive(Debug)]
pub(super) struct Unpack {
    pub(super) blob: PathBuf,
    pub(super) target: PathBuf,
    pub(super) diff_id: Digest,
    pub(super) compression: Compression,
}

/// All of the arguments.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) command: Command,
    pub(super) owner: Owner,
    pub(super) slot: IdSlot,
    pub(super) limits: Limits,
}

impl Options {
    pub(super) fn parse(args: &[OsString]) -> Result<Self, ImageError> {
        let mut keep = false;
        let mut slot = IdSlot::SHARED;
        let mut limits = Limits::default();
        let mut words = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--owner") if args.next().is_some_and(|v| v == "keep") => keep = true,
                Some("--slot") => slot = number_of_slot(args.next())?,
                Some("--max-bytes") => limits.bytes = number(args.next())?,
                Some("--max-entries") => limits.entries = number(args.next())?,
                Some(flag) if flag.starts_with("--") => {
                    return Err(ImageError::Arguments("an option is unknown"));
                }
                _ => words.push(arg.as_os_str()),
            }
        }
        Ok(Self {
            command: command(&words)?,
            owner: if keep {
                Owner::Keep
            } else {
                Owner::Shifted(slot)
            },
            slot,
            limits,
        })
    }
}

fn command(words: &[&OsStr]) -> Result<Command, ImageError> {
    let usage = || ImageError::Arguments("unpack BLOB TARGET DIFF_ID KIND, or remove TARGET");
    match words {
        [word, target] if *word == "remove" => Ok(Command::Remove(target.into())),
        [word, blob, target, diff_id, kind] if *word == "unpack" => Ok(Command::Unpack(Unpack {
            blob: blob.into(),
            target: target.into(),
            diff_id: diff_id
                .to_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(usage)?,
            compression: kind
                .to_str()
                .and_then(Compression::from_word)
                .ok_or_else(usage)?,
        })),
        _ => Err(usage()),
    }
}

fn number_of_slot(value: Option<&OsString>) -> Result<IdSlot, ImageError> {
    u32::try_from(number(value)?)
        .ok()
        .and_then(IdSlot::new)
        .ok_or(ImageError::Arguments("there is no such slot of ids"))
}

fn number(value: Option<&OsString>) -> Result<u64, ImageError> {
    value
        .and_then(|v| v.to_str())
        .and_then(|v| v.parse().ok())
        .ok_or(ImageError::Arguments("a limit or a slot is a number"))
}
