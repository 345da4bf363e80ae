//! The compiled form of the system-call filter, kept between jobs.
//!
//! crun compiles the profile with libseccomp for every container, which takes longer than all the rest of starting one.
//! It also accepts the compiled program (crun(1), `run.oci.seccomp_bpf_data`), and leaves the one it compiled in the
//! container's state. So the first job's program is kept and handed to the next ones, beside a profile that refuses every
//! call: a crun that overlooked the annotation would start no job, and never is there no filter at all. What is kept is the
//! same filter as a search ([`program`]), where it can be written as one.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bryo_process::Program;
use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder};
use tokio::time::Instant;

use crate::seccomp::program;

/// The annotation that crun reads.
pub(super) const ANNOTATION: &str = "run.oci.seccomp_bpf_data";

/// How a program is kept; another one for what is kept otherwise.
const FORM: u32 = 2;

/// How often a container that is being made is looked at, at first and later: it may be there for some milliseconds only.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_millis(20);

/// After this it is not looked at any more; a slow host takes seconds to make one.
const LATEST: Duration = Duration::from_secs(60);

/// The first crun that knows the annotation.
const KNOWS: (u32, u32) = (0, 17);

/// How long a program may take to say which one it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the compiled form of one profile, by one crun, is kept.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    file: PathBuf,
    crun: PathBuf,
    /// As crun takes it.
    known: Arc<OnceLock<String>>,
}

impl Filter {
    /// `state` is a directory that only the agent can write to.
    pub(super) fn new(state: &Path, profile: &LinuxSeccomp, crun: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        FORM.hash(&mut hasher);
        serde_json::to_string(profile)
            .unwrap_or_default()
            .hash(&mut hasher);
        if let Ok(meta) = fs::metadata(crun) {
            (
                crun,
                meta.ino(),
                meta.size(),
                meta.mtime(),
                meta.mtime_nsec(),
            )
                .hash(&mut hasher);
        }
        Self {
            file: state.join(format!("seccomp-{:016x}.bpf", hasher.finish())),
            crun: crun.to_owned(),
            known: Arc::default(),
        }
    }

    /// The program as crun takes it, if it is known.
    pub(super) fn compiled(&self) -> Option<&str> {
        if let Some(known) = self.known.get() {
            return Some(known);
        }
        let program = fs::read(&self.file).ok()?;
        program::decode(&program)?;
        Some(self.known.get_or_init(|| STANDARD.encode(program)))
    }

    /// Keeps the program that crun compiled for the container with this state, once it has: it writes `status` when the
    /// container is complete. A job that ends before leaves the work to the next one; the attempt's directory is gone then.
    pub(super) async fn keep(self, container: PathBuf, attempt: PathBuf) {
        // Read before anybody is asked: a short job's container is gone by then.
        if is_made(&container.join("status"), &attempt).await
            && let Ok(compiled) = fs::read(container.join("seccomp.bpf"))
            && self.is_understood().await
        {
            let _ = tokio::task::spawn_blocking(move || self.take(&compiled)).await;
        }
    }

    /// Whether this crun knows the annotation. Newer ones do not even say which one they are without a directory for their
    /// state, and would make one.
    async fn is_understood(&self) -> bool {
        let Some(state) = self.file.parent() else {
            return false;
        };
        let asked = Program::new(&self.crun)
            .arg("--root")
            .arg(state)
            .arg("--version");
        let said = asked.finish(b"", 4096, PATIENCE).await;
        said.is_ok_and(|said| version(&String::from_utf8_lossy(&said.stdout)) >= Some(KNOWS))
    }

    fn take(&self, compiled: &[u8]) -> std::io::Result<()> {
        let Some(list) = program::decode(compiled) else {
            return Ok(());
        };
        let program = program::encode(&program::as_search(&list).unwrap_or(list));
        let beside = self
            .file
            .with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&beside, program)?;
        fs::rename(&beside, &self.file)
    }
}

/// Waits for this file. It does not come any more once this directory is gone.
async fn is_made(file: &Path, within: &Path) -> bool {
    let since = Instant::now();
    let mut pause = FIRST_LOOK;
    while since.elapsed() < LATEST && within.exists() {
        if file.exists() {
            return true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(LOOK);
    }
    false
}

/// What stands in a bundle for a profile whose compiled form is beside it: everything is refused. How a filter is installed
/// is still the profile's to say.
pub(super) fn stand_in(profile: &LinuxSeccomp) -> Result<LinuxSeccomp, OciSpecError> {
    let mut stand_in = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .build()?;
    stand_in.set_flags(profile.flags().clone());
    Ok(stand_in)
}

/// Of `crun version 1.8.1` and what follows it.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("crun version ")?.split(['.', '\n']);
    let mut number = || numbers.next()?.trim().parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_plausible_program_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let filter = Filter::new(dir.path(), &LinuxSeccomp::default(), Path::new("/bin/sh"));
        assert_eq!(filter.compiled(), None);
        for bad in [&b""[..], b"short", &[0; 8 * 4097]] {
            filter.take(bad).unwrap();
            assert_eq!(filter.compiled(), None);
        }
        filter.take(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]).unwrap();
        assert_eq!(filter.compiled().unwrap(), "BgAAAAAA/38=");
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_may_take_long_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("status");
        let late = async {
            tokio::time::sleep(LATEST / 2).await;
            fs::write(&file, "1").unwrap();
        };
        assert!(tokio::join!(is_made(&file, dir.path()), late).0);
        fs::remove_file(&file).unwrap();
        assert!(!is_made(&file, dir.path()).await, "never made");
        let since = Instant::now();
        let gone = async {
            tokio::time::sleep(LOOK).await;
            fs::remove_dir(dir.path()).unwrap();
        };
        assert!(!tokio::join!(is_made(&file, dir.path()), gone).0);
        assert!(since.elapsed() < LATEST, "the attempt is over");
    }

    /// A crun as of 1.9: without a directory for its state it says nothing.
    #[tokio::test]
    async fn a_crun_that_wants_a_directory_before_it_says_which_one_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let crun = dir.path().join("crun");
        let script = "#!/bin/sh\n[ \"$1\" = --root ] && [ -d \"$2\" ] && [ \"$3\" = --version ] && echo crun version $VERSION\n";
        for (version, understood) in [("1.21", true), ("0.16", false)] {
            fs::write(&crun, script.replace("$VERSION", version)).unwrap();
            fs::set_permissions(&crun, fs::Permissions::from_mode(0o755)).unwrap();
            let filter = Filter::new(dir.path(), &LinuxSeccomp::default(), &crun);
            // A file that was just written may still be open in a child of another test.
            let mut tries = 0;
            while filter.is_understood().await != understood && tries < 50 {
                tries += 1;
                tokio::time::sleep(FIRST_LOOK).await;
            }
            assert!(tries < 50, "{version}");
        }
    }

    #[test]
    fn what_stands_for_the_profile_allows_nothing() {
        let profile = LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActAllow)
            .build()
            .unwrap();
        let stand_in = stand_in(&profile).unwrap();
        assert_eq!(stand_in.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(*stand_in.syscalls(), None);
    }

    #[test]
    fn versions_of_crun() {
        let debian = "crun version 1.8.1\ncommit: f8a096be\nspec: 1.0.0\n";
        assert_eq!(version(debian), Some((1, 8)));
        assert_eq!(version("crun version 1.21\ncommit: x\n"), Some((1, 21)));
        assert!(version("crun version 0.16\n") < Some(KNOWS));
        assert_eq!(version("runc version 1.1.5"), None);
    }

    #[test]
    fn another_profile_or_another_crun_has_another_program() {
        let other = LinuxSeccompBuilder::default()
            .default_errno_ret(38_u32)
            .build()
            .unwrap();
        let at = |profile: &LinuxSeccomp, crun: &str| {
            Filter::new(Path::new("/s"), profile, Path::new(crun)).file
        };
        let plain = LinuxSeccomp::default();
        assert_ne!(at(&plain, "/bin/sh"), at(&other, "/bin/sh"));
        assert_ne!(at(&plain, "/bin/sh"), at(&plain, "/proc/self/exe"));
    }
}
