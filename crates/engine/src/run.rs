//! The third stage: the job runs, and its end is judged.

use bryo_image::Image;
use bryo_model::ResourceUse;
use bryo_sandbox::{Exit, SandboxError};
use bryo_source::Checkout;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::container::{Parts, recipe};
use crate::inputs::ReadyToRun;
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
        // Nobody may write to the output while it is read.
        if !sandbox.is_over() {
            return Err(Cause::Sandbox(SandboxError::Unkillable));
        }
        self.judge(ended)
    }

    fn judge(&mut self, ended: Ended) -> Result<(), Cause> {
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
}
