//! Whether the host can run jobs: looked at before the first is taken, and again after one failed for our own reasons.
//!
//! *Why a gate?* On a host that has lost something every job would be taken, fail at once and be reported as failed: one
//! broken agent would burn the whole queue.

use std::sync::Arc;
use std::time::Duration;

use bryo_model::Verdict;

use crate::backoff::Backoff;
use crate::error::chain;
use crate::shared::{Shared, Trouble, lock};

/// Between two looks at a host that is not fit.
const UNFIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Looks for as long as the agent lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(UNFIT.0, UNFIT.1);
    let mut fit = shared.host.subscribe();
    loop {
        match look(&shared).await {
            Ok(()) => {
                shared.mended(&Trouble::Host);
                shared.host.send_replace(true);
            }
            Err(why) => {
                shared.trouble(Trouble::Host, format!("no jobs are taken: {why}"));
                pause(&shared, backoff.next()).await;
                continue;
            }
        }
        if fit.wait_for(|fit| !*fit).await.is_err() {
            return;
        }
        let failed = matches!(
            *lock(&shared.last_verdict),
            Some(Verdict::Infrastructure(_))
        );
        if failed {
            pause(&shared, backoff.next()).await;
        } else {
            backoff.reset();
        }
    }
}

/// Waits for the next look; not at all when there are new settings, which may be what was missing.
async fn pause(shared: &Shared, wait: Duration) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = shared.host_bell.notified() => {}
    }
}

async fn look(shared: &Shared) -> Result<(), String> {
    let network = shared.settings().jobs.network;
    let prepared = shared
        .engine
        .prepare(network)
        .await
        .map_err(|e| chain(&e))?;
    if prepared.swept > 0 {
        tracing::info!(
            "removed what {} attempts left that were killed",
            prepared.swept
        );
    }
    match prepared.left {
        Some(left) => shared.trouble(Trouble::Leftovers, left),
        None => shared.mended(&Trouble::Leftovers),
    }
    shared.depot().check().await.map_err(|e| chain(&e))
}
