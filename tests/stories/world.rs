//! The world of one story.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Bucket, DocThor, Recipe, Repository, Told, look};

/// No story needs longer, on the slowest machine; a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long what was killed may take to be gone.
const DYING: Duration = Duration::from_secs(2);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Which runtime a story is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// `--runtime crun`
    Crun,
    /// `--runtime podman`
    Podman,
}

impl Runtime {
    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Podman => "podman",
        }
    }
}

/// One story at a time: each looks at the whole host afterwards.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A temporary home with everything in it that a story needs.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    runtime: Runtime,
    bryo: PathBuf,
    images: PathBuf,
    cache: PathBuf,
    work: Option<PathBuf>,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    /// A new world, if this is a rootless host with the bed's parts.
    #[must_use]
    pub fn new(runtime: Runtime) -> Option<Self> {
        let wanted = ["BRYO_BIN", "BRYO_TEST_IMAGES", "BRYO_TEST_CACHE"];
        let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (Some(bryo), Some(images)) = (var(wanted[0]), var(wanted[1])) else {
            eprintln!("SKIPPED: this story needs the test bed (make test): {wanted:?} are not set");
            return None;
        };
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new()
            .prefix("bryo-story-")
            .tempdir()
            .unwrap();
        // Images are unpacked once for all stories: what is tested here is not the unpacking.
        let cache = var(wanted[2]).unwrap_or_else(|| dir.path().join("cache"));
        Some(Self {
            runtime,
            bryo,
            images,
            cache,
            work: None,
            dir,
            _alone: alone,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The runtime it is told to.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// Where the result goes.
    #[must_use]
    pub fn site(&self) -> PathBuf {
        self.path().join("site")
    }

    /// The work directory of attempts, of this story alone.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.work
            .clone()
            .unwrap_or_else(|| self.path().join("work"))
    }

    /// Takes another work directory.
    pub fn set_work(&mut self, dir: PathBuf) {
        self.work = Some(dir);
    }

    /// Takes a cache of this story alone.
    pub fn own_cache(&mut self) -> &Path {
        self.cache = self.path().join("cache");
        &self.cache
    }

    /// The name of one of the bed's images.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("oci-archive:{}", self.images.join(name).display())
    }

    /// A repository made of a fixture project.
    #[must_use]
    pub fn repository(&self, fixture: &str) -> Repository {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(fixture);
        Repository::from_fixture(self.path().join(fixture), &from)
    }

    /// Runs a fixture project's `build.sh` in busybox, with a report and without network, and lets it end.
    pub fn build(&self, fixture: &str, options: &[&str]) -> Told {
        self.start_build(fixture, options).end()
    }

    /// The same, and does not wait.
    #[must_use]
    pub fn start_build(&self, fixture: &str, options: &[&str]) -> Going<'_> {
        let repository = self.repository(fixture);
        let source = repository.path().to_str().unwrap().to_owned();
        self.start_script(&source, options)
    }

    /// Runs `build.sh` of any source.
    #[must_use]
    pub fn start_script(&self, source: &str, options: &[&str]) -> Going<'_> {
        let image = self.image("busybox.tar");
        let mut args = vec!["--image", &image, "--network", "none"];
        args.extend(options);
        args.extend(["--", "sh", "/repo/build.sh"]);
        self.start(source, &args)
    }

    /// Runs `bryo run SOURCE` with these arguments and lets it end.
    pub fn run(&self, source: &str, args: &[&str]) -> Told {
        self.start(source, args).end()
    }

    /// Starts `bryo run SOURCE` with these arguments, a report, and this world's directories.
    #[must_use]
    pub fn start(&self, source: &str, args: &[&str]) -> Going<'_> {
        let mut command = self.command();
        command
            .args(["run", source, "--json", "--runtime", self.runtime.word()])
            .arg("--output")
            .arg(self.site())
            .args(args);
        Going::start(self, &mut command)
    }

    /// The program itself, in this world's environment.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.bryo);
        command
            .current_dir(self.path())
            .env("BRYO_CACHE_DIR", &self.cache)
            .env("BRYO_WORK_DIR", self.work())
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }

    /// Starts any command of the program.
    #[must_use]
    pub fn start_command(&self, command: &mut Command) -> Going<'_> {
        Going::start(self, command)
    }

    /// What an agent of this name is started with: one feed, one bucket, this world's directories.
    #[must_use]
    pub fn agent(&self, name: &str, server: &DocThor, bucket: &Bucket) -> Recipe<'_> {
        Recipe::new(self, name, server, bucket)
    }

    /// Stops every podman service of this user until the guard is dropped.
    #[must_use]
    pub fn stop_podman(&self) -> Stopped {
        let of_podman = |_: &str, command: &str| {
            command.contains("podman") && command.contains("system service")
        };
        let all = look::processes_that(of_podman);
        assert!(!all.is_empty(), "no podman service runs");
        for pid in &all {
            kill(*pid, Signal::SIGSTOP).unwrap();
        }
        Stopped(all)
    }

    /// Processes of jobs and of their helpers that live.
    #[must_use]
    pub fn processes_left(&self) -> Vec<String> {
        look::processes_of_jobs(self.path())
    }

    /// Whether the work directory has nothing of an attempt.
    #[must_use]
    pub fn work_is_empty(&self) -> bool {
        std::fs::read_dir(self.work()).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Looks for everything that a job could leave behind.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        // A process that was killed needs a processor to die on.
        let since = Instant::now();
        let mut found = look::around(self.path(), &self.work());
        while !found.is_empty() && since.elapsed() < DYING {
            std::thread::sleep(LOOK);
            found = look::around(self.path(), &self.work());
        }
        assert!(found.is_empty(), "left behind: {found:#?}");
    }
}

/// Processes that are stopped, and go on when it is dropped.
#[derive(Debug)]
pub struct Stopped(Vec<Pid>);

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// A run that goes on.
#[derive(Debug)]
pub struct Going<'a> {
    world: &'a World,
    child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
    since: Instant,
}

impl<'a> Going<'a> {
    fn start(world: &'a World, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bryo starts");
        let stdout = follow(child.stdout.take().unwrap());
        let stderr = follow(child.stderr.take().unwrap());
        Self {
            world,
            child,
            stdout,
            stderr,
            seen: Vec::new(),
            since: Instant::now(),
        }
    }

    /// Waits until standard error contains these words.
    #[track_caller]
    pub fn until(&mut self, words: &str) {
        while !String::from_utf8_lossy(&self.seen).contains(words) {
            let left = PATIENCE.saturating_sub(self.since.elapsed());
            match self.stderr.recv_timeout(left) {
                Ok(piece) => self.seen.extend(piece),
                Err(_) => panic!(
                    "{words:?} never came:\n{}",
                    String::from_utf8_lossy(&self.seen)
                ),
            }
        }
    }

    /// The program's process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that the program has started and whose command line has this word.
    #[must_use]
    pub fn children(&self, word: &str) -> Vec<Pid> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        look::processes_that(|status, command| status.contains(&parent) && command.contains(word))
    }

    /// Whether the program has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        !stat
            .rsplit(") ")
            .next()
            .is_none_or(|state| state.starts_with('Z'))
    }

    /// Sends a signal to the program itself, as a shell's Ctrl-C would.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Forgets about a run that was killed.
    pub fn abandon(mut self) {
        self.child.wait().unwrap();
    }

    /// Waits for its end, and looks around.
    #[track_caller]
    pub fn end(self) -> Told {
        let world = self.world;
        let told = self.end_whatever_is_left();
        world.nothing_is_left();
        told
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end_whatever_is_left(mut self) -> Told {
        let mut stdout = Vec::new();
        let mut open = true;
        while open {
            assert!(
                self.since.elapsed() < PATIENCE,
                "it did not end:\n{}",
                String::from_utf8_lossy(&self.seen)
            );
            open = drain(&self.stderr, &mut self.seen) | drain(&self.stdout, &mut stdout);
        }
        let status = self.child.wait().unwrap();
        Told {
            code: status.code().unwrap_or(-1),
            stdout,
            stderr: std::mem::take(&mut self.seen),
        }
    }
}

impl Drop for Going<'_> {
    /// A story that fails leaves nothing that runs for ever.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes what is there. Returns whether more can come.
fn drain(from: &mpsc::Receiver<Vec<u8>>, into: &mut Vec<u8>) -> bool {
    match from.recv_timeout(LOOK) {
        Ok(piece) => {
            into.extend(piece);
            into.extend(from.try_iter().flatten());
            true
        }
        Err(mpsc::RecvTimeoutError::Timeout) => true,
        Err(mpsc::RecvTimeoutError::Disconnected) => false,
    }
}

fn follow(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(n) = pipe.read(&mut piece) {
            if n == 0 || sender.send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Waits until the condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(LOOK);
    }
}
