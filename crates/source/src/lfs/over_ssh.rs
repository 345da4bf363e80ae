//! Where an ssh server's objects are: the program `git-lfs-authenticate` on it says so, for as long as it likes.
//! <https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md>
//!
//! It is asked by the same ssh that git starts for a fetch, with the same key, and the same servers are believed.

use std::time::Duration;

use bryo_model::GitUrl;
use bryo_process::{ProcessError, Program};
use reqwest::Url;
use reqwest::header::HeaderMap;

use super::batch;
use super::failure::Failure;
use crate::SourceError;
use crate::git_failure::{GitFailure, classify};
use crate::session::Session;
use crate::ssh::shell_quoted;

/// Bytes of its answer.
const LARGEST: usize = 64 << 10;

/// An own key may wait for a person who types its passphrase.
const ASKING: Duration = Duration::from_secs(600);

/// How ssh ends when it was not the program on the server that failed.
const NO_CONNECTION: i32 = 255;

/// The address of the server of Git LFS, if it says one, and what that is to be told.
pub(crate) async fn granted(
    url: &GitUrl,
    session: &Session,
) -> Result<(Option<Url>, HeaderMap), Failure> {
    let (Some(ssh), Some(host)) = (&session.ssh, url.host()) else {
        return Err(Failure::Told("there is no ssh for it".to_owned()));
    };
    let mut program = Program::new("ssh").args(&ssh.args);
    for (name, value) in &session.env {
        program = program.env(*name, value);
    }
    if let (Some(authority), Some(port)) = (url.authority(), url.port())
        && authority.ends_with(&format!(":{port}"))
    {
        program = program.arg("-p").arg(port.to_string());
    }
    let to = match url.user() {
        Some(user) => format!("{user}@{host}"),
        None => host,
    };
    let command = format!("git-lfs-authenticate {} download", word(&path(url)));
    let done = program
        .arg("--")
        .arg(to)
        .arg(command)
        .finish(b"", LARGEST, ASKING)
        .await
        .map_err(|error| match error {
            ProcessError::TooMuchOutput { most, .. } => Failure::Told(format!(
                "what git-lfs-authenticate says on the server is longer than {} KiB",
                most >> 10
            )),
            ProcessError::Deadline { after, .. } => Failure::Told(format!(
                "git-lfs-authenticate on the server gave no answer for {} s",
                after.as_secs()
            )),
            other => SourceError::Program(other).into(),
        })?;
    if !done.status.success() {
        let said = done.stderr.trim_end().lines().last().unwrap_or_default();
        let why = format!(
            "the ssh server does not say where its objects are (git-lfs-authenticate): {said}"
        );
        // Who is unknown stays so, whatever the number of attempts.
        let passes = done.status.code() == Some(NO_CONNECTION)
            && !matches!(
                classify(&done.stderr),
                GitFailure::UnknownHost | GitFailure::AccessDenied
            );
        return Err(if passes {
            Failure::Passing { why, after: None }
        } else {
            Failure::Told(why)
        });
    }
    batch::read_granted(&done.stdout).map_err(Failure::Told)
}

/// As git-lfs gives it: decoded, with the slash that it begins with.
fn path(url: &GitUrl) -> String {
    if url.as_str().contains("://") {
        decoded(url.path())
    } else {
        url.path().to_owned()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A word of the shell there. Servers that have none take a plain word as it is.
fn word(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        shell_quoted(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_the_server_knows_them() {
        let of = |url: &str| word(&path(&url.parse().unwrap()));
        assert_eq!(of("ssh://git@h.test/org/x.git"), "/org/x.git");
        assert_eq!(of("git@h.test:org/x.git"), "org/x.git");
        assert_eq!(of("ssh://git@h.test/a%20b/x"), "'/a b/x'");
        assert_eq!(of("ssh://git@h.test/$(id)"), "'/$(id)'");
        assert_eq!(of("ssh://git@h.test/100%25"), "'/100%'");
    }
}
