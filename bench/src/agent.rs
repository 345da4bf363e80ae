//! One engine, and attempts of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bryo_depot::{Depot, Target};
use bryo_engine::{Control, Engine, NetworkSettings, Settings, run_attempt};
use bryo_image::PullOptions;
use bryo_model::{
    Ceiling, Egress, Event, GitRef, ImageRef, JobId, JobSpec, LimitPolicy, Limits, NetworkMode,
    Report, RuntimeKind, SourceLocation, SourceSpec, Verdict,
};
use bryo_sandbox::{RuntimePlaces, Selinux};
use tokio::sync::mpsc;

use crate::Outcome;

/// Events in flight, as in `bryo run`.
const EVENTS: usize = 64;

/// So many networks, and so many namespaces, are made ahead.
const READY: usize = 1;

/// How a job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) runtime: RuntimeKind,
    pub(crate) network: NetworkMode,
}

impl Way {
    pub(crate) const CRUN: Self = Self::of(RuntimeKind::Crun, NetworkMode::None);
    pub(crate) const ISOLATED: Self = Self::of(RuntimeKind::Crun, NetworkMode::Isolated);
    pub(crate) const PODMAN: Self = Self::of(RuntimeKind::Podman, NetworkMode::None);

    const fn of(runtime: RuntimeKind, network: NetworkMode) -> Self {
        Self { runtime, network }
    }
}

/// An engine for each runtime, as an agent has one.
pub(crate) struct Agent {
    work: PathBuf,
    /// Where it has its cache and the directories of attempts.
    places: PathBuf,
    image: PathBuf,
    /// As a server names it: an address, and a commit.
    source: SourceSpec,
    crun: Engine,
    podman: Engine,
    next: AtomicU64,
}

impl Agent {
    pub(crate) fn new(work: &Path, places: PathBuf) -> Outcome<Self> {
        let images = std::env::var_os("BRYO_TEST_IMAGES").ok_or("BRYO_TEST_IMAGES is not set")?;
        let engine = |runtime| Engine::new(settings(&places, runtime)).keeping_ready(READY);
        Ok(Self {
            image: PathBuf::from(images).join("busybox.tar"),
            source: source(&work.join("source"))?,
            crun: engine(RuntimeKind::Crun),
            podman: engine(RuntimeKind::Podman),
            work: work.to_owned(),
            places,
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn job(&self, network: NetworkMode, script: &str) -> Outcome<JobSpec> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(JobSpec {
            id: JobId::from_parts(u64::try_from(now.as_millis())?, number.into()),
            source: self.source.clone(),
            image: ImageRef::OciArchive(self.image.clone()),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            secrets: Vec::new(),
            network,
            egress: Egress::default(),
            read_only_root: false,
            limits: Limits::default(),
            limit_policy: LimitPolicy::Enforce,
        })
    }

    /// One attempt whose result goes to the directory of this name; each event is shown to `listen`.
    pub(crate) async fn attempt(
        &self,
        way: Way,
        (job, to): (&JobSpec, &str),
        control: &Control,
        mut listen: impl FnMut(Event),
    ) -> Outcome<(Verdict, Report)> {
        let engine = match way.runtime {
            RuntimeKind::Crun => &self.crun,
            RuntimeKind::Podman => &self.podman,
        };
        let target = Target::check(&self.work.join(to), &[])?;
        let (sender, mut receiver) = mpsc::channel(EVENTS);
        let listener = async {
            while let Some(event) = receiver.recv().await {
                listen(event);
            }
        };
        let attempt = Box::pin(run_attempt(
            job,
            Depot::Directory(target),
            engine,
            control,
            sender,
        ));
        let (ended, ()) = tokio::join!(attempt, listener);
        Ok(ended)
    }

    /// One attempt that must succeed.
    pub(crate) async fn succeed(&self, way: Way, script: &str, to: &str) -> Outcome<Report> {
        let job = self.job(way.network, script)?;
        let (verdict, report) = self
            .attempt(way, (&job, to), &Control::new(), |_| {})
            .await?;
        match verdict {
            Verdict::Succeeded if report.leftovers.is_empty() => Ok(report),
            other => Err(format!("an attempt ended as {other:?}, {:?}", report.leftovers).into()),
        }
    }

    /// Ends both engines; nothing may be left of what they made ahead.
    pub(crate) async fn close(&self) -> Outcome<()> {
        for engine in [&self.crun, &self.podman] {
            let left = engine.close().await;
            if !left.is_empty() {
                return Err(format!("an engine left {left:?}").into());
            }
        }
        Ok(())
    }

    /// Whether the directories for attempts are empty, as they were before.
    pub(crate) fn left(&self) -> Outcome<Vec<PathBuf>> {
        let mut left = Vec::new();
        for runtime in [RuntimeKind::Crun, RuntimeKind::Podman] {
            for entry in fs::read_dir(work_directory(&self.places, runtime))
                .into_iter()
                .flatten()
            {
                left.push(entry?.path());
            }
        }
        Ok(left)
    }
}

fn work_directory(places: &Path, runtime: RuntimeKind) -> PathBuf {
    places.join(format!("work-{runtime}"))
}

fn settings(places: &Path, runtime: RuntimeKind) -> Settings {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Settings {
        cache: places.join("cache"),
        work: work_directory(places, runtime),
        pull: PullOptions::default(),
        runtime: Some(runtime),
        places: RuntimePlaces {
            state: places.join("state"),
            container_host: None,
            runtime_dir,
        },
        ceiling: Ceiling::default(),
        network: NetworkSettings::default(),
        own_ids: false,
        apparmor: None,
        selinux: Selinux::Auto,
        source: std::sync::Arc::default(),
    }
}

/// The repository at this path, as a remote one, at its newest commit.
fn source(repository: &Path) -> Outcome<SourceSpec> {
    let asked = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(["rev-parse", "HEAD"])
        .output()?;
    let commit = String::from_utf8(asked.stdout)?;
    Ok(SourceSpec {
        location: SourceLocation::Remote(format!("file://{}", repository.display()).parse()?),
        reference: Some(GitRef::Commit(commit.trim().parse()?)),
        subdir: None,
    })
}
