//! What podman really does with the recipe, looked at from inside the job and in `/proc`.
//!
//! They need a rootless service that cannot harm anybody: `BRYO_TEST_PODMAN_SOCKET` (its socket),
//! `BRYO_TEST_PODMAN_IMAGE` (a busybox image with the entrypoint `/bin/echo ENTRYPOINT-RAN`, `FROM_IMAGE=1` in its
//! environment and a volume at `/vol`) and `BRYO_TEST_CGROUP` (a cgroup directory of this user).
//! `BRYO_TEST_PODMAN_PID`, if set, is a service that one test may kill.
#![expect(
    clippy::print_stderr,
    reason = "a skipped test must be seen, and times are printed"
)]

mod confined;
mod running;
mod service;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bryo_model::{ContainerName, IdSlot, JobId, LimitPolicy, Limits, LogStream};

use super::request::Call;
use super::{Init, Placement, PodmanClient, PodmanContainer};
use crate::{Exit, Network, Root, SandboxSpec};

/// Long enough for a busy machine, short enough to see a hang.
const PATIENCE: Duration = Duration::from_secs(90);

struct Lab {
    client: PodmanClient,
    image: String,
    cgroups: PathBuf,
    work: PathBuf,
}

/// One job of a test.
struct Job {
    spec: SandboxSpec,
    placement: Placement,
}

struct Ended {
    exit: Exit,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Ended {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

async fn lab() -> Option<Lab> {
    let var = |name: &str| std::env::var(name).ok();
    let Some(socket) = var("BRYO_TEST_PODMAN_SOCKET") else {
        eprintln!("SKIP: no BRYO_TEST_PODMAN_SOCKET, nothing is known about a real podman");
        return None;
    };
    Some(Lab {
        client: PodmanClient::connect(Path::new(&socket)).await.unwrap(),
        image: var("BRYO_TEST_PODMAN_IMAGE").unwrap(),
        cgroups: var("BRYO_TEST_CGROUP").unwrap().into(),
        work: std::env::temp_dir().join(format!("bryo-podman-{}", std::process::id())),
    })
}

impl Lab {
    fn job(&self, args: &[&str]) -> Job {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let ms = u64::try_from(now.as_millis()).unwrap();
        let random = u128::from(std::process::id()) << 32 | u128::from(number);
        let name = ContainerName::of(JobId::from_parts(ms, random));
        let work = self.work.join(name.as_str());
        std::fs::create_dir_all(&work).unwrap();
        let cgroup_dir = self.cgroups.join(name.as_str());
        std::fs::create_dir(&cgroup_dir).unwrap();
        Job {
            spec: SandboxSpec {
                name,
                root: Root::PodmanImage {
                    id: self.image.clone(),
                    user: String::new(),
                },
                args: args.iter().map(ToString::to_string).collect(),
                env: vec![
                    ("PATH".to_owned(), "/bin".to_owned()),
                    ("HOME".to_owned(), "/tmp".to_owned()),
                ],
                cwd: "/".to_owned(),
                mounts: Vec::new(),
                network: Network::none(),
                read_only_root: false,
                apparmor: None,
                selinux: crate::Selinux::Auto,
                limits: Limits::default(),
                limit_policy: LimitPolicy::AllowUnlimited,
                work,
            },
            placement: Placement {
                cgroup_parent: crate::cgroup::name_of(&cgroup_dir),
                cgroup_dir,
                slot: IdSlot::SHARED,
            },
        }
    }

    /// The same recipe for another container.
    fn again(&self, job: Job) -> Job {
        let other = self.job(&[]);
        Job {
            spec: SandboxSpec {
                name: other.spec.name,
                work: other.spec.work,
                ..job.spec
            },
            placement: other.placement,
        }
    }

    fn shell(&self, script: &str) -> Job {
        self.job(&["/bin/sh", "-c", script])
    }

    async fn ready(&self, job: &Job) -> (PodmanContainer, i32) {
        let mut container = self
            .client
            .create(&job.spec, &job.placement, None)
            .await
            .unwrap();
        match container.init().await.unwrap() {
            Init::Ready { pid } => (container, pid),
            Init::NotStarted(why) => panic!("{why}"),
        }
    }

    /// Runs to the end, and proves that nothing is left.
    async fn run(&self, job: &Job) -> Ended {
        let (mut container, _) = self.ready(job).await;
        let mut logs = container.start().await.unwrap();
        container.verify_running().await.unwrap();
        let mut ended = Ended {
            exit: Exit::Code(-1),
            out: Vec::new(),
            err: Vec::new(),
        };
        while let Some(piece) = logs.next().await {
            let piece = piece.unwrap();
            match piece.stream {
                LogStream::Stdout => ended.out.extend(piece.bytes),
                LogStream::Stderr => ended.err.extend(piece.bytes),
            }
        }
        ended.exit = container.wait().await.unwrap();
        self.close(&mut container, job).await;
        ended
    }

    /// Removes it, and proves that neither container nor cgroup is left.
    async fn close(&self, container: &mut PodmanContainer, job: &Job) {
        container.remove().await.unwrap();
        container.remove().await.unwrap();
        let path = format!("/containers/{}/exists", container.id);
        let gone = self.client.send(Call::get(path)).await.unwrap_err();
        assert!(gone.refusal().unwrap().is_no_such_container());
        container.signal(nix::libc::SIGKILL).await.unwrap();
        assert!(container.wait().await.is_err());
        std::fs::remove_dir(&job.placement.cgroup_dir).unwrap();
    }

    /// The same after an `init` that failed: podman leaves an empty cgroup, which is its parent's owner's to remove.
    async fn close_failed(&self, container: &mut PodmanContainer, job: &Job) {
        for entry in std::fs::read_dir(&job.placement.cgroup_dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                std::fs::remove_dir(entry.path()).unwrap();
            }
        }
        self.close(container, job).await;
    }
}

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it hangs")
}
