//! One container of Podman's, from made to gone.
//!
//! ```text
//! create ──> init ──────────> start ────> wait ──> remove
//!            namespaces and   attached    exit     idempotent, right
//!            cgroup exist:    before it   code     from every state
//!            looked at here   runs
//! ```
//!
//! Why `init` and `start` are two steps: in between, ids and cgroup can be looked at while the job's first instruction
//! has not run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::client::PodmanClient;
use super::error::RequestError;
use super::logs::PodmanLogs;
use super::proof::{self, Confinement, Expected, HostConfig};
use super::request::{Answer, Call};
use super::watch::{Refusals, Watch};
use crate::network::{Counters, Traffic};
use crate::{Exit, SandboxError};

/// The network helper is started by this one too.
const STARTING: Duration = Duration::from_secs(60);

/// So long whoever wants to end the job waits for the answer to a start that was asked for.
const LETTING_GO: Duration = Duration::from_secs(3);

/// A signal that comes later than this is of no use.
const SIGNALLING: Duration = Duration::from_secs(5);

/// After the last process is gone, conmon writes the exit code within a millisecond or two. Looks until then: so many,
/// so far apart; after that `wait` is asked.
const LOOKS: [u64; 6] = [0, 1, 2, 4, 8, 16];

/// How often a service that is gone is tried again, and how far apart. One started by its socket comes back at once.
const RECONNECTS: u32 = 5;
const RECONNECT_AFTER: Duration = Duration::from_millis(200);

/// A container that exists.
#[derive(Debug)]
pub(crate) struct PodmanContainer {
    client: PodmanClient,
    pub(super) id: String,
    cgroup_parent: PathBuf,
    expected: Expected,
    ready: Option<Ready>,
    /// A start that was asked for, until it is answered. It goes on when nobody waits for it.
    starting: Option<JoinHandle<Result<Answer, RequestError>>>,
    counters: Option<Counters>,
    traffic: Option<Traffic>,
}

/// What is known of the first process since `init`.
#[derive(Debug)]
struct Ready {
    pid: i32,
    /// The runtime's, until it becomes the job.
    name: String,
    watch: Watch,
    /// For whoever waits for the end alone, while the other waits for what podman says of it.
    end: Arc<Watch>,
    refusals: Option<Refusals>,
    upper: Option<PathBuf>,
    recipe: PathBuf,
}

/// What became of the job's first process before it was let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// It waits for its start.
    Ready {
        /// Its number on the host.
        pid: i32,
    },
    /// It will never run: the job's command, directory or user is not in the image. The text is podman's.
    NotStarted(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: Option<GraphData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GraphData {
    upper_dir: Option<PathBuf>,
}

/// What is asked once, between `init` and `start`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    state: State,
    host_config: HostConfig,
    #[serde(rename = "OCIConfigPath")]
    recipe: PathBuf,
    process_label: String,
    mount_label: String,
    graph_driver: Option<GraphDriver>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    pid: i32,
    exit_code: i32,
}

impl PodmanContainer {
    pub(super) fn new(
        client: PodmanClient,
        id: String,
        cgroup_parent: PathBuf,
        expected: Expected,
    ) -> Self {
        Self {
            client,
            id,
            cgroup_parent,
            expected,
            ready: None,
            starting: None,
            counters: None,
            traffic: None,
        }
    }

    /// Makes its namespaces, mounts, network and cgroup, and checks from `/proc` and from podman's own words that they
    /// are those of the recipe.
    ///
    /// # Errors
    ///
    /// When podman cannot make it, or it is not as confined as it should be; then it must be removed.
    pub(crate) async fn init(&mut self) -> Result<Init, SandboxError> {
        let call = self.post("init").within(STARTING);
        if let Err(error) = self.client.send(call).await {
            return match error.refusal() {
                Some(refusal) if refusal.is_job_at_fault() => {
                    Ok(Init::NotStarted(refusal.message.clone()))
                }
                _ => Err(error.during("prepare the container")),
            };
        }
        let made: Made = self
            .inspect()
            .await
            .map_err(|e| e.during("inspect the container"))?;
        let pid = made.state.pid;
        if pid <= 0 {
            return Err(SandboxError::Podman(
                "the prepared container has no process".to_owned(),
            ));
        }
        let confinement = Confinement {
            host_config: &made.host_config,
            process_label: &made.process_label,
            mount_label: &made.mount_label,
        };
        let cgroup = proof::before_start(pid, &self.cgroup_parent, confinement, &self.expected)?;
        let watch = || Watch::open(&cgroup).map_err(SandboxError::file("watch", &cgroup));
        let (watch, end) = (watch()?, Arc::new(watch()?));
        self.die_whole(&cgroup)?;
        self.ready = Some(Ready {
            pid,
            name: proof::name(pid)?,
            refusals: Refusals::watch(&cgroup, &self.cgroup_parent),
            upper: made
                .graph_driver
                .and_then(|driver| driver.data)
                .and_then(|data| data.upper_dir),
            recipe: made.recipe,
            watch,
            end,
        });
        Ok(Init::Ready { pid })
    }

    /// Half a build is no build: out of memory, the kernel ends all of the container or nothing. That is said of the topmost
    /// cgroup of the container, not of ours above it, in which conmon may be, and podman would not learn the end.
    fn die_whole(&self, cgroup: &Path) -> Result<(), SandboxError> {
        let topmost = cgroup
            .ancestors()
            .find(|dir| dir.parent() == Some(&self.cgroup_parent));
        let Some(file) = topmost.map(|dir| dir.join("memory.oom.group")) else {
            return Ok(());
        };
        // Without the memory controller there is no such file, and no such end.
        if !file.exists() {
            return Ok(());
        }
        fs::write(&file, "1").map_err(SandboxError::file("write", &file))?;
        let read = fs::read_to_string(&file).map_err(SandboxError::file("read", &file))?;
        match read.trim() {
            "1" => Ok(()),
            other => Err(SandboxError::ReadBack {
                limit: "memory",
                wrote: "1".to_owned(),
                read: other.to_owned(),
            }),
        }
    }

    /// Where podman has written down for the runtime how it is made.
    pub(crate) fn recipe(&self) -> Option<&Path> {
        self.ready.as_ref().map(|ready| ready.recipe.as_path())
    }

    /// Checks that file, in a copy: the directory that it is in belongs to the job's ids.
    ///
    /// # Errors
    ///
    /// When it is not the recipe; then the container must be removed.
    pub(crate) fn verify_recipe(&self, copy: &Path) -> Result<(), SandboxError> {
        proof::recipe(copy, &self.expected)
    }

    /// How often it was refused a process, where its own cgroup counts that.
    pub(crate) fn pids_refused(&self) -> Option<u64> {
        let refusals = self.ready.as_ref()?.refusals.as_ref();
        refusals.map(Refusals::count)
    }

    /// Where the storage keeps what the job writes to its root, if it keeps that apart.
    pub(crate) fn upper_layer(&self) -> Option<&Path> {
        self.ready.as_ref()?.upper.as_deref()
    }

    /// Attaches to its output, then lets the job's first process go.
    ///
    /// # Errors
    ///
    /// When podman cannot.
    pub(crate) async fn start(&mut self) -> Result<PodmanLogs, SandboxError> {
        let attach = self.post("attach?stdin=false&stdout=true&stderr=true&stream=true&logs=false");
        let attached = attach.upgrade(self.client.socket()).await;
        let (connection, already) = attached.map_err(|e| e.during("attach to the container"))?;
        let (client, call) = (self.client.clone(), self.post("start").within(STARTING));
        let start = tokio::spawn(async move { client.send(call).await });
        let started = self.starting.insert(start).await;
        self.starting = None;
        started
            .map_err(|e| SandboxError::Podman(format!("it was not asked to start: {e}")))?
            .map_err(|e| e.during("start the container"))?;
        Ok(PodmanLogs::new(connection, &already))
    }

    /// Waits until a start that was asked for is answered.
    ///
    /// Whoever kills the job's first process between the runtime's look at it and its word to it has the runtime wait for
    /// ever, and podman with it, which holds the container's lock.
    pub(crate) async fn settle(&mut self) {
        if let Some(start) = self.starting.take() {
            let _ = tokio::time::timeout(LETTING_GO, start).await;
        }
    }

    /// Checks from `/proc` that the started job has our capabilities and no others, can gain none, and is under a system
    /// call filter. A job that has ended is fine.
    ///
    /// # Errors
    ///
    /// When it is not so; the caller kills it.
    pub(crate) async fn verify_running(&self) -> Result<(), SandboxError> {
        let ready = self.ready()?;
        proof::running(ready.pid, &ready.name, &self.expected).await
    }

    /// Waits for the end of the started job. Safe to drop and to call again.
    ///
    /// # Errors
    ///
    /// When the service goes away while the job runs, since the log stream went through it; when it goes away later and
    /// does not come back within a second; when it does not know the container any more.
    pub(crate) async fn wait(&mut self) -> Result<Exit, SandboxError> {
        let watch = &self.ready()?.watch;
        tokio::select! {
            biased;
            () = watch.emptied() => {}
            // The output went through it, so what is missing cannot be known.
            error = self.service_gone() => {
                return Err(error.during("watch the container, whose log stream is lost"));
            }
        }
        // At once: the device that counts goes with the network program, and that with conmon.
        if let Some(counters) = self.counters.take() {
            self.traffic = counters.read();
        }
        let mut tries = 0;
        loop {
            match self.exit_code().await {
                Ok(code) => return Ok(Exit::Code(code)),
                Err(error) if error.refusal().is_none() && tries < RECONNECTS => tries += 1,
                Err(error) => return Err(error.during("learn how the container ended")),
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    /// Whether no process is left of what was prepared.
    pub(crate) fn has_ended(&self) -> bool {
        self.ready
            .as_ref()
            .is_some_and(|ready| ready.watch.is_empty())
    }

    /// Waits until no process is left of what was prepared.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let end = self.ready.as_ref().map(|ready| Arc::clone(&ready.end));
        async move {
            match end {
                Some(end) => end.emptied().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Has podman send a signal to the job's first process. One that is over is no error.
    ///
    /// The future holds nothing of the container: whoever cannot wait for a service spawns it.
    ///
    /// # Errors
    ///
    /// When podman cannot.
    pub(crate) fn signal(
        &self,
        signal: i32,
    ) -> impl Future<Output = Result<(), SandboxError>> + Send + 'static {
        let call = self
            .post(&format!("kill?signal={signal}"))
            .within(SIGNALLING);
        let client = self.client.clone();
        async move {
            match client.send(call).await {
                Ok(_) => Ok(()),
                Err(e)
                    if e.refusal()
                        .is_some_and(|r| r.is_wrong_state() || r.is_no_such_container()) =>
                {
                    Ok(())
                }
                Err(e) => Err(e.during("signal the container")),
            }
        }
    }

    /// Has the traffic of its network counted with these.
    pub(crate) fn count(&mut self, counters: Counters) {
        self.counters = Some(counters);
    }

    /// What it received and sent so far, where that is counted.
    pub(crate) fn traffic(&self) -> Option<Traffic> {
        let so_far = || self.counters.as_ref()?.read();
        self.traffic.or_else(so_far)
    }

    /// Removes it, running or not. Safe to repeat.
    ///
    /// # Errors
    ///
    /// When podman cannot.
    pub(crate) async fn remove(&mut self) -> Result<(), SandboxError> {
        self.ready = None;
        self.counters = None;
        self.client.remove(&self.id).await
    }

    /// Waits until the service breaks a request that it would answer in an hour. It holds no lock meanwhile.
    async fn service_gone(&self) -> RequestError {
        let call = self.post("wait?condition=stopped&condition=exited&interval=1h");
        match self.client.send(call.for_as_long_as_it_takes()).await {
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    }

    /// The exit code, once it is over.
    ///
    /// Why not `wait` at once: it answers when conmon is gone, which first runs a whole `podman container cleanup`; the
    /// code is known some 50 ms earlier.
    async fn exit_code(&self) -> Result<i32, RequestError> {
        for ms in LOOKS {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let state = self.inspect::<Inspected>().await?.state;
            if matches!(state.status.as_str(), "stopped" | "exited") {
                return Ok(state.exit_code);
            }
        }
        let call = self.post("wait?condition=stopped&condition=exited&interval=20ms");
        self.client
            .send(call.for_as_long_as_it_takes())
            .await?
            .json()
    }

    fn ready(&self) -> Result<&Ready, SandboxError> {
        self.ready
            .as_ref()
            .ok_or_else(|| SandboxError::Podman("the container is not prepared".to_owned()))
    }

    async fn inspect<T: DeserializeOwned>(&self) -> Result<T, RequestError> {
        let call = Call::get(format!("/containers/{}/json", self.id));
        self.client.send(call).await?.json()
    }

    fn post(&self, what: &str) -> Call {
        Call::post(format!("/containers/{}/{what}", self.id))
    }
}
