//! The compiled form of the system-call filter, kept between jobs.
//!
//! crun compiles the profile with libseccomp for every container, which takes longer than all the rest of starting one.
//! It also accepts the compiled program (crun(1), `run.oci.seccomp_bpf_data`), and leaves the one it compiled in the
//! container's state. So the first job's program is kept and handed to the next ones. The profile stays in the bundle: a
//! crun that does not know the annotation compiles it as before, and never is there no filter at all.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::runtime::LinuxSeccomp;

/// The annotation that crun reads.
pub(super) const ANNOTATION: &str = "run.oci.seccomp_bpf_data";

/// Bytes of one instruction of the kernel's filter machine.
const INSTRUCTION: usize = 8;

/// The kernel takes no longer program (`BPF_MAXINSNS`).
const MOST_INSTRUCTIONS: usize = 4096;

/// How often, and how many times, a running container's state is looked at.
const LOOK: Duration = Duration::from_millis(2);
const LOOKS: u32 = 250;

/// Where the compiled form of one profile, by one crun, is kept.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    file: PathBuf,
}

impl Filter {
    /// `state` is a directory that only the agent can write to.
    pub(super) fn new(state: &Path, profile: &LinuxSeccomp, crun: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
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
        }
    }

    /// The program as crun takes it, if it is known.
    pub(super) fn compiled(&self) -> Option<String> {
        let program = fs::read(&self.file).ok()?;
        plausible(&program).then(|| STANDARD.encode(program))
    }

    /// Keeps the program that crun compiled for the container with this state, once it has: `made` is a file that crun
    /// writes when the container is complete. A job that ends before leaves the work to the next one.
    pub(super) async fn keep(self, container: PathBuf, made: PathBuf) {
        for _ in 0..LOOKS {
            if made.exists() {
                let _ = self.take(&container.join("seccomp.bpf"));
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn take(&self, from: &Path) -> std::io::Result<()> {
        let program = fs::read(from)?;
        if !plausible(&program) {
            return Ok(());
        }
        let beside = self
            .file
            .with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&beside, program)?;
        fs::rename(&beside, &self.file)
    }
}

fn plausible(program: &[u8]) -> bool {
    let instructions = program.len() / INSTRUCTION;
    program.len().is_multiple_of(INSTRUCTION) && (1..=MOST_INSTRUCTIONS).contains(&instructions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plausible_program_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let filter = Filter::new(dir.path(), &LinuxSeccomp::default(), Path::new("/bin/sh"));
        assert_eq!(filter.compiled(), None);
        let state = dir.path().join("seccomp.bpf");
        for bad in [&b""[..], b"short", &[0; 8 * 4097]] {
            fs::write(&state, bad).unwrap();
            filter.take(&state).unwrap();
            assert_eq!(filter.compiled(), None);
        }
        fs::write(&state, [6, 0, 0, 0, 0, 0, 0xff, 0x7f]).unwrap();
        filter.take(&state).unwrap();
        assert_eq!(filter.compiled().unwrap(), "BgAAAAAA/38=");
    }

    #[test]
    fn another_profile_or_another_crun_has_another_program() {
        let other = oci_spec::runtime::LinuxSeccompBuilder::default()
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
