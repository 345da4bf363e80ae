//! The arguments of the unpacker.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

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
    pub(super) limits: Limits,
}

impl Options {
    pub(super) fn parse(args: &[OsString]) -> Result<Self, ImageError> {
        let mut owner = Owner::Shifted;
        let mut limits = Limits::default();
        let mut words = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--owner") if args.next().is_some_and(|v| v == "keep") => owner = Owner::Keep,
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
            owner,
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

fn number(value: Option<&OsString>) -> Result<u64, ImageError> {
    value
        .and_then(|v| v.to_str())
        .and_then(|v| v.parse().ok())
        .ok_or(ImageError::Arguments("a limit is a number"))
}
