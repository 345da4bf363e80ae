//! Agents of a story: the real program, its configuration, and what can be seen of it from outside.
//!
//! A [`Recipe`] is what an agent is started with; [`Agent`] is one that lives. Whatever a story waits for is a condition: the
//! word of the service manager's socket, a line of the log, the answer of the control socket. An agent that a story lets go
//! of is killed, so that a story that fails leaves none behind.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Bucket, DocThor, TOKEN, Told, World, look, wait_until};

/// No story waits longer for an agent.
const PATIENCE: Duration = Duration::from_secs(120);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Recipe<'a> {
    world: &'a World,
    name: String,
    keys: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
}

impl<'a> Recipe<'a> {
    pub(crate) fn new(world: &'a World, name: &str, server: &DocThor, bucket: &Bucket) -> Self {
        let recipe = Self {
            world,
            name: name.to_owned(),
            keys: BTreeMap::new(),
            environment: Vec::new(),
        };
        let state = world.path().join(name);
        recipe
            .text("agent.state", &state.display().to_string())
            .text("agent.log", "debug")
            .text("feed.docs.type", "doc-thor")
            .text("feed.docs.server", &server.url())
            .text("feed.docs.token", TOKEN)
            .text("feed.docs.poll", "100ms")
            .text("s3.endpoint", &bucket.endpoint())
            .text("s3.bucket", Bucket::NAME)
            .text("s3.access-key", Bucket::ACCESS_KEY)
            .text("s3.secret-key", Bucket::SECRET_KEY)
            .text("host.runtime", world.runtime().word())
            .text("jobs.network", "none")
            .set("jobs.local-sources", "true")
            .text("jobs.images.busybox", &world.image("busybox.tar"))
            .text("jobs.images.mkdocs", &world.image("mkdocs.tar"))
            // The bed's file systems may be small.
            .text("watermarks.free-bytes", "1m")
            .set("watermarks.free-inodes", "10")
    }

    /// Sets a key of the configuration to a value in TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key of the configuration to a text.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Self {
        // A basic string of TOML has the escapes of JSON.
        let quoted = Value::from(value).to_string();
        self.set(key, &quoted)
    }

    /// Removes a key of the configuration.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.keys.remove(key);
        self
    }

    /// Sets a variable of the agent's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Publishes there instead of in the story's own bucket.
    #[must_use]
    pub fn s3(self, endpoint: &str, bucket: &str, [access, secret]: [&str; 2]) -> Self {
        self.text("s3.endpoint", endpoint)
            .text("s3.bucket", bucket)
            .text("s3.access-key", access)
            .text("s3.secret-key", secret)
    }

    /// The file with the configuration.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.world.path().join(format!("{}.toml", self.name))
    }

    /// Writes the configuration.
    pub fn write(&self) {
        let text: String = self
            .keys
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.file()).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    /// A command of the program about this agent, for instance `["agent", "status"]`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.world.command();
        command
            .args(words)
            .arg("--config")
            .arg(self.file())
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Runs such a command to its end.
    pub fn ask(&self, words: &[&str]) -> Told {
        let out = self.command(words).stdin(Stdio::null()).output().unwrap();
        Told {
            code: out.status.code().unwrap_or(-1),
            stdout: out.stdout,
            stderr: out.stderr,
        }
    }

    /// What `status` says.
    #[must_use]
    pub fn status(&self) -> Value {
        let told = self.ask(&["agent", "status", "--json"]);
        assert_eq!(told.code, 0, "{}", told.err());
        told.report()
    }

    /// Starts the agent, and waits until it is ready.
    #[must_use]
    #[track_caller]
    pub fn start(&self) -> Agent<'a> {
        let mut agent = self.launch(&["agent"]);
        agent.until_notified("READY=1");
        agent
    }

    /// Starts the agent for one job.
    #[must_use]
    pub fn once(&self) -> Agent<'a> {
        self.launch(&["agent", "--once"])
    }

    /// Starts the agent with these words, and does not wait.
    #[must_use]
    pub fn launch(&self, words: &[&str]) -> Agent<'a> {
        self.write();
        Agent::start(self.world, self, self.command(words))
    }
}

/// Text that grows, and can be waited for.
#[derive(Clone, Debug, Default)]
struct Growing(Arc<(Mutex<Text>, Condvar)>);

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    over: bool,
}

impl Growing {
    fn push(&self, piece: &[u8]) {
        let mut text = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.bytes.extend_from_slice(piece);
        self.0.1.notify_all();
    }

    fn end(&self) {
        let mut text = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.over = true;
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        let text = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text.bytes).into_owned()
    }

    /// Whether the words are there before it ends, or before patience does.
    fn until(&self, words: &str) -> bool {
        let since = Instant::now();
        let mut text = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if String::from_utf8_lossy(&text.bytes).contains(words) {
                return true;
            }
            let left = PATIENCE.saturating_sub(since.elapsed());
            if text.over || left.is_zero() {
                return false;
            }
            let waited = self.0.1.wait_timeout(text, left);
            text = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_for_end(&self) -> bool {
        let text = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(text, PATIENCE, |t| !t.over);
        waited.unwrap_or_else(PoisonError::into_inner).0.over
    }
}

/// An agent that lives.
#[derive(Debug)]
pub struct Agent<'a> {
    world: &'a World,
    recipe: Recipe<'a>,
    child: Child,
    log: Growing,
    notified: Growing,
}

impl<'a> Agent<'a> {
    fn start(world: &'a World, recipe: &Recipe<'a>, mut command: Command) -> Self {
        let notify = world.path().join(format!("{}.notify", recipe.name));
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        let mut child = command
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bryo starts");
        let (log, notified) = (Growing::default(), Growing::default());
        let mut pipe = child.stderr.take().unwrap();
        let to = log.clone();
        std::thread::spawn(move || {
            let mut piece = vec![0; 1 << 16];
            while let Ok(n @ 1..) = pipe.read(&mut piece) {
                to.push(&piece[..n]);
            }
            to.end();
        });
        // A queue of the kernel's for datagrams is short, and who writes into a full one waits.
        let to = notified.clone();
        std::thread::spawn(move || {
            let mut piece = vec![0; 1 << 12];
            while let Ok(n) = socket.recv(&mut piece) {
                to.push(&piece[..n]);
                to.push(b"\n");
                if &piece[..n] == END_OF_STORY {
                    return;
                }
            }
        });
        Self {
            world,
            recipe: recipe.clone(),
            child,
            log,
            notified,
        }
    }

    /// What it is started with.
    #[must_use]
    pub const fn recipe(&self) -> &Recipe<'a> {
        &self.recipe
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until it has logged these words.
    #[track_caller]
    pub fn until(&self, words: &str) {
        assert!(
            self.log.until(words),
            "{words:?} never came:\n{}",
            self.log()
        );
    }

    /// Waits until it has told its service manager these words.
    #[track_caller]
    pub fn until_notified(&mut self, words: &str) {
        let since = Instant::now();
        // One that ends does not tell any more.
        while !self.notified.text().contains(words) {
            assert!(
                since.elapsed() < PATIENCE,
                "{words:?} was never told:\n{}",
                self.log()
            );
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() || self.notified.text().contains(words),
                "{words:?} was never told, it ended ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What `status` says.
    #[must_use]
    pub fn status(&self) -> Value {
        self.recipe.status()
    }

    /// Waits until something of its status is so.
    #[track_caller]
    pub fn until_status(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) {
        let mut last = Value::Null;
        let since = Instant::now();
        while !condition(&last) {
            assert!(
                since.elapsed() < PATIENCE,
                "never: {what}\n{last:#}\n{}",
                self.log()
            );
            last = self.status();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap();
    }

    /// Kills it where it stands.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log.wait_for_end();
        self.log()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(mut self) -> (ExitStatus, String) {
        assert!(self.log.wait_for_end(), "it did not end:\n{}", self.log());
        let status = self.child.wait().unwrap();
        (status, self.log())
    }

    /// Asks it to end as a service manager does, and looks around when it has.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        let world = self.world;
        let (status, log) = self.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        world.nothing_is_left();
        log
    }

    /// Every place where this text can be read by somebody who should not have it: its log, the command lines of all
    /// processes, the environments of those that it has started.
    #[must_use]
    pub fn shows(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for words in [
            &["agent", "status", "--json"][..],
            &["agent", "jobs", "--json"],
            &["config", "show"],
        ] {
            let told = self.recipe.ask(words);
            if told.out().contains(text) || told.err().contains(text) {
                found.push(words.join(" "));
            }
        }
        if self.log().contains(text) {
            found.push("the log".to_owned());
        }
        if self.notified.text().contains(text) {
            found.push("the service manager".to_owned());
        }
        found.extend(look::shown_in_processes(self.id(), text));
        found
    }
}

/// Ends the thread that listens for an agent's word to its service manager.
const END_OF_STORY: &[u8] = b"X_END_OF_STORY=1";

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let notify = self
            .world
            .path()
            .join(format!("{}.notify", self.recipe.name));
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.send_to(END_OF_STORY, notify);
        }
        if std::thread::panicking() {
            eprintln!("--- log of agent {}:\n{}", self.recipe.name, self.log());
        }
    }
}

/// Waits until everything of an agent that was killed has ended with it.
#[track_caller]
pub fn until_its_processes_are_gone(world: &World) {
    wait_until("no process of a killed agent is left", || {
        world.processes_left().is_empty()
    });
}
