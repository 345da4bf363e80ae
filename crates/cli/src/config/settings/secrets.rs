//! Secrets, said in one of four ways: the value, a file, a credential of the service manager, an environment variable.
//!
//! A message names the way, never the value.

use std::path::{Path, PathBuf};

use bryo_model::Secret;
use bryo_source::SecretRef;

use super::super::About;
use super::super::environment::Environment;
use super::super::files::permissions;
use super::super::fragment::{Entry, Problem};
use super::super::keys::{self, Key};
use super::super::kind;
use super::reader::Reader;

/// A shorter secret could not be hidden: it is in too many innocent words.
const SHORTEST: usize = 4;

/// Where secrets are looked for.
#[derive(Debug)]
pub(crate) struct SecretPlaces<'a> {
    pub(crate) environment: &'a Environment,
    /// `$CREDENTIALS_DIRECTORY`, which the service manager sets for a unit with credentials.
    pub(crate) credentials: Option<PathBuf>,
    /// Whether what only the service has must be here: false for a look from a shell.
    pub(crate) complete: bool,
}

/// The keys that say one secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// The secret itself, where it may be said.
    value: Option<&'static Key>,
    file: &'static Key,
    credential: &'static Key,
    variable: &'static Key,
}

pub(super) const TOKEN: Ways = Ways {
    value: Some(&keys::TOKEN),
    file: &keys::TOKEN_FILE,
    credential: &keys::TOKEN_CREDENTIAL,
    variable: &keys::TOKEN_ENV,
};

pub(super) const ACCESS_KEY: Ways = Ways {
    value: Some(&keys::S3_ACCESS_KEY),
    file: &keys::S3_ACCESS_KEY_FILE,
    credential: &keys::S3_ACCESS_KEY_CREDENTIAL,
    variable: &keys::S3_ACCESS_KEY_ENV,
};

pub(super) const SECRET_KEY: Ways = Ways {
    value: Some(&keys::S3_SECRET_KEY),
    file: &keys::S3_SECRET_KEY_FILE,
    credential: &keys::S3_SECRET_KEY_CREDENTIAL,
    variable: &keys::S3_SECRET_KEY_ENV,
};

pub(super) const SESSION_TOKEN: Ways = Ways {
    value: Some(&keys::S3_SESSION_TOKEN),
    file: &keys::S3_SESSION_TOKEN_FILE,
    credential: &keys::S3_SESSION_TOKEN_CREDENTIAL,
    variable: &keys::S3_SESSION_TOKEN_ENV,
};

pub(super) const OF_JOBS: Ways = Ways {
    value: Some(&keys::JOB_SECRET_VALUE),
    file: &keys::JOB_SECRET_FILE,
    credential: &keys::JOB_SECRET_CREDENTIAL,
    variable: &keys::JOB_SECRET_ENV,
};

pub(super) const GIT_TOKEN: Ways = Ways {
    value: None,
    file: &keys::CREDENTIAL_TOKEN_FILE,
    credential: &keys::CREDENTIAL_TOKEN_CREDENTIAL,
    variable: &keys::CREDENTIAL_TOKEN_ENV,
};

pub(super) const GIT_SSH_KEY: Ways = Ways {
    value: None,
    file: &keys::CREDENTIAL_SSH_KEY_FILE,
    credential: &keys::CREDENTIAL_SSH_KEY_CREDENTIAL,
    variable: &keys::CREDENTIAL_SSH_KEY_ENV,
};

/// What became of a secret that was said.
#[derive(Debug)]
pub(super) enum Said {
    /// Nobody said it.
    Not,
    /// It cannot be had; that was told.
    Lost,
    Value(String),
}

impl Reader<'_> {
    /// A secret that is sent: in a header, in a signature.
    pub(super) fn secret(&mut self, ways: Ways, name: &str) -> Said {
        match self.any_secret(ways, name) {
            Some((entry, Ok(value))) => match kind::secret(&value) {
                Ok(()) => Said::Value(value),
                Err(why) => {
                    self.wrong(&entry, why);
                    Said::Lost
                }
            },
            Some((_, Err(()))) => Said::Lost,
            None => Said::Not,
        }
    }

    /// A secret of a job, which may have several lines.
    pub(super) fn secret_of_jobs(&mut self, name: &str) -> Option<String> {
        let (entry, value) = self.any_secret(OF_JOBS, name)?;
        let value = value.ok()?;
        match hideable(&value) {
            Ok(()) => Some(value),
            Err(why) => {
                self.wrong(&entry, why);
                None
            }
        }
    }

    /// Where a credential for sources is. It is looked at in any case; who asks for an agent is told what is wrong with
    /// it, and who asks for one job learns it when the job needs it: a credential of the agent's is not everybody's.
    pub(super) fn secret_of_sources(
        &mut self,
        ways: Ways,
        name: &str,
        about: About,
    ) -> Option<SecretRef> {
        let (problems, notes) = (self.problems.len(), self.notes.len());
        let (entry, value) = self.any_secret(ways, name)?;
        if let Ok(value) = &value
            && value.trim().is_empty()
        {
            self.wrong(&entry, "the secret is empty");
        }
        let mut told = self.problems[problems..].iter().map(ToString::to_string);
        let mut noted = self.notes[notes..].iter().cloned();
        let why = told.next().or_else(|| noted.next());
        if about != About::Agent {
            self.problems.truncate(problems);
            self.notes.truncate(notes);
        }
        if let Some(why) = why {
            return Some(SecretRef::Unavailable(why));
        }
        let text = self.text(entry.key, name).unwrap_or_default();
        Some(if std::ptr::eq(entry.key, ways.file) {
            SecretRef::File(text.into())
        } else if std::ptr::eq(entry.key, ways.credential) {
            SecretRef::File(self.secrets.credentials.clone()?.join(text))
        } else {
            SecretRef::Value(Secret::new(value.ok()?))
        })
    }

    fn any_secret(&mut self, ways: Ways, name: &str) -> Option<(Entry, Result<String, ()>)> {
        let references = [ways.file, ways.credential, ways.variable];
        let entry = ways
            .value
            .into_iter()
            .chain(references)
            .find_map(|key| self.merged.said(key, name))
            .cloned()?;
        let text = self.text(entry.key, name).unwrap_or_default();
        let result = if std::ptr::eq(entry.key, ways.file) {
            self.secret_of_file(&entry, Path::new(&text))
        } else if std::ptr::eq(entry.key, ways.credential) {
            self.secret_of_credential(&entry, &text)
        } else if std::ptr::eq(entry.key, ways.variable) {
            self.secret_of_variable(&entry, &text)
        } else {
            Ok(text)
        };
        Some((entry, result))
    }

    fn secret_of_file(&mut self, entry: &Entry, file: &Path) -> Result<String, ()> {
        match file.metadata() {
            Ok(metadata) => {
                if let Some(problem) = permissions(file, &metadata, true) {
                    self.problems.push(problem);
                    return Err(());
                }
            }
            Err(error) => {
                self.wrong(entry, format!("{}: {error}", file.display()));
                return Err(());
            }
        }
        read(file).map_err(|why| self.wrong(entry, format!("{}: {why}", file.display())))
    }

    fn secret_of_credential(&mut self, entry: &Entry, credential: &str) -> Result<String, ()> {
        let Some(dir) = &self.secrets.credentials else {
            let text = format!(
                "the credential {credential} is only there in a unit with LoadCredential={credential}:FILE"
            );
            self.only_in_the_service(entry, text);
            return Err(());
        };
        let file = dir.join(credential);
        read(&file).map_err(|why| {
            self.problems.push(
                Problem::at(
                    &entry.origin,
                    format!("{}: {}: {why}", entry.path(), file.display()),
                )
                .hint(format!(
                    "write LoadCredential={credential}:FILE into the unit"
                )),
            );
        })
    }

    fn secret_of_variable(&mut self, entry: &Entry, variable: &str) -> Result<String, ()> {
        match self.secrets.environment.get(variable) {
            Ok(Some(value)) => Ok(value.to_owned()),
            Ok(None) => {
                self.only_in_the_service(entry, format!("the variable {variable} is not set"));
                Err(())
            }
            Err(problem) => {
                self.problems.push(problem);
                Err(())
            }
        }
    }

    fn only_in_the_service(&mut self, entry: &Entry, why: String) {
        if self.secrets.complete {
            self.wrong(entry, why);
        } else {
            self.notes.push(format!(
                "{}: {}: not looked at: {why}",
                entry.origin,
                entry.path()
            ));
        }
    }
}

/// The text without one line feed at its end, which editors put there.
fn read(file: &Path) -> Result<String, String> {
    // What never ends, and what waits for a writer, is no secret.
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// Whether the value can be kept out of a job's output.
///
/// # Errors
///
/// When it is too short for that.
pub(crate) fn hideable(value: &str) -> Result<(), String> {
    let longest = value
        .lines()
        .map(|line| line.trim().len())
        .max()
        .unwrap_or(0);
    if longest >= SHORTEST {
        Ok(())
    } else {
        Err(format!(
            "its value has no line of at least {SHORTEST} bytes; hiding it would hide half of the job's output, so take a longer one"
        ))
    }
}
