//! One attempt: its stages in order, what goes on beside them, and clean-up on every path.

use std::sync::Arc;

use bryo_depot::Depot;
use bryo_image::{Image, ImageError, ImageStore, Layers};
use bryo_model::{
    Event, IdSlot, JobSpec, NetworkMode, Report, SourceLocation, Stage, TimeLimit, Verdict,
};
use bryo_sandbox::{Host, OwnIds, SandboxError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cause::{Cause, blame, verdict};
use crate::control::Control;
use crate::engine::Engine;
use crate::events::Events;
use crate::logs::Secrets;
use crate::outside;
use crate::record::Record;
use crate::settings::Settings;
use crate::setup::{Setup, network, set_up};
use crate::work::Work;

/// Takes a job from its source to its verdict. Everything it made is gone when it returns, except the published result
/// and the caches; what could not be removed stands in the report.
pub async fn run_attempt(
    job: &JobSpec,
    depot: Depot,
    engine: &Engine,
    control: &Control,
    events: mpsc::Sender<Event>,
) -> (Verdict, Report) {
    let settings = engine.settings();
    let (limits, lowered) = settings.ceiling.over(&job.limits);
    let job = &JobSpec {
        limits,
        ..job.clone()
    };
    let hidden = outside::passwords(&settings.network.proxy);
    let secrets = Secrets::of(&[&job.secrets[..], &hidden].concat());
    let mut attempt = Attempt {
        job,
        engine,
        settings,
        control,
        events: Events::new(events, secrets.clone().unwrap_or_default()),
        record: Record::new(&job.limits),
        deadline: Instant::now() + job.limits.timeout,
        stage_deadline: None,
        host: None,
        own_ids: None,
        held: None,
        over: CancellationToken::new(),
    };
    if !lowered.is_empty() {
        let what = lowered.join(", ");
        let text = format!("lowered to what this host allows at most: {what}");
        attempt.events.notice(text).await;
    }
    if network(job, settings).mode == NetworkMode::Host {
        let text =
            "the job has this host's own network: nothing of it is closed, and nothing is counted";
        attempt.events.notice(text).await;
    }
    let outcome = match secrets {
        Ok(_) => Box::pin(attempt.run(depot)).await,
        Err(error) => Err(Cause::Secrets(error)),
    };
    let (verdict, blame) = match &outcome {
        Ok(()) => (Verdict::Succeeded, None),
        Err(cause) => (verdict(cause), blame(cause)),
    };
    let mask = |text: &str| attempt.events.secrets().mask(text);
    let verdict = verdict.map_text(mask);
    let leftovers = attempt.record.leftovers.iter().map(|left| mask(left));
    attempt.record.leftovers = leftovers.collect();
    let summary = verdict.reason().unwrap_or_default();
    attempt.record.end(&attempt.events, summary).await;
    let report = attempt.record.into_report(job.id, &verdict, blame);
    (verdict, report)
}

pub(crate) struct Attempt<'a> {
    pub(crate) job: &'a JobSpec,
    pub(crate) engine: &'a Engine,
    pub(crate) settings: &'a Settings,
    pub(crate) control: &'a Control,
    pub(crate) events: Events,
    pub(crate) record: Record,
    pub(crate) deadline: Instant,
    /// That of the stage that goes on, if it has a bound of its own.
    pub(crate) stage_deadline: Option<Instant>,
    /// Once it is settled; it can then remove what a job wrote.
    pub(crate) host: Option<Host>,
    /// Held until everything of the attempt is removed, what belongs to these ids included.
    pub(crate) own_ids: Option<OwnIds>,
    /// The layers that the job stands on: nobody removes them meanwhile.
    pub(crate) held: Option<Layers>,
    /// Whether all stages have ended.
    pub(crate) over: CancellationToken,
}

/// What goes on beside the stages.
pub(crate) struct Beside {
    /// Until it is taken.
    pub(crate) setup: Option<JoinHandle<Result<Setup, SandboxError>>>,
    pub(crate) image: Option<JoinHandle<Result<Image, ImageError>>>,
    pub(crate) changes: Option<JoinHandle<Option<String>>>,
    pub(crate) sweep: Option<JoinHandle<Option<String>>>,
}

impl Attempt<'_> {
    async fn run(&mut self, depot: Depot) -> Result<(), Cause> {
        self.begin(Stage::Fetch).await;
        if self.settings.own_ids {
            let own = OwnIds::take(&self.settings.places.state).map_err(Cause::Sandbox)?;
            self.own_ids = Some(own);
        }
        let work = Work::create(&self.settings.work, self.job.id).map_err(|e| {
            let dir = self.settings.work.display();
            Cause::Work(e, format!("use the work directory {dir}"))
        })?;
        let mut beside = self.start_beside().await;
        let result = Box::pin(self.stages(&work, &mut beside, depot)).await;
        self.clean_up(work, beside).await;
        result
    }

    /// The user namespace takes longest to make and needs nothing but the host: it is begun before anything else, and is
    /// made while the source and the image are looked up.
    async fn start_beside(&self) -> Beside {
        let (job, engine) = (self.job.clone(), self.engine.clone());
        let setup = tokio::spawn(set_up(job, engine, self.slot()));
        tokio::task::yield_now().await;
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
            setup: Some(setup),
            image: None,
            changes,
            sweep: None,
        }
    }

    /// Whose ids the job has.
    pub(crate) fn slot(&self) -> IdSlot {
        self.own_ids.as_ref().map_or(IdSlot::SHARED, OwnIds::slot)
    }

    async fn stages(
        &mut self,
        work: &Work,
        beside: &mut Beside,
        depot: Depot,
    ) -> Result<(), Cause> {
        outside::copy_certificates(&self.settings.network, work.dir()).map_err(|e| {
            let what = "copy the certificates that jobs trust".to_owned();
            Cause::Work(e, what)
        })?;
        let source = self.engine.source_cache().map_err(Cause::Source)?;
        let images = self.engine.image_store().map_err(Cause::Image)?;
        beside.image = Some(self.start_image(&images));
        let fetched = self.fetch(&source).await?;
        self.begin(Stage::Prepare).await;
        let (checkout, image, setup) = self.prepare(&source, &fetched, beside).await?;
        let ready = self.make_root(&images, &image, setup).await?;
        self.end_prepare(&checkout, &image, beside).await;
        self.begin(Stage::Run).await;
        self.run_job(&checkout, &image, work, ready).await?;
        self.record.end(&self.events, "exit code 0").await;
        self.collect_and_publish(work, depot).await
    }

    fn start_image(&self, images: &Arc<ImageStore>) -> JoinHandle<Result<Image, ImageError>> {
        let (images, name) = (Arc::clone(images), self.job.image.clone());
        let pull = self.settings.pull.clone();
        let progress = self.events.progress(Stage::Prepare);
        tokio::spawn(async move { images.resolve(&name, &pull, progress).await })
    }

    pub(crate) async fn tell_changes(&self, changes: JoinHandle<Option<String>>) {
        if let Ok(Some(what)) = changes.await {
            self.events
                .notice(format!("not built, because not committed: {what}"))
                .await;
        }
    }

    /// The future's answer, unless the caller or the clock is faster; then the future is dropped, and what it started
    /// with it.
    pub(crate) async fn guarded<F: Future>(&self, future: F) -> Result<F::Output, Cause> {
        tokio::select! {
            biased;
            () = self.control.cancelled() => Err(Cause::Cancelled(self.record.stage())),
            answer = future => Ok(answer),
            () = tokio::time::sleep_until(self.next_deadline().0) => Err(self.late()),
        }
    }

    pub(crate) async fn begin(&mut self, stage: Stage) {
        let bound = self.job.limits.of_stage(stage);
        self.stage_deadline = bound.map(|most| Instant::now() + most);
        self.record.begin(&self.events, stage).await;
    }

    /// When the stage that goes on must have ended, and by which bound.
    pub(crate) fn next_deadline(&self) -> (Instant, TimeLimit) {
        match self.stage_deadline {
            Some(stage) if stage < self.deadline => (stage, TimeLimit::Stage),
            _ => (self.deadline, TimeLimit::Attempt),
        }
    }

    pub(crate) fn late(&self) -> Cause {
        Cause::Late(self.next_deadline().1, self.record.stage())
    }

    async fn clean_up(&mut self, work: Work, beside: Beside) {
        if let Some(image) = beside.image {
            image.abort();
        }
        if let Some(changes) = beside.changes
            && !self.control.is_cancelled()
        {
            self.tell_changes(changes).await;
        }
        self.over.cancel();
        if let Some(sweep) = beside.sweep
            && let Ok(Some(text)) = sweep.await
        {
            self.events.notice(text).await;
        }
        // Wait until an aborted set-up is really gone: its programs may still use the work directory.
        if let Some(setup) = beside.setup {
            setup.abort();
            // What it made before that is nobody's.
            if let Ok(Ok(setup)) = setup.await
                && let Err(error) = setup.runtime.release(setup.ready).await
            {
                self.record.leftovers.push(error.to_string());
            }
        }
        let dir = work.dir().display().to_string();
        let mut host = self.host.take();
        if host.as_ref().is_some_and(|host| !host.userns().is_alive()) {
            // What a job wrote can be removed from inside a user namespace alone; with the one it was written in, the
            // helper, gone, another one with the same ids does.
            host = self.engine.hosts().get().await.ok();
        }
        if let Err(error) = work.remove(host.as_ref().map(Host::userns)).await {
            self.record.leftovers.push(format!("{dir}: {error}"));
        }
    }
}
