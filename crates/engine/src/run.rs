//! The third stage: the job runs, and its end is judged.

use std::time::Duration;

use bryo_image::Image;
use bryo_model::{RuntimeKind, StopSignal};
use bryo_sandbox::{DiskWatch, Exit, Logs, Ready, Runtime, Sandbox, SandboxError, SandboxSpec};
use bryo_source::Checkout;
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::attempt::Attempt;
use crate::cause::{Cause, Facts, end_of};
use crate::container::{Parts, keep_refs, recipe};
use crate::inputs::ReadyToRun;
use crate::logs::JobLog;
use crate::record::with_the_engines;
use crate::setup::network;
use crate::supervise::{Bounds, Ended, supervise};
use crate::work::Work;

/// How long whoever wants to stop waits for a service that is making a container: some hundred milliseconds are usual.
const LETTING_GO: Duration = Duration::from_secs(10);

impl Attempt<'_> {
    pub(crate) async fn run_job(
        &mut self,
        checkout: &Checkout,
        image: &Image,
        work: &Work,
        ready: ReadyToRun,
    ) -> Result<(), Cause> {
        let ReadyToRun { setup, root, home } = ready;
        if let Err(error) = keep_refs(checkout, work.dir()) {
            let _ = setup.runtime.release(setup.ready).await;
            let what = "keep the branches and tags of the source".to_owned();
            return Err(Cause::Work(error, what));
        }
        let spec = recipe(Parts {
            job: self.job,
            network: network(self.job, self.settings),
            outside: &self.settings.network,
            apparmor: self.settings.apparmor.clone(),
            selinux: self.settings.selinux.clone(),
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
        let mut sandbox = self.create(&setup.runtime, &spec, setup.ready).await?;
        self.record.limits = with_the_engines(sandbox.limits_in_force(), &self.job.limits);
        if !self.record.limits.unlimited.is_empty() {
            let what = self.record.limits.unlimited.join(", ");
            self.events
                .notice(format!(
                    "running WITHOUT these limits, which this host cannot enforce: {what}"
                ))
                .await;
        }
        let mut log = JobLog::new(self.events.clone(), self.job.limits.log);
        let ended = match self.guarded(sandbox.start()).await {
            Ok(Ok(logs)) => Ok(self.watch_over(&mut sandbox, logs, &mut log, image).await),
            Ok(Err(error)) => Err(Cause::Sandbox(error)),
            Err(stopped) => Err(stopped),
        };
        self.record.selinux_label = sandbox.label();
        let left = sandbox.close().await;
        // Nobody is kept from stopping an attempt whose job has ended by a listener that does not read.
        let ended_by_itself = matches!(&ended, Ok(ended) if ended.stopped.is_none());
        let patience = async {
            if ended_by_itself {
                let _ = self.guarded(std::future::pending::<()>()).await;
            }
        };
        log.end(patience).await;
        self.record.resources.log_bytes = log.written();
        self.record.resources.log_bytes_left_out = log.left_out();
        self.record
            .leftovers
            .extend(left.iter().map(ToString::to_string));
        let ended = ended?;
        // Nobody may write to the output while it is read.
        if !sandbox.is_over() {
            return Err(Cause::Sandbox(SandboxError::Unkillable));
        }
        self.judge(ended)
    }

    /// A service that makes containers may take its time, and is not waited for longer than [`LETTING_GO`] by who wants to
    /// stop.
    async fn create(
        &mut self,
        runtime: &Runtime,
        spec: &SandboxSpec,
        ready: Ready,
    ) -> Result<Sandbox, Cause> {
        let mut create = Box::pin(runtime.create(spec, ready));
        // Without a service it takes no time, and what it took over must not be dropped half-way.
        if runtime.kind() == RuntimeKind::Crun {
            return create.await.map_err(Cause::Sandbox);
        }
        match self.guarded(&mut create).await {
            Ok(created) => created.map_err(Cause::Sandbox),
            Err(stopped) => {
                self.unmake(runtime, spec, create).await;
                Err(stopped)
            }
        }
    }

    /// Removes what is being made and nobody wants any more.
    ///
    /// A service that was asked to make a container goes on when nobody waits for it, and what is not there yet cannot be
    /// removed: so its answer is waited for. One that does not answer leaves something, which is told; whoever sweeps later
    /// finds it by its label.
    async fn unmake(
        &mut self,
        runtime: &Runtime,
        spec: &SandboxSpec,
        create: impl Future<Output = Result<Sandbox, SandboxError>>,
    ) {
        let made = tokio::select! {
            made = timeout(LETTING_GO, create) => made.ok(),
            () = self.control.killed() => None,
        };
        let answered = made.is_some();
        if let Some(Ok(mut sandbox)) = made {
            let left = sandbox.close().await;
            let left = left.iter().map(ToString::to_string);
            self.record.leftovers.extend(left);
            return;
        }
        let name = &spec.name;
        let why = match runtime.sweep(name.as_str(), &spec.work).await {
            Err(error) => error.to_string(),
            Ok(()) if answered => return,
            Ok(()) => "podman was still making it".to_owned(),
        };
        let text = format!("container {name}: {why}");
        self.record.leftovers.push(text);
    }

    /// From the job's first instruction to its end, with everything that bounds it.
    async fn watch_over(
        &mut self,
        sandbox: &mut Sandbox,
        logs: Logs,
        log: &mut JobLog,
        image: &Image,
    ) -> Ended {
        let bounds = Bounds {
            deadline: self.next_deadline(),
            whole: self.deadline,
            silence: self.job.limits.silence,
            grace: self.job.limits.grace,
            stop_signal: self.stop_signal(image),
        };
        let mut disk = sandbox.take_disk_watch();
        let lost = sandbox.helper_lost();
        let trouble = trouble(disk.as_mut(), lost);
        let mut ended = supervise(sandbox, logs, bounds, self.control, log, trouble).await;
        self.record.resources = sandbox.usage();
        if ended.stopped.is_none() {
            // The job has kept to it. What is left to do is not the job's.
            self.stage_deadline = None;
        }
        if let Some(disk) = &mut disk {
            self.last_look(disk, &mut ended).await;
        }
        ended
    }

    /// What the job has when it ends counts too, however fast it was.
    async fn last_look(&mut self, disk: &mut DiskWatch, ended: &mut Ended) {
        if ended.stopped.is_none() {
            ended.stopped = match self.guarded(disk.look()).await {
                Ok(Ok(limit)) => limit.map(Cause::Limit),
                Ok(Err(error)) => Some(Cause::Sandbox(error)),
                Err(stopped) => Some(stopped),
            };
        }
        let (bytes, files) = disk.peak();
        self.record.resources.disk_peak_bytes = Some(bytes);
        self.record.resources.disk_peak_files = Some(files);
    }

    /// The job's wish, else the image's, else `SIGTERM`.
    fn stop_signal(&self, image: &Image) -> Signal {
        let of_image = || image.config().stop_signal()?.parse::<StopSignal>().ok();
        let wanted = self.job.limits.stop_signal.or_else(of_image);
        let number = wanted.unwrap_or(StopSignal::TERM).number();
        Signal::try_from(number).unwrap_or(Signal::SIGTERM)
    }

    fn judge(&mut self, ended: Ended) -> Result<(), Cause> {
        if ended.stopped.is_none() {
            match &ended.result {
                Ok(Exit::Code(code)) => self.record.exit_code = Some(*code),
                Ok(Exit::Signal(number)) => self.record.signal = Some(*number),
                Ok(Exit::NotStarted(_)) | Err(_) => {}
            }
        }
        let facts = Facts::of(&self.record.resources, &self.record.limits);
        end_of(ended.stopped, ended.result, facts).map_or(Ok(()), Err)
    }
}

/// What ends a job besides time and the caller: more on disk than it may have, or the loss of what its clean-up needs.
async fn trouble(disk: Option<&mut DiskWatch>, lost: impl Future<Output = SandboxError>) -> Cause {
    let over = async {
        match disk {
            Some(disk) => disk.over().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        limit = over => limit.map_or_else(Cause::Sandbox, Cause::Limit),
        error = lost => Cause::Sandbox(error),
    }
}
