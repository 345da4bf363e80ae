//! From what was said to what is meant, value by value; every mistake is kept, so that all are told.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bryo_model::parse_duration;

use super::super::effective::Effective;
use super::super::fragment::{Entry, Problem};
use super::super::keys::Key;
use super::super::kind::Value;
use super::super::merged::Merged;
use super::secrets::SecretPlaces;

/// Reads values out of what all sources said.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(super) merged: &'a Merged,
    effective: Effective<'a>,
    pub(super) secrets: &'a SecretPlaces<'a>,
    /// What cannot be used.
    pub(crate) problems: Vec<Problem>,
    /// What could not be looked at from here, and is no mistake for that.
    pub(crate) notes: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(
        effective: Effective<'a>,
        secrets: &'a SecretPlaces<'a>,
        problems: Vec<Problem>,
    ) -> Self {
        Self {
            merged: effective.merged,
            effective,
            secrets,
            problems,
            notes: Vec::new(),
        }
    }

    /// What holds.
    pub(super) fn entry(&self, key: &'static Key, name: &str) -> Option<Entry> {
        self.effective.entry(key, name)
    }

    pub(super) fn text(&self, key: &'static Key, name: &str) -> Option<String> {
        match self.entry(key, name)?.value {
            Value::Text(text) => Some(text),
            Value::Flag(_) | Value::Number(_) | Value::List(_) => None,
        }
    }

    pub(super) fn path(&self, key: &'static Key, name: &str) -> Option<PathBuf> {
        self.text(key, name).map(PathBuf::from)
    }

    pub(super) fn flag(&self, key: &'static Key) -> bool {
        self.entry(key, "")
            .is_some_and(|entry| entry.value == Value::Flag(true))
    }

    pub(super) fn number(&self, key: &'static Key, name: &str) -> Option<u64> {
        match self.entry(key, name)?.value {
            Value::Number(number) => Some(number),
            Value::Flag(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    /// A number of things that there are at one time.
    pub(super) fn count(&self, key: &'static Key, name: &str) -> Option<usize> {
        self.number(key, name)
            .map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    pub(super) fn small(&self, key: &'static Key) -> Option<u32> {
        self.number(key, "")
            .map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    pub(super) fn value<T>(&mut self, key: &'static Key, name: &str) -> Option<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        self.converted(key, name, |text| {
            text.parse().map_err(|e: T::Err| e.to_string())
        })
    }

    pub(super) fn time(&mut self, key: &'static Key, name: &str) -> Option<Duration> {
        self.converted(key, name, |text| {
            parse_duration(text).map_err(|e| e.to_string())
        })
    }

    /// A value that is text, in its own type.
    pub(super) fn converted<T>(
        &mut self,
        key: &'static Key,
        name: &str,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let entry = self.entry(key, name)?;
        let Value::Text(text) = &entry.value else {
            return None;
        };
        match convert(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(&entry, why);
                None
            }
        }
    }

    pub(super) fn list<T>(&mut self, key: &'static Key) -> Vec<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        let Some(entry) = self.entry(key, "") else {
            return Vec::new();
        };
        let Value::List(items) = &entry.value else {
            return Vec::new();
        };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match item.parse::<T>() {
                Ok(value) => out.push(value),
                Err(why) => self.wrong(&entry, why.to_string()),
            }
        }
        out
    }

    /// A file of certificates is looked at before anything is begun: who trusts nobody fails late and obscurely.
    pub(super) fn certificates(&mut self, key: &'static Key, name: &str) -> Option<PathBuf> {
        let entry = self.entry(key, name)?;
        let file = self.path(key, name)?;
        match certificates(&file) {
            Ok(real) => Some(real),
            Err(why) => {
                self.wrong(&entry, format!("{}: {why}", file.display()));
                None
            }
        }
    }

    /// A mistake in what was said here.
    pub(super) fn wrong(&mut self, entry: &Entry, why: impl Into<String>) {
        self.problems.push(Problem::at(
            &entry.origin,
            format!("{}: {}", entry.path(), why.into()),
        ));
    }

    /// Something that has to be said.
    pub(super) fn missing(&mut self, path: &str, hint: impl Into<String>) {
        self.problems
            .push(Problem::missing(format!("{path} is missing")).hint(hint));
    }
}

fn certificates(file: &Path) -> Result<PathBuf, String> {
    let real = file.canonicalize().map_err(|e| e.to_string())?;
    if !real.is_file() {
        return Err("not a regular file".to_owned());
    }
    let text = std::fs::read(&real).map_err(|e| e.to_string())?;
    let begin = b"-----BEGIN CERTIFICATE-----";
    if text.windows(begin.len()).any(|piece| piece == begin) {
        Ok(real)
    } else {
        Err("there is no certificate in PEM form in it (-----BEGIN CERTIFICATE-----)".to_owned())
    }
}
