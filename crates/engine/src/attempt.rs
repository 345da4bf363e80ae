//! One attempt: its stages in order, and clean-up on every path.

use std::sync::Arc;

use bryo_depot::{OutputBounds, OutputTree, Target, Watch};
use bryo_image::{Image, ImageError, ImageStore};
use bryo_model::{
    Amount, ByteSize, Event, JobSpec, Report, ResourceUse, RuntimeKind, SourceLocation, Stage,
    Verdict,
};
use bryo_sandbox::{Exit, Host, Root, Runtime, SandboxError, UserIds};
use bryo_source::{Checkout, SourceCache};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::io::SyncIoBridge;

use crate::cause::{Cause, verdict};
use crate::container::{Parts, recipe};
use crate::control::Control;
use crate::events::Events;
use crate::record::Record;
use crate::settings::Settings;
use crate::setup::{Setup, set_up, sweep};
use crate::supervise::{Bounds, supervise};
use crate::work::Work;

/// The role of this program that unpacks image layers, started inside the user namespace.
const UNPACK_ROLE: &str = "__unpack-layer";

/// What of an image is on its way to podman at one time, in bytes.
const ARCHIVE_IN_FLIGHT: usize = 1 << 20;

/// Takes a job from its source to its verdict. Everything it made is gone when it returns, except the published result
/// and the caches; what could not be removed stands in the report.
pub async fn run_attempt(
    job: &JobSpec,
    target: Target,
    settings: &Settings,
    control: &Control,
    events: mpsc::Sender<Event>,
) -> (Verdict, Report) {
    let mut attempt = Attempt {
        job,
        settings,
        control,
        events: Events::new(events),
        record: Record::new(job.limits.timeout),
        deadline: Instant::now() + job.limits.timeout,
        host: None,
    };
    let outcome = attempt.run(target).await;
    let verdict = match &outcome {
        Ok(()) => Verdict::Succeeded,
        Err(cause) => verdict(cause),
    };
    let summary = verdict.reason().unwrap_or_default();
    attempt.record.end(&attempt.events, summary).await;
    let report = attempt.record.into_report(job.id, &verdict);
    (verdict, report)
}

struct Attempt<'a> {
    job: &'a JobSpec,
    settings: &'a Settings,
    control: &'a Control,
    events: Events,
    record: Record,
    deadline: Instant,
    host: Option<Host>,
}

/// What goes on beside the stages.
struct Beside {
    setup: JoinHandle<Result<Setup, SandboxError>>,
    image: JoinHandle<Result<Image, ImageError>>,
    changes: Option<JoinHandle<Option<String>>>,
    sweep: Option<JoinHandle<Option<String>>>,
}

impl Attempt<'_> {
    async fn run(&mut self, target: Target) -> Result<(), Cause> {
        self.record.begin(&self.events, Stage::Fetch).await;
        let source =
            SourceCache::open(&self.settings.cache.join("source")).map_err(Cause::Source)?;
        let images = ImageStore::open(&self.settings.cache.join("images")).map_err(Cause::Image)?;
        let work = Work::create(&self.settings.work, self.job.id).map_err(|e| {
            Cause::Work(
                e,
                format!("use the work directory {}", self.settings.work.display()),
            )
        })?;
        let images = Arc::new(images);
        let mut beside = self.start_beside(&images, &work);
        let result = self
            .stages(&source, &images, &work, &mut beside, target)
            .await;
        self.clean_up(work, beside).await;
        result
    }

    fn start_beside(&self, images: &Arc<ImageStore>, work: &Work) -> Beside {
        let (job, settings) = (self.job.clone(), self.settings.clone());
        let setup = tokio::spawn(set_up(job, settings, work.dir().to_owned()));
        let (images, name) = (Arc::clone(images), self.job.image.clone());
        let (pull, progress) = (
            self.settings.pull.clone(),
            self.events.progress(Stage::Prepare),
        );
        let image = tokio::spawn(async move { images.resolve(&name, &pull, progress).await });
        let changes = match (&self.job.source.location, &self.job.source.reference) {
            (SourceLocation::Local(path), None) => {
                let path = path.clone();
                Some(tokio::spawn(async move {
                    bryo_source::uncommitted_changes(&path).await.ok().flatten()
                }))
            }
            _ => None,
        };
        Beside {
            setup,
            image,
            changes,
            sweep: None,
        }
    }

    async fn stages(
        &mut self,
        source: &SourceCache,
        images: &Arc<ImageStore>,
        work: &Work,
        beside: &mut Beside,
        target: Target,
    ) -> Result<(), Cause> {
        let fetched = self.fetch(source).await?;
        self.record.begin(&self.events, Stage::Prepare).await;
        let (checkout, image, setup) = self.prepare(source, &fetched, beside).await?;
        let ready = self.make_root(images, &image, setup).await?;
        self.end_prepare(&checkout, &image, beside).await;
        self.record.begin(&self.events, Stage::Run).await;
        self.run_job(&checkout, &image, work, ready).await?;
        self.record.end(&self.events, "exit code 0").await;
        self.collect_and_publish(work, target).await
    }

    async fn fetch(&mut self, source: &SourceCache) -> Result<bryo_source::Fetched, Cause> {
        let progress = self.events.progress(Stage::Fetch);
        let fetched = self
            .guarded(source.fetch(&self.job.source, progress))
            .await?
            .map_err(Cause::Source)?;
        self.record.commit = Some(fetched.commit().clone());
        let how = if fetched.was_cached() { ", cached" } else { "" };
        let summary = format!(
            "{} {}{how}",
            fetched.description(),
            fetched.commit().short()
        );
        self.record.end(&self.events, summary).await;
        for notice in fetched.notices() {
            self.events.notice(notice).await;
        }
        Ok(fetched)
    }

    async fn prepare(
        &mut self,
        source: &SourceCache,
        fetched: &bryo_source::Fetched,
        beside: &mut Beside,
    ) -> Result<(Checkout, Image, Setup), Cause> {
        let progress = self.events.progress(Stage::Prepare);
        let checkout = self
            .guarded(source.checkout(fetched, progress))
            .await?
            .map_err(Cause::Source)?;
        let image = self
            .guarded(&mut beside.image)
            .await?
            .map_err(|_| Cause::Task("the image".to_owned()))?
            .map_err(Cause::Image)?;
        self.record.image_digest = Some(image.manifest_digest().to_string());
        let setup = self
            .guarded(&mut beside.setup)
            .await?
            .map_err(|_| Cause::Task("the sandbox's set-up".to_owned()))?
            .map_err(Cause::Sandbox)?;
        self.record.runtime = Some(setup.runtime.kind());
        self.host = Some(setup.host.clone());
        beside.sweep = Some(tokio::spawn(sweep(
            setup.host.clone(),
            self.settings.clone(),
        )));
        Ok((checkout, image, setup))
    }

    /// The image becomes what the runtime takes as a root file system.
    async fn make_root(
        &self,
        images: &Arc<ImageStore>,
        image: &Image,
        setup: Setup,
    ) -> Result<ReadyToRun, Cause> {
        let made = match setup.runtime.kind() {
            RuntimeKind::Crun => self.layers(images, image, &setup.host).await,
            RuntimeKind::Podman => self.podman_image(images, image, &setup.runtime).await,
        };
        match made {
            Ok((root, home)) => Ok(ReadyToRun { setup, root, home }),
            Err(cause) => {
                let _ = setup.runtime.release(setup.ready).await;
                Err(cause)
            }
        }
    }

    async fn layers(
        &self,
        images: &ImageStore,
        image: &Image,
        host: &Host,
    ) -> Result<(Root, Option<String>), Cause> {
        let progress = self.events.progress(Stage::Prepare);
        let unpacker = host
            .userns()
            .inside()
            .arg("/proc/self/exe")
            .arg(UNPACK_ROLE);
        let layers = self
            .guarded(images.unpack(image, &unpacker, progress))
            .await?
            .map_err(Cause::Image)?;
        let user = layers.user(image.config().user()).map_err(Cause::Image)?;
        let root = Root::Layers {
            dirs: layers.dirs().to_vec(),
            user: UserIds {
                uid: user.uid,
                gid: user.gid,
                groups: user.additional_gids,
            },
        };
        Ok((root, Some(user.home)))
    }

    async fn podman_image(
        &self,
        images: &Arc<ImageStore>,
        image: &Image,
        runtime: &Runtime,
    ) -> Result<(Root, Option<String>), Cause> {
        if let Some(advice) = runtime.advice() {
            self.events.notice(advice).await;
        }
        let id = image.config_digest().hex();
        if !self
            .guarded(runtime.has_image(&id))
            .await?
            .map_err(Cause::Sandbox)?
        {
            let (reader, writer) = tokio::io::duplex(ARCHIVE_IN_FLIGHT);
            let writer = SyncIoBridge::new(writer);
            let (images, image) = (Arc::clone(images), image.clone());
            let write =
                tokio::task::spawn_blocking(move || images.write_oci_archive(&image, writer));
            let loaded = self.guarded(runtime.load_image(&id, reader)).await?;
            // A writer whose reader went away fails too; the reader's reason is the one that counts.
            loaded.map_err(Cause::Sandbox)?;
            write
                .await
                .map_err(|_| Cause::Task("the image's export".to_owned()))?
                .map_err(Cause::Image)?;
        }
        let user = image.config().user().to_owned();
        // The image is not unpacked here, so its list of users is not known.
        let name = user.split(':').next().unwrap_or_default();
        let home = if matches!(name, "" | "0" | "root") {
            "/root"
        } else {
            "/"
        };
        Ok((Root::PodmanImage { id, user }, Some(home.to_owned())))
    }

    async fn end_prepare(&mut self, checkout: &Checkout, image: &Image, beside: &mut Beside) {
        let digest = image.manifest_digest().to_string();
        let short: String = digest.chars().take("sha256:".len() + 12).collect();
        let runtime = self.record.runtime.map_or(String::new(), |r| r.to_string());
        self.record
            .end(&self.events, format!("image {short}, {runtime}"))
            .await;
        for notice in checkout.notices() {
            self.events.notice(notice).await;
        }
        // Told when known: a large work tree must not hold up the job.
        if let Some(changes) = beside.changes.take_if(|c| c.is_finished()) {
            self.tell_changes(changes).await;
        }
    }

    async fn tell_changes(&self, changes: JoinHandle<Option<String>>) {
        if let Ok(Some(what)) = changes.await {
            self.events
                .notice(format!("not built, because not committed: {what}"))
                .await;
        }
    }

    async fn run_job(
        &mut self,
        checkout: &Checkout,
        image: &Image,
        work: &Work,
        ready: ReadyToRun,
    ) -> Result<(), Cause> {
        let ReadyToRun { setup, root, home } = ready;
        let spec = recipe(Parts {
            job: self.job,
            checkout,
            image,
            root,
            home: home.as_deref(),
            output: work.output(),
            work: work.dir(),
        });
        let spec = match spec {
            Ok(spec) => spec,
            Err(failure) => {
                let _ = setup.runtime.release(setup.ready).await;
                return Err(Cause::Unusable(failure));
            }
        };
        let userns = setup.host.userns();
        if let Err(error) = userns.give(&work.output()).await {
            let _ = setup.runtime.release(setup.ready).await;
            return Err(Cause::Sandbox(error));
        }
        let mut sandbox = setup
            .runtime
            .create(&spec, setup.ready)
            .await
            .map_err(Cause::Sandbox)?;
        self.record.limits = sandbox.limits_in_force();
        if !self.record.limits.unlimited.is_empty() {
            let what = self.record.limits.unlimited.join(", ");
            self.events
                .notice(format!(
                    "running WITHOUT these limits, which this host cannot enforce: {what}"
                ))
                .await;
        }
        let ended = match sandbox.start().await {
            Ok(logs) => {
                let bounds = Bounds {
                    deadline: self.deadline,
                    grace: self.job.limits.grace,
                };
                let ended = supervise(&mut sandbox, logs, bounds, self.control, &self.events).await;
                self.record.resources = ResourceUse {
                    log_bytes: ended.log_bytes,
                    ..sandbox.usage()
                };
                Ok(ended)
            }
            Err(error) => Err(error),
        };
        let left = sandbox.close().await;
        self.record
            .leftovers
            .extend(left.iter().map(ToString::to_string));
        let ended = ended.map_err(Cause::Sandbox)?;
        self.judge(ended)
    }

    fn judge(&mut self, ended: crate::supervise::Ended) -> Result<(), Cause> {
        if let Ok(Exit::Code(code)) = &ended.result
            && ended.stopped.is_none()
        {
            self.record.exit_code = Some(*code);
        }
        let killed_for_memory = self.record.resources.oom_kills.is_some_and(|n| n > 0);
        match (ended.stopped, ended.result) {
            (Some(cause), _) => Err(cause),
            (None, Ok(Exit::Code(0))) => Ok(()),
            (None, Ok(_)) if killed_for_memory => Err(Cause::OutOfMemory),
            (None, Ok(Exit::Code(code))) => Err(Cause::Exit(code)),
            (None, Ok(Exit::NotStarted(why))) => Err(Cause::NotStarted(why)),
            (None, Err(error)) => Err(Cause::Sandbox(error)),
        }
    }

    async fn collect_and_publish(&mut self, work: &Work, target: Target) -> Result<(), Cause> {
        self.record.begin(&self.events, Stage::Collect).await;
        let output = work.output();
        if let Some(host) = self.host.clone() {
            self.guarded(host.userns().reclaim(&output))
                .await?
                .map_err(Cause::Sandbox)?;
        }
        let watch = self.watch(Stage::Collect);
        let tree = blocking(move || OutputTree::collect(&output, &OutputBounds::default(), &watch))
            .await?
            .map_err(|e| self.of_depot(e))?;
        let size = ByteSize::new(tree.bytes());
        self.record
            .end(&self.events, format!("{} files, {size}", tree.files()))
            .await;
        let skipped = tree.skipped().total();
        if skipped > 0 {
            let text = format!(
                "{skipped} entries of /output are no regular files and were left out: {}",
                tree.skipped()
            );
            self.events.notice(text).await;
        }
        if tree.is_empty() {
            return Err(Cause::OutputEmpty);
        }
        self.record.begin(&self.events, Stage::Publish).await;
        let watch = self.watch(Stage::Publish);
        let place = target.path();
        let published = blocking(move || bryo_depot::publish(tree, &target, &watch))
            .await?
            .map_err(|e| self.of_depot(e))?;
        self.record.resources.output_files = published.files;
        self.record.resources.output_bytes = published.bytes;
        for left in &published.leftovers {
            self.record
                .leftovers
                .push(format!("{}: {}", left.path.display(), left.why));
        }
        self.record
            .end(&self.events, place.display().to_string())
            .await;
        Ok(())
    }

    fn of_depot(&self, error: bryo_depot::DepotError) -> Cause {
        match error.cause() {
            bryo_depot::DepotError::Stopped if self.control.is_cancelled() => {
                Cause::Cancelled(self.record.stage())
            }
            bryo_depot::DepotError::Stopped => Cause::Deadline(self.record.stage()),
            _ => Cause::Depot(error),
        }
    }

    fn watch(&self, stage: Stage) -> StageWatch {
        StageWatch {
            control: self.control.clone(),
            deadline: self.deadline.into_std(),
            progress: self.events.progress(stage),
        }
    }

    /// The future's answer, unless the caller or the clock is faster; then the future is dropped, and what it started
    /// with it.
    async fn guarded<F: Future>(&self, future: F) -> Result<F::Output, Cause> {
        tokio::select! {
            biased;
            () = self.control.cancelled() => Err(Cause::Cancelled(self.record.stage())),
            answer = future => Ok(answer),
            () = tokio::time::sleep_until(self.deadline) => Err(Cause::Deadline(self.record.stage())),
        }
    }

    async fn clean_up(&mut self, work: Work, beside: Beside) {
        beside.setup.abort();
        beside.image.abort();
        if let Some(changes) = beside.changes {
            self.tell_changes(changes).await;
        }
        if let Some(sweep) = beside.sweep
            && let Ok(Some(text)) = sweep.await
        {
            self.events.notice(text).await;
        }
        // Wait until an aborted set-up is really gone: its programs may still use the work directory.
        if !beside.setup.is_finished() {
            let _ = beside.setup.await;
        }
        let dir = work.dir().display().to_string();
        let host = self.host.take();
        if let Err(error) = work.remove(host.as_ref().map(Host::userns)).await {
            self.record.leftovers.push(format!("{dir}: {error}"));
        }
    }
}

/// Everything for the run stage.
struct ReadyToRun {
    setup: Setup,
    root: Root,
    home: Option<String>,
}

struct StageWatch {
    control: Control,
    deadline: std::time::Instant,
    progress: Arc<dyn Fn(Amount) + Send + Sync>,
}

impl Watch for StageWatch {
    fn stop(&self) -> bool {
        self.control.is_cancelled() || std::time::Instant::now() >= self.deadline
    }

    fn progress(&self, amount: Amount) {
        (self.progress)(amount);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Cause> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Cause::Task("the publisher".to_owned()))
}
