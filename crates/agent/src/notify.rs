//! What the service manager is told (sd_notify(3)). Where there is none, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::doc_thor::one_line;

/// The agent takes jobs, or would if it could.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The agent reads its settings anew. systemd wants the time at which that began.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// It comes to its end, and that may take so long.
pub(crate) fn stopping(at_most: Duration) {
    // The library has 32 bits for the time, which are 71 minutes.
    let time = format!("EXTEND_TIMEOUT_USEC={}", at_most.as_micros());
    tell(&[NotifyState::Stopping, NotifyState::Custom(&time)]);
}

/// What it is about. The protocol is made of lines: a break in the text would make an assignment of what follows.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// It is alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often it must say so, if it must.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
