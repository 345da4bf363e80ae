//! The third stage: the job runs, and its end is judged.

use bryo_image::Image;
use bryo_model::{LimitsInForce, ResourceUse, StopSignal};
use bryo_sandbox::{Exit, SandboxError};
use bryo_source::Checkout;
use nix::sys::signal::Signal;

use crate::attempt::Attempt;
use crate::cause::{Cause, Facts, end_of};
use crate::container::{Parts, recipe};
use crate::inputs::ReadyToRun;
use crate::setup::network;
use crate::supervise::{Bounds, Ended, supervise};
use crate::work::Work;

impl Attempt<'_> {
    pub(crate) async fn run_job(
        &mut self,
        checkout: &Checkout,
        image: &Image,
        work: &Work,
        ready: ReadyToRun,
    ) -> Result<(), Cause> {
        let ReadyToRun { setup, root, home } = ready;
        let spec = recipe(Parts {
            job: self.job,
            network: network(self.job, self.settings),
            outside: &self.settings.network,
            apparmor: self.settings.apparmor.clone(),
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
        let mut sandbox = setup
            .runtime
            .create(&spec, setup.ready)
            .await
            .map_err(Cause::Sandbox)?;
        self.record.limits = LimitsInForce {
            ..sandbox.limits_in_force()
        };
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
                    deadline: self.next_deadline(),
                    silence: self.job.limits.silence,
                    grace: self.job.limits.grace,
                    stop_signal: self.stop_signal(image),
                };
                let trouble = std::future::pending();
                let ended = supervise(
                    &mut sandbox,
                    logs,
                    bounds,
                    self.control,
                    &self.events,
                    trouble,
                )
                .await;
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
        // Nobody may write to the output while it is read.
        if !sandbox.is_over() {
            return Err(Cause::Sandbox(SandboxError::Unkillable));
        }
        self.judge(ended)
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
        let facts = Facts::of(&self.record.resources);
        end_of(ended.stopped, ended.result, facts).map_or(Ok(()), Err)
    }
}
