//! The recipe of a program, and running it to its end.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::{ProcessError, Running, Stdio};

/// How much of standard error an error message keeps.
const STDERR_TAIL: usize = 4096;

/// A recipe: which program, with which arguments, in which environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    pub(crate) path: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) dir: Option<PathBuf>,
}

impl Program {
    /// A program by path, or by name on the caller's `PATH`.
    ///
    /// Its environment is empty but for `PATH`, which it gets from the caller.
    pub fn new(path: impl Into<OsString>) -> Self {
        let program = Self {
            path: path.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            dir: None,
        };
        program.inherit("PATH")
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// One environment variable with the caller's value, if the caller has it.
    #[must_use]
    pub fn inherit(self, name: &str) -> Self {
        match std::env::var_os(name) {
            Some(value) => self.env(name, value),
            None => self,
        }
    }

    /// The directory it starts in.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        Path::new(&self.path)
            .file_name()
            .unwrap_or(&self.path)
            .to_string_lossy()
            .into_owned()
    }

    /// Starts it in a process group of its own.
    ///
    /// # Errors
    ///
    /// When it is not installed or cannot be started.
    pub fn start(&self, stdio: Stdio) -> Result<Running, ProcessError> {
        Running::start(self, stdio)
    }

    /// Runs it to its end and returns what it wrote, whatever its exit status.
    ///
    /// # Streams
    ///
    /// Standard input is `input`; standard output is returned whole, of standard error the last 4 KiB.
    ///
    /// # Errors
    ///
    /// When it cannot be started, does not end within `deadline`, or writes more than `most` bytes to standard
    /// output. In each case it is killed with its process group. The same when the future is dropped.
    pub async fn finish(
        &self,
        input: &[u8],
        most: usize,
        deadline: Duration,
    ) -> Result<Finished, ProcessError> {
        self.finish_watched(input, most, deadline, |_| {}).await
    }

    /// As [`Program::finish`], and shows each piece of standard error to `watch` as it arrives.
    ///
    /// # Errors
    ///
    /// As [`Program::finish`].
    pub async fn finish_watched(
        &self,
        input: &[u8],
        most: usize,
        deadline: Duration,
        watch: impl FnMut(&[u8]),
    ) -> Result<Finished, ProcessError> {
        let running = self.start(Stdio::Piped)?;
        running.finish_watched(input, most, deadline, watch).await
    }
}

impl Running {
    /// As [`Program::finish_watched`], of a program that was started with [`Stdio::Piped`]: for who wants to know its
    /// process id.
    ///
    /// # Errors
    ///
    /// As [`Program::finish`].
    pub async fn finish_watched(
        mut self,
        input: &[u8],
        most: usize,
        deadline: Duration,
        watch: impl FnMut(&[u8]),
    ) -> Result<Finished, ProcessError> {
        let program = self.name.clone();
        let work = async {
            let (stdin, stdout, stderr) = self.take_pipes();
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A program that does not read its input is free not to: its exit status tells the rest.
                    let _ = stdin.write_all(input).await;
                    let _ = stdin.shutdown().await;
                }
                Ok(())
            };
            let (_, out, err) = tokio::try_join!(
                feed,
                read_bounded(stdout, most),
                read_tail(stderr, STDERR_TAIL, watch)
            )
            .map_err(|source| ProcessError::Exchange {
                program: program.clone(),
                source,
            })?;
            let status = self.wait().await?;
            Ok((status, out, err))
        };
        let (status, stdout, stderr) = match tokio::time::timeout(deadline, work).await {
            Ok(result) => result?,
            Err(_) => {
                self.kill().await;
                return Err(ProcessError::Deadline {
                    program,
                    after: deadline,
                });
            }
        };
        if stdout.len() > most {
            return Err(ProcessError::TooMuchOutput { program, most });
        }
        Ok(Finished {
            program,
            status,
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }
}

impl fmt::Debug for Program {
    /// The command line, quoted; of the environment only the names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in self.env.keys() {
            write!(f, "{}=… ", name.to_string_lossy())?;
        }
        write!(f, "{:?}", self.path)?;
        for arg in &self.args {
            write!(f, " {arg:?}")?;
        }
        Ok(())
    }
}

/// A program that ended.
#[derive(Debug)]
pub struct Finished {
    program: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to standard output.
    pub stdout: Vec<u8>,
    /// The end of what it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Itself, if the program ended with 0.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Unsuccessful`] when it did not.
    pub fn success(self) -> Result<Self, ProcessError> {
        if self.status.success() {
            Ok(self)
        } else {
            Err(ProcessError::Unsuccessful {
                program: self.program,
                status: self.status,
                stderr: self.stderr,
            })
        }
    }
}

/// The path of an installed program: the name looked up in `PATH` and in the system's `sbin` directories, which are
/// not on every user's `PATH`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate.as_os_str()))
}

fn is_executable(path: &OsStr) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Reads all, but stops one byte after `most`: enough to know that it was too much.
async fn read_bounded(
    pipe: Option<impl AsyncRead + Unpin>,
    most: usize,
) -> Result<Vec<u8>, std::io::Error> {
    let mut all = Vec::new();
    if let Some(pipe) = pipe {
        let bound = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        pipe.take(bound).read_to_end(&mut all).await?;
    }
    Ok(all)
}

async fn read_tail(
    pipe: Option<impl AsyncRead + Unpin>,
    keep: usize,
    mut watch: impl FnMut(&[u8]),
) -> Result<Vec<u8>, std::io::Error> {
    let mut tail = Vec::new();
    if let Some(mut pipe) = pipe {
        let mut piece = vec![0; 8192];
        loop {
            let n = pipe.read(&mut piece).await?;
            if n == 0 {
                break;
            }
            watch(&piece[..n]);
            tail.extend_from_slice(&piece[..n]);
            let excess = tail.len().saturating_sub(keep);
            tail.drain(..excess);
        }
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Program {
        Program::new("sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn output_and_status_come_back() {
        let done = sh("cat; echo oops >&2; exit 3")
            .finish(b"hello", 100, SOON)
            .await
            .unwrap();
        assert_eq!(done.stdout, b"hello");
        assert_eq!(done.stderr, "oops\n");
        let error = done.success().unwrap_err().to_string();
        assert!(
            error.contains("exit status: 3") && error.ends_with("oops"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_environment_is_what_the_recipe_names() {
        let done = Program::new("env")
            .env("A", "1")
            .finish(b"", 10_000, SOON)
            .await
            .unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        let names: Vec<_> = text.lines().map(|l| l.split('=').next().unwrap()).collect();
        assert_eq!(names, ["A", "PATH"]);
    }

    #[tokio::test]
    async fn what_ends_too_late_is_killed_with_its_children() {
        let before = Duration::from_millis(200);
        let dir = std::env::temp_dir().join(format!("bryo-process-{}", std::process::id()));
        let script = format!("sleep 600 & echo $! > '{}'; wait", dir.display());
        let error = sh(&script).finish(b"", 10, before).await.unwrap_err();
        assert!(matches!(error, ProcessError::Deadline { .. }));
        let child = std::fs::read_to_string(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let gone = || std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "));
        for _ in 0..1000 {
            if gone() {
                return;
            }
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
        assert!(gone(), "the sleeping child survived");
    }

    #[tokio::test]
    async fn too_much_output_is_refused() {
        let error = sh("yes").finish(b"", 1000, SOON).await.unwrap_err();
        assert!(
            matches!(
                error,
                ProcessError::TooMuchOutput { .. } | ProcessError::Exchange { .. }
            ),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Program::new("no-such-program-here")
            .finish(b"", 10, SOON)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program no-such-program-here is not installed"
        );
    }
}
