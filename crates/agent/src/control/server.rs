//! The side that answers.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Alarm, FeedStatus, JobLine, Request, Response, RunningJob, Status};
use crate::agent::Order;
use crate::error::{AgentError, chain};
use crate::shared::{Phase, Shared, lock};
use crate::socket;
use crate::store::{JobRow, Record};

/// A request is one short line.
const LONGEST: u64 = 4096;

/// Whoever connects says something within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the socket. One that is there belongs to a process that is gone: the state directory's lock is held.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    let failed = |source: io::Error| AgentError::Listen {
        place: path.display().to_string(),
        source,
    };
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
    }
    socket::clear(path).map_err(failed)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers for as long as the agent lives.
pub(crate) async fn serve(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = answer(&shared, stream).await {
                        tracing::debug!(%error, "a question was not answered");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not take a connection on the control socket");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn answer(shared: &Shared, mut stream: UnixStream) -> io::Result<()> {
    // The socket's mode says it already; this holds where its directory was opened to others.
    if stream.peer_cred()?.uid() != Uid::effective().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(LONGEST));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let response = match serde_json::from_str(&line) {
        Ok(request) => respond(shared, request).await,
        Err(error) => Response::Refused {
            why: format!("not a request that this version knows ({error})"),
        },
    };
    let mut text = serde_json::to_vec(&response).map_err(io::Error::from)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

async fn respond(shared: &Shared, request: Request) -> Response {
    match request {
        Request::Pause => change(shared, Phase::Paused),
        Request::Resume => change(shared, Phase::Open),
        Request::Drain => match shared.orders.try_send(Order::Drain) {
            Ok(()) => Response::Done,
            Err(_) => refused("it is coming to its end already"),
        },
        Request::Status => Response::Status(Box::new(status(shared).await)),
        Request::Jobs { most } => match shared.store.newest(most.min(10_000)).await {
            Ok(rows) => Response::Jobs {
                jobs: rows.into_iter().map(line).collect(),
            },
            Err(error) => refused(&chain(&error)),
        },
    }
}

fn refused(why: &str) -> Response {
    Response::Refused {
        why: why.to_owned(),
    }
}

fn change(shared: &Shared, to: Phase) -> Response {
    if shared.phase().is_over() {
        return refused("it is coming to its end, and takes no more jobs");
    }
    if shared.phase.send_replace(to) != to {
        tracing::info!("{}", to.word());
    }
    Response::Done
}

/// What is going on.
async fn status(shared: &Shared) -> Status {
    let outbox = shared.store.outbox_depth().await.ok();
    let feeds = shared.feeds.iter().map(|feed| {
        let last = lock(&feed.last).clone();
        FeedStatus {
            name: feed.name.to_string(),
            last_seconds_ago: last.as_ref().map(|(at, _)| at.elapsed().as_secs_f64()),
            last: last.map(|(_, text)| text),
            slots_used: feed.slots.used(),
            slots: feed.slots.most(),
        }
    });
    let running = lock(&shared.running)
        .iter()
        .map(|(job, running)| RunningJob {
            job: job.to_string(),
            feed: running.feed.to_string(),
            feed_job: running.feed_job.clone(),
            title: running.title.clone(),
            stage: running.stage.map(|stage| stage.to_string()),
            seconds: running.since.elapsed().as_secs_f64(),
        })
        .collect();
    let alarms = shared.troubles.borrow().clone();
    let alarms = alarms.into_iter().map(|(about, text)| Alarm {
        about: about.to_string(),
        text,
    });
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state: shared.phase().word().to_owned(),
        host_ready: *shared.host.borrow(),
        slots_used: lock(&shared.running).len(),
        slots: shared.slots.most(),
        outbox,
        feeds: feeds.collect(),
        running,
        alarms: alarms.collect(),
    }
}

fn line(row: JobRow) -> JobLine {
    let state = match row.record {
        Record::Taken => "taken",
        Record::Begun => "begun",
        Record::Ended if row.in_outbox => "ended",
        Record::Ended => "told",
    };
    JobLine {
        job: row.job.to_string(),
        feed: row.feed,
        feed_job: row.feed_job,
        state: state.to_owned(),
        attempts: row.attempts,
        taken_ms: row.taken_ms,
        ended_ms: row.ended_ms,
        verdict: row.verdict,
        reason: row.reason,
    }
}
