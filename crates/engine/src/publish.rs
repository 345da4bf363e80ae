//! The last two stages: the output is counted and checked, then becomes visible.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_depot::{Depot, DepotError, OutputBounds, OutputTree, S3Target, Target, Watch};
use bryo_model::{Amount, ByteSize, Limits, Stage};

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::control::Control;
use crate::work::Work;

impl Attempt<'_> {
    pub(crate) async fn collect_and_publish(
        &mut self,
        work: &Work,
        depot: Depot,
    ) -> Result<(), Cause> {
        self.begin(Stage::Collect).await;
        let output = work.output();
        if let Some(host) = self.host.clone() {
            self.guarded(host.userns().reclaim(&output))
                .await?
                .map_err(Cause::Sandbox)?;
        }
        let watch = self.watch(Stage::Collect);
        let usual = OutputBounds::default();
        let bounds = OutputBounds {
            max_bytes: self
                .job
                .limits
                .output
                .unwrap_or(Limits::USUAL_OUTPUT)
                .bytes(),
            max_files: self
                .job
                .limits
                .output_files
                .unwrap_or(Limits::USUAL_OUTPUT_FILES),
            ..usual
        };
        self.record.limits.output = Some(ByteSize::new(bounds.max_bytes));
        self.record.limits.output_files = Some(bounds.max_files);
        let tree = match OutputTree::collect(&output, &bounds, &Little::new()) {
            Err(DepotError::Stopped) => {
                blocking(move || OutputTree::collect(&output, &bounds, &watch)).await?
            }
            little => little,
        };
        let tree = tree.map_err(|e| self.of_depot(e))?;
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
        self.begin(Stage::Publish).await;
        match depot {
            Depot::Directory(target) => self.publish_in_directory(tree, target).await,
            Depot::S3(target) => self.publish_in_store(tree, &target).await,
        }
    }

    async fn publish_in_directory(
        &mut self,
        tree: OutputTree,
        target: Target,
    ) -> Result<(), Cause> {
        let watch = self.watch(Stage::Publish);
        let place = target.path();
        let published = blocking(move || bryo_depot::publish(tree, &target, &watch))
            .await?
            .map_err(|e| self.of_depot(e))?;
        self.published(published.files, published.bytes);
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

    async fn publish_in_store(&mut self, tree: OutputTree, target: &S3Target) -> Result<(), Cause> {
        let (control, deadline) = (self.control.clone(), self.next_deadline().0);
        let stop = async move {
            tokio::select! {
                () = control.cancelled() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        };
        let progress = self.events.progress(Stage::Publish);
        let uploaded = match target.publish(tree, progress, stop).await {
            Ok(uploaded) => uploaded,
            Err(error) => {
                self.tell_half(&error, target).await;
                return Err(self.of_depot(error));
            }
        };
        self.published(uploaded.files, uploaded.bytes);
        if uploaded.repaired {
            let text = "an earlier publication of this version had failed half-way; it is repaired";
            self.events.notice(text).await;
        }
        if !uploaded.others.is_empty() {
            let text = format!(
                "not put by Bryo and left as it is: {}; delete by hand what nobody needs",
                uploaded.others.join(", ")
            );
            self.events.notice(text).await;
        }
        let summary = format!(
            "{}: {} put, {} unchanged, {} deleted",
            target.place(),
            uploaded.put,
            uploaded.unchanged,
            uploaded.removed
        );
        self.record.leftovers.extend(uploaded.leftovers);
        self.record.end(&self.events, summary).await;
        Ok(())
    }

    /// A verdict of "cancelled" or "too late" has no room for what readers see.
    async fn tell_half(&mut self, error: &DepotError, target: &S3Target) {
        if let DepotError::Unfinished { visible, .. } = error
            && matches!(error.cause(), DepotError::Stopped)
        {
            let text = format!("{} is half published: {visible}", target.place());
            self.events.notice(text.clone()).await;
            self.record.leftovers.push(text);
        }
    }

    fn published(&mut self, files: u64, bytes: u64) {
        self.record.resources.output_files = files;
        self.record.resources.output_bytes = bytes;
    }

    fn of_depot(&self, error: DepotError) -> Cause {
        match error.cause() {
            DepotError::Stopped if self.control.is_cancelled() => {
                Cause::Cancelled(self.record.stage())
            }
            DepotError::Stopped => self.late(),
            _ => Cause::Depot(error),
        }
    }

    fn watch(&self, stage: Stage) -> StageWatch {
        StageWatch {
            control: self.control.clone(),
            deadline: self.next_deadline().0.into_std(),
            progress: self.events.progress(stage),
        }
    }
}

/// The caller's hand and the clock, as the depot asks for them from its own thread.
struct StageWatch {
    control: Control,
    deadline: Instant,
    progress: Arc<dyn Fn(Amount) + Send + Sync>,
}

impl Watch for StageWatch {
    fn stop(&self) -> bool {
        self.control.is_cancelled() || Instant::now() >= self.deadline
    }

    fn progress(&self, amount: Amount) {
        (self.progress)(amount);
    }
}

/// What is listed in less time than another thread takes to be told of it. Whoever finds more lets that thread begin anew.
struct Little {
    entries: Cell<u32>,
    until: Instant,
}

impl Little {
    fn new() -> Self {
        Self {
            entries: Cell::new(64),
            until: Instant::now() + Duration::from_millis(1),
        }
    }
}

impl Watch for Little {
    fn stop(&self) -> bool {
        let left = self.entries.get().saturating_sub(1);
        self.entries.set(left);
        left == 0 || Instant::now() >= self.until
    }

    fn progress(&self, _: Amount) {}
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Cause> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Cause::Task("the publisher".to_owned()))
}
