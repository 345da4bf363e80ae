//! A doc-thor server's stand-in at the wire: the builds' queue, results, and what goes wrong with them.
//!
//! It behaves as the real one was seen to behave, its mistakes included; `tests.rs` holds it to that. On top of it a
//! story can script faults: the next request of an endpoint is answered with one of [`Fault`].
//!
//! ```text
//! rules.rs    what the server knows, and what each request does to it: pure
//! routes.rs   which request is meant, and whether it may
//! faults.rs   answers that go wrong
//! mod.rs      the server for a story: trigger builds, wait for what becomes of them
//! ```

mod faults;
mod routes;
mod rules;
#[cfg(test)]
mod tests;

use std::io::Result;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Gate;
use crate::http::{GoesOn, Listening, Request, Serve};
pub use faults::{Endpoint, Fault};
pub use rules::{Build, Project, Status};
use rules::{Rules, Trigger};

/// The key that agents of a story have. It is looked for wherever it should not be.
pub const TOKEN: &str = "c0ffee5ec4e7c0ffee5ec4e7c0ffee5ec4e7c0ffee5ec4e7c0ffee5ec4e7beef";

/// No story waits longer for its server.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request as it came, and how it was answered.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// When.
    pub at: Instant,
    /// What came.
    pub request: Request,
    /// What was asked for.
    pub endpoint: Endpoint,
    /// The status that the rules gave, whether or not the client saw it; `None` where a fault came before the rules.
    pub status: Option<u16>,
}

/// Everything that happened to a server.
#[derive(Debug, Default)]
pub struct History {
    rules: Rules,
    faults: Vec<(Endpoint, Fault, usize)>,
    exchanges: Vec<Exchange>,
    accepted: usize,
    mute: Option<Gate>,
    huge: u64,
}

impl History {
    /// All builds, oldest first.
    #[must_use]
    pub fn builds(&self) -> &[Build] {
        self.rules.builds()
    }

    /// One build.
    #[must_use]
    pub fn build(&self, id: u64) -> &Build {
        let found = self.builds().iter().find(|build| build.id == id);
        found.unwrap_or_else(|| panic!("there is no build {id}"))
    }

    /// The requests for one thing, in their order.
    pub fn of(&self, endpoint: Endpoint) -> impl Iterator<Item = &Exchange> {
        self.exchanges
            .iter()
            .filter(move |exchange| exchange.endpoint == endpoint)
    }

    /// All requests, in their order.
    #[must_use]
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// How many connections there were.
    #[must_use]
    pub const fn accepted(&self) -> usize {
        self.accepted
    }

    /// How many bytes of an endless answer were taken.
    #[must_use]
    pub const fn huge(&self) -> u64 {
        self.huge
    }

    /// How many builds have this status.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        let of = |build: &&Build| build.status == status;
        self.builds().iter().filter(of).count()
    }
}

#[derive(Debug, Default)]
struct Shared {
    history: Mutex<History>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

/// The server.
#[derive(Debug)]
pub struct DocThor {
    shared: Arc<Shared>,
    listening: Option<Listening>,
    address: String,
}

impl DocThor {
    /// A server without projects that takes [`TOKEN`].
    #[must_use]
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().rules.allow(TOKEN);
        let listening = Listening::open("127.0.0.1:0", Arc::<Shared>::clone(&shared));
        Self {
            address: listening.address().to_string(),
            listening: Some(listening),
            shared,
        }
    }

    /// Its `SERVER_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Creates a project.
    pub fn project(&self, slug: &str, source_url: &str, docker_image: &str) {
        let project = Project {
            slug: slug.to_owned(),
            source_url: source_url.to_owned(),
            docker_image: docker_image.to_owned(),
        };
        self.shared.change(|history| history.rules.project(project));
    }

    /// Removes a project, and its builds with it.
    pub fn delete_project(&self, slug: &str) {
        self.shared.change(|history| history.rules.delete(slug));
    }

    /// Queues a build. An empty reference is the default branch; without a tag no version is created.
    pub fn trigger(&self, slug: &str, reference: &str, tag: &str) -> u64 {
        let trigger = Trigger {
            reference: reference.to_owned(),
            tag: tag.to_owned(),
        };
        let made = self
            .shared
            .change(|history| history.rules.trigger(slug, trigger));
        made.unwrap_or_else(|| panic!("there is no project {slug:?}"))
    }

    /// Hands this out at the next claim, before any build, as it is: from a server that is not what it should be.
    pub fn hand_out(&self, claim: Value) {
        self.shared.change(|history| history.rules.hand_out(claim));
    }

    /// The next requests of an endpoint go wrong. Faults of one endpoint come in the order in which they were scripted.
    pub fn fault(&self, endpoint: Endpoint, fault: Fault, times: usize) {
        self.shared
            .change(|history| history.faults.push((endpoint, fault, times)));
    }

    /// No fault is scripted any more.
    pub fn no_faults(&self) {
        self.shared.change(|history| history.faults.clear());
    }

    /// Connections are taken and not read until the gate is open.
    pub fn mute(&self, gate: &Gate) {
        self.shared
            .change(|history| history.mute = Some(gate.clone()));
    }

    /// The key is not known any more.
    pub fn revoke(&self) {
        self.shared.change(|history| history.rules.revoke(TOKEN));
    }

    /// It is known again.
    pub fn restore(&self) {
        self.shared.change(|history| history.rules.allow(TOKEN));
    }

    /// The program is gone: connections are refused, those that were open are broken. What it knows stays.
    pub fn away(&mut self) {
        self.listening = None;
    }

    /// It is there again, at the same address.
    pub fn back(&mut self) {
        let serve = Arc::<Shared>::clone(&self.shared);
        self.listening = Some(Listening::open(&self.address, serve));
    }

    /// Looks at what happened.
    pub fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.shared.lock())
    }

    /// One build, as it is now.
    #[must_use]
    pub fn build(&self, id: u64) -> Build {
        self.look(|history| history.build(id).clone())
    }

    /// Waits until something is so, looking again whenever something happened.
    #[track_caller]
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&History) -> bool) {
        let since = Instant::now();
        let mut history = self.shared.lock();
        while !condition(&history) {
            let left = PATIENCE.saturating_sub(since.elapsed());
            assert!(
                !left.is_zero(),
                "never: {what}\n{:#?}\n{:#?}",
                history.builds(),
                history.exchanges.iter().rev().take(10).collect::<Vec<_>>()
            );
            let waited = self.shared.changed.wait_timeout(history, left);
            history = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until a build has ended, and returns it.
    #[track_caller]
    pub fn ended(&self, id: u64) -> Build {
        self.wait(&format!("build {id} has ended"), |history| {
            history.build(id).status.is_final()
        });
        self.build(id)
    }

    /// Waits until all builds have ended.
    #[track_caller]
    pub fn all_ended(&self) {
        self.wait("all builds have ended", |history| {
            history.builds().iter().all(|build| build.status.is_final())
        });
    }

    /// Every build was handed out once, and was reported once in effect, as this. An agent that ended before it heard the
    /// answer may have told it again, and was told that it is known.
    #[track_caller]
    pub fn each_once_as(&self, status: Status) {
        self.look(|history| {
            for build in history.builds() {
                assert_eq!((build.claims, build.status), (1, status), "{build:#?}");
                let (first, later) = build.reports.split_first().unwrap();
                let known = later.iter().all(|answer| *answer == 409);
                assert!(*first == 200 && known, "{build:#?}");
            }
        });
    }
}

impl Serve for Shared {
    fn accepted(&self) {
        let mute = self.change(|history| {
            history.accepted += 1;
            history.mute.clone()
        });
        if let Some(gate) = mute {
            gate.pass();
        }
    }

    fn serve(&self, request: Request, connection: &mut TcpStream) -> Result<GoesOn> {
        let endpoint = routes::endpoint(&request);
        let at = Instant::now();
        let (fault, answer) = self.change(|history| {
            let fault = faults::next(&mut history.faults, endpoint);
            let early = fault.as_ref().is_some_and(Fault::is_before_the_rules);
            let answer = (!early).then(|| routes::answer(&mut history.rules, &request));
            history.exchanges.push(Exchange {
                at,
                endpoint,
                status: answer.as_ref().map(|answer| answer.status),
                request,
            });
            (fault, answer)
        });
        match fault {
            Some(fault) => {
                let (goes_on, taken) = fault.happen(answer.as_ref(), connection);
                self.change(|history| history.huge += taken);
                goes_on
            }
            None => {
                if let Some(answer) = answer {
                    answer.write(connection)?;
                }
                Ok(true)
            }
        }
    }
}
