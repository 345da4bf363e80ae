//! The agent's side: starting the helper, asking it, and programs that run inside its namespace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bryo_model::IdSlot;
use bryo_process::{Program, Running, Stdio};
use tokio::io::BufReader;

use super::connection::{Connection, expect, lost, write};
use super::measure::OnDisk;
use super::nested;
use super::protocol::{Done, Wish};
use super::roles::Role;
use super::worker::Worker;
use crate::{SandboxError, SubordinateIds};

/// Starting the helper takes milliseconds; a host that needs longer than this is not answering.
const START: Duration = Duration::from_secs(20);

/// How a program is started as root of the helper's namespace: append the program and its arguments.
pub type InsideProgram = Program;

/// The helper, seen from the agent. Dropping it ends the helper and lets go of all its namespaces.
#[derive(Debug)]
pub struct UserNamespace {
    pid: i32,
    base: PathBuf,
    // Held for its Drop: it kills the helper.
    _helper: Running,
    connection: Arc<Connection>,
}

impl UserNamespace {
    /// Starts the helper. `keep` are directories that must stay reachable by path inside it.
    ///
    /// # Errors
    ///
    /// When the host refuses user namespaces, or newuidmap or newgidmap refuse the mapping.
    pub async fn start(ids: &SubordinateIds, keep: &[PathBuf]) -> Result<Self, SandboxError> {
        tokio::time::timeout(START, Self::start_unbounded(ids, keep))
            .await
            .unwrap_or_else(|_| Err(SandboxError::Helper("it did not start in time".to_owned())))
    }

    async fn start_unbounded(ids: &SubordinateIds, keep: &[PathBuf]) -> Result<Self, SandboxError> {
        let mut helper = Program::new("/proc/self/exe")
            .arg(Role::Helper.name())
            .args(keep)
            .start(Stdio::Piped)
            .map_err(SandboxError::program("start the user namespace helper"))?;
        let gone = || lost("it has no pipes");
        let pid = helper.id().ok_or_else(gone)?;
        let (stdin, stdout, stderr) = helper.take_pipes();
        let (mut to_helper, stdout) = (stdin.ok_or_else(gone)?, stdout.ok_or_else(gone)?);
        let mut stderr = stderr.ok_or_else(gone)?;
        let mut from_helper = BufReader::new(stdout);
        expect(&mut from_helper, &mut stderr).await?;
        let (uids, gids) = tokio::join!(
            map("newuidmap", pid, ids.uid_map()),
            map("newgidmap", pid, ids.gid_map())
        );
        uids.and(gids)?;
        write(&mut to_helper, b"mapped\n").await?;
        let base = expect(&mut from_helper, &mut stderr).await?;
        Ok(Self {
            pid,
            base: PathBuf::from(base),
            _helper: helper,
            connection: Connection::begin(to_helper, from_helper, stderr),
        })
    }

    /// Whether it can still be asked.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.connection.is_alive()
    }

    /// The program that starts another one as root of the helper's namespaces: in it, id 0 is the agent and the ids of
    /// jobs are as [`IdSlot`] has them. Append the path of a program and its arguments.
    #[must_use]
    pub fn inside(&self) -> InsideProgram {
        Program::new("/proc/self/exe")
            .arg(Role::Inside.name())
            .arg(self.pid.to_string())
    }

    /// The same for a program that must not outlive this process, however that ends, and that has this file as its standard
    /// input. The kernel ends it with the thread that starts it (prctl(2), `PR_SET_PDEATHSIG`), so that must be one that lasts.
    pub(crate) fn inside_bound(&self, input: &Path) -> InsideProgram {
        Program::new("/proc/self/exe")
            .arg(Role::InsideBound.name())
            .arg(self.pid.to_string())
            .arg(input)
    }

    /// The helper's process id.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// The helper's own directory, in its own mount namespace.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Gives a directory to the root of a job with these ids; any user of the job may write to it.
    ///
    /// # Errors
    ///
    /// When the helper is gone or the system refuses.
    pub(crate) async fn give(&self, path: &Path, slot: IdSlot) -> Result<(), SandboxError> {
        self.ask(Wish::Give {
            path: path.to_owned(),
            root: slot.first(),
        })
        .await
    }

    /// Makes a tree that a job wrote the agent's own: readable, writable, removable.
    ///
    /// # Errors
    ///
    /// When the helper is gone or the system refuses.
    pub async fn reclaim(&self, path: &Path) -> Result<(), SandboxError> {
        self.ask(Wish::Reclaim {
            path: path.to_owned(),
        })
        .await
    }

    /// Copies a file into a new one of the agent's, whoever owns it and the directory that it is in. It is small.
    ///
    /// # Errors
    ///
    /// When the helper is gone, there is no such file or one of that name already, or the system refuses.
    pub(crate) async fn copy(&self, from: &Path, to: &Path) -> Result<(), SandboxError> {
        self.ask(Wish::Copy {
            from: from.to_owned(),
            to: to.to_owned(),
        })
        .await
    }

    /// Removes a tree, whoever owns what is in it. A tree that is not there is no error.
    ///
    /// # Errors
    ///
    /// When the helper is gone or the system refuses.
    pub async fn remove(&self, path: &Path) -> Result<(), SandboxError> {
        self.ask(Wish::Remove {
            path: path.to_owned(),
        })
        .await
    }

    /// Has the helper kill everything in this cgroup, should this process die before [`UserNamespace::unguard`].
    /// It does when this has returned: a job must not begin before.
    pub(crate) async fn guard(&self, cgroup: &Path) -> Result<(), SandboxError> {
        self.ask(Wish::Guard {
            cgroup: cgroup.to_owned(),
        })
        .await
    }

    /// Takes it back.
    pub(crate) fn unguard(&self, cgroup: &Path) {
        self.connection.tell(Wish::Unguard {
            cgroup: cgroup.to_owned(),
        });
    }

    /// Makes a user namespace with the ids of this slot, and a network namespace that it owns.
    pub(crate) async fn nest(&self, name: &str, slot: IdSlot) -> Result<Nested, SandboxError> {
        // Before they are there: whoever goes away meanwhile leaves nothing.
        let held = Arc::new(Held {
            name: name.to_owned(),
            connection: Arc::clone(&self.connection),
            let_go: AtomicBool::new(false),
        });
        let wish = Wish::Nest {
            name: name.to_owned(),
            first: slot.first(),
        };
        let Done::Nested { user, net } = self.connection.ask(wish).await? else {
            return Err(lost("it made no namespaces"));
        };
        let path = |fd| PathBuf::from(format!("/proc/{}/fd/{fd}", self.pid));
        Ok(Nested {
            held,
            root: PathBuf::from(format!("/proc/{}/root", self.pid)),
            pid_file: nested::pid_file(&self.base, name),
            user: path(user),
            net: path(net),
        })
    }

    /// Lets go of them, for whoever has them.
    pub(crate) async fn unnest(&self, nested: &Nested) -> Result<(), SandboxError> {
        nested.held.let_go.store(true, Ordering::Relaxed);
        self.ask(Wish::Unnest {
            name: nested.name().to_owned(),
        })
        .await
    }

    /// Adds up what is in these directories, until it is more than `most`, and what these processes hold open there
    /// without a name.
    pub(crate) async fn measure(
        &self,
        dirs: &[PathBuf],
        processes: &[u32],
        most: OnDisk,
    ) -> Result<OnDisk, SandboxError> {
        let wish = Wish::Measure {
            dirs: dirs.to_vec(),
            processes: processes.to_vec(),
            most,
        };
        match self.connection.ask(wish).await? {
            Done::Measured(on_disk) => Ok(on_disk),
            _ => Err(lost("it measured nothing")),
        }
    }

    /// Makes a worker, which waits for its instructions and will start this crun.
    pub(crate) async fn work(&self, crun: &Path) -> Result<Worker, SandboxError> {
        Worker::make(&self.connection, self.pid, crun).await
    }

    /// Waits until the helper has ended, which it does by itself only when something is wrong, and says why.
    pub(crate) async fn ended(&self) -> String {
        self.connection.ended().await
    }

    async fn ask(&self, wish: Wish) -> Result<(), SandboxError> {
        self.connection.ask(wish).await.map(drop)
    }
}

async fn map(program: &'static str, pid: i32, map: Vec<String>) -> Result<(), SandboxError> {
    let args = std::iter::once(pid.to_string())
        .chain(map)
        .map(OsString::from);
    let path = bryo_process::find_program(program).ok_or_else(|| {
        SandboxError::Host(vec![crate::Missing::new(
            format!("{program} is not installed"),
            "install it: apt install uidmap (Debian), dnf install shadow-utils (Fedora)",
        )])
    })?;
    Program::new(path)
        .args(args)
        .finish(b"", 1024, START)
        .await
        .and_then(bryo_process::Finished::success)
        .map(drop)
        .map_err(SandboxError::program("map the user's subordinate ids"))
}

/// The namespaces of one attempt, by name. Dropping the last clone lets go of them.
#[derive(Clone, Debug)]
pub(crate) struct Nested {
    held: Arc<Held>,
    root: PathBuf,
    pid_file: PathBuf,
    user: PathBuf,
    net: PathBuf,
}

#[derive(Debug)]
struct Held {
    name: String,
    connection: Arc<Connection>,
    let_go: AtomicBool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.let_go.load(Ordering::Relaxed) {
            self.connection.tell(Wish::Unnest {
                name: std::mem::take(&mut self.name),
            });
        }
    }
}

impl Nested {
    /// Their name.
    pub(crate) fn name(&self) -> &str {
        &self.held.name
    }

    /// The user namespace, as a path on the host and in the helper's mount namespace.
    pub(crate) fn user(&self) -> &Path {
        &self.user
    }

    /// The network namespace, as such a path.
    pub(crate) fn net(&self) -> &Path {
        &self.net
    }

    /// Where a program of these namespaces can write its process id, as a path in the helper's mount namespace; it goes with
    /// them.
    pub(crate) fn pid_file(&self) -> &Path {
        &self.pid_file
    }

    /// The same path as the host sees it.
    pub(crate) fn on_host(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A helper that answers nothing and writes down what it is asked.
    fn deaf(heard: &Path) -> UserNamespace {
        let mut helper = Program::new("tee").arg(heard).start(Stdio::Piped).unwrap();
        let (stdin, stdout, stderr) = helper.take_pipes();
        UserNamespace {
            pid: helper.id().unwrap(),
            base: PathBuf::from("/mnt"),
            _helper: helper,
            connection: Connection::begin(
                stdin.unwrap(),
                BufReader::new(stdout.unwrap()),
                stderr.unwrap(),
            ),
        }
    }

    #[tokio::test]
    async fn who_goes_away_has_let_go_of_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let heard = dir.path().join("heard");
        let userns = deaf(&heard);
        let soon = Duration::from_millis(1);
        let nested = tokio::time::timeout(soon, userns.nest("one", IdSlot::SHARED)).await;
        let worker = tokio::time::timeout(soon, userns.work(Path::new("/crun"))).await;
        assert!(nested.is_err() && worker.is_err());
        let wishes = [
            r#""Nest":{"name":"one""#,
            r#""Unnest":{"name":"one"}"#,
            r#""Work":{"crun":"/crun"}"#,
            r#""Kill":{"worker":2,"cgroup":null}"#,
        ];
        let told = async {
            loop {
                let heard = fs::read_to_string(&heard).unwrap_or_default();
                if wishes.iter().all(|wish| heard.contains(wish)) {
                    return;
                }
                tokio::time::sleep(soon).await;
            }
        };
        tokio::time::timeout(START, told).await.unwrap();
    }
}
