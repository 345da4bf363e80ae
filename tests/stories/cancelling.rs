//! Ctrl-C in each stage: nothing published, nothing left, 130.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::stories;
use bryo_stories::{Going, HeldStore, Runtime, World, wait_until};

/// A server that accepts and never answers; the attempt is stuck in whatever stage speaks to it.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A job on this runtime, for a host that is told otherwise than by options.
fn job(world: &World, runtime: &str, run: &[&str]) -> Command {
    let repository = world.repository("succeeds");
    let mut command = world.command();
    command
        .args(["run", repository.path().to_str().unwrap(), "--json"])
        .args(["--image", &world.image("busybox.tar"), "--network", "none"])
        .args([
            "--runtime",
            runtime,
            "--output",
            world.site().to_str().unwrap(),
            "--",
        ])
        .args(run);
    command
}

stories! {
    fn in_fetch(world) {
        let (server, address) = silent();
        let going = world.start_script(
            &format!("http://{address}/repository.git"),
            &["--source-protocols", "http", "--source-reach", "127.0.0.1"],
        );
        let connection = server.accept().unwrap();
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage fetch");
        drop(connection);
    }

    fn in_prepare(world) {
        let (server, address) = silent();
        let repository = world.repository("succeeds");
        let image = format!("{address}/some/image:1");
        let mut going = world.start(repository.path().to_str().unwrap(), &["--image", &image, "--plain-http", "--network", "none"]);
        let connection = server.accept().unwrap();
        going.until("fetch ");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage prepare");
        drop(connection);
    }

    fn in_run_politely(world) {
        let mut going = world.start_build("catches-sigterm", &["--grace", "60s"]);
        going.until("started");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        assert!(told.err().contains("asked to end"), "{}", told.err());
        assert!(!world.site().exists());
    }

    fn in_run_politely_where_the_signal_is_blocked(world) {
        // One sleeps until the signal comes, the other looks for it now and then.
        for fixture in ["waits-for-sigterm", "blocks-sigterm"] {
            let repository = world.repository(fixture);
            let image = world.image("mkdocs.tar");
            let mut going = world.start(
                repository.path().to_str().unwrap(),
                &["--image", &image, "--network", "none", "--grace", "60s", "--", "python3", "/repo/build.py"],
            );
            going.until("started");
            going.signal(Signal::SIGINT);
            let told = going.end();
            told.ended(130, "cancelled");
            assert!(told.err().contains("asked to end"), "{fixture}: {}", told.err());
        }
    }

    fn in_run_by_sigterm(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        going.signal(Signal::SIGTERM);
        going.end().ended(130, "cancelled");
    }

    fn twice_kills_at_once(world) {
        let mut going = world.start_build("ignores-sigterm", &["--grace", "1h"]);
        going.until("started");
        going.signal(Signal::SIGINT);
        going.until("ignored");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage run");
    }

    fn in_collect(world) {
        let mut going = world.start_build("fifty-thousand-files", &[]);
        going.until("exit code 0");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage collect");
        assert!(!world.site().exists());
    }

    fn in_publish(world) {
        let mut going = world.start_build("fifty-thousand-files", &[]);
        going.until("50000 files");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        told.because("stage publish");
        assert!(!world.site().exists());
        let beside: Vec<_> = std::fs::read_dir(world.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(beside.iter().all(|n| !n.contains(".bryo")), "{beside:?}");
    }

    fn while_crun_makes_the_container(world) {
        let Some(slow) = SlowCrun::new(world) else { return };
        let going = slow.start(world);
        going.signal(Signal::SIGTERM);
        going.end().ended(130, "cancelled");
        assert!(!slow.is_at_work());
    }

    fn killed_while_crun_makes_the_container(world) {
        let Some(slow) = SlowCrun::new(world) else { return };
        let going = slow.start(world);
        going.signal(Signal::SIGKILL);
        wait_until("crun has ended", || !slow.is_at_work());
        going.abandon();
        // Which removes what is left.
        world.build("succeeds", &[]).ended(0, "succeeded");
    }

    fn while_podman_makes_the_container(world) {
        let Some((store, going)) = while_podman_makes_it(world) else { return };
        going.signal(Signal::SIGTERM);
        std::thread::sleep(PAUSE);
        drop(store);
        going.end().ended(130, "cancelled");
    }

    fn twice_while_podman_makes_the_container(world) {
        let Some((store, going)) = while_podman_makes_it(world) else { return };
        going.signal(Signal::SIGINT);
        std::thread::sleep(PAUSE);
        going.signal(Signal::SIGINT);
        std::thread::sleep(PAUSE);
        drop(store);
        let told = going.end_whatever_is_left();
        let report = told.report();
        assert_eq!((told.code, &report["verdict"]), (130, &"cancelled".into()), "{}", told.err());
        // Whether anything is left only podman knows. If so, it is found by its mark.
        assert!(report["leftovers"].to_string().contains("podman was still making it"), "{report:#}");
        std::thread::sleep(PAUSE);
        world.build("succeeds", &[]).ended(0, "succeeded");
    }

    fn while_podman_starts_the_container(world) {
        let Some(slow) = SlowStart::new(world) else { return };
        let going = slow.start(world);
        going.signal(Signal::SIGTERM);
        let told = going.end();
        told.ended(130, "cancelled");
        slow.has_started();
    }

    fn killed_while_podman_starts_the_container(world) {
        let Some(slow) = SlowStart::new(world) else { return };
        let going = slow.start(world);
        going.signal(Signal::SIGKILL);
        slow.has_started();
        going.abandon();
        // Which removes what is left.
        world.build("succeeds", &[]).ended(0, "succeeded");
    }
}

/// How long podman is kept from making a container that is given up meanwhile. Whoever does not wait for it is gone by then,
/// and once it is let go it needs less.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts a job and waits until podman is making its container, which it goes on with when the store is let go. None where
/// podman is not what is told about.
fn while_podman_makes_it(world: &World) -> Option<(HeldStore, Going<'_>)> {
    if world.runtime() != Runtime::Podman {
        return None;
    }
    // So that nothing else has to be added to the store.
    world.build("succeeds", &[]).ended(0, "succeeded");
    std::fs::remove_dir_all(world.site()).unwrap();
    let store = HeldStore::hold();
    let going = world.start_command(&mut job(world, "podman", &["true"]));
    wait_until("the container is being made", || store.is_waited_for());
    Some((store, going))
}

/// A podman service of its own, whose crun is slow to start what it has made. A job that is ended meanwhile must not be
/// ended in its way: that crun would wait for ever, and podman with it.
struct SlowStart {
    service: Child,
    socket: PathBuf,
    mark: PathBuf,
}

impl SlowStart {
    /// None where podman is not what is told about.
    fn new(world: &World) -> Option<Self> {
        if world.runtime() != Runtime::Podman {
            return None;
        }
        let bin = world.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let crun = bin.join("crun");
        std::fs::copy(env!("CARGO_BIN_EXE_bryo-slow-start"), &crun).unwrap();
        let socket = world.path().join("podman.sock");
        let service = Command::new("podman")
            .arg("--runtime")
            .arg(&crun)
            .args(["system", "service", "-t", "0"])
            .arg(format!("unix://{}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let slow = Self {
            service,
            socket,
            mark: world.path().join("starting"),
        };
        wait_until("the podman service answers", || {
            UnixStream::connect(&slow.socket).is_ok()
        });
        Some(slow)
    }

    /// Starts a job and waits until its container is being started.
    fn start<'a>(&self, world: &'a World) -> Going<'a> {
        let mut command = job(world, "podman", &["sleep", "infinity"]);
        command.env(
            "CONTAINER_HOST",
            format!("unix://{}", self.socket.display()),
        );
        let going = world.start_command(&mut command);
        wait_until("the container is being started", || self.mark.exists());
        going
    }

    #[track_caller]
    fn has_started(&self) {
        wait_until("the start has ended", || !self.mark.exists());
    }
}

impl Drop for SlowStart {
    fn drop(&mut self) {
        // With whatever waits for ever.
        let group = i32::try_from(self.service.id()).unwrap();
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _ = self.service.wait();
    }
}

/// A crun that never comes to its end is found first.
struct SlowCrun {
    bin: PathBuf,
    mark: PathBuf,
}

impl SlowCrun {
    /// None where crun is not what is told about.
    fn new(world: &World) -> Option<Self> {
        if world.runtime() != Runtime::Crun {
            return None;
        }
        let (bin, mark) = (world.path().join("bin"), world.path().join("making"));
        std::fs::create_dir(&bin).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_bryo-slow-crun"), bin.join("crun")).unwrap();
        Some(Self { bin, mark })
    }

    /// Starts a job and waits until its container is being made.
    fn start<'a>(&self, world: &'a World) -> Going<'a> {
        let path = std::env::var("PATH").unwrap();
        let mut command = job(world, "crun", &["true"]);
        command.env("PATH", format!("{}:{path}", self.bin.display()));
        let going = world.start_command(&mut command);
        wait_until("the container is being made", || self.mark.exists());
        going
    }

    fn is_at_work(&self) -> bool {
        let seconds = std::fs::read_to_string(&self.mark).unwrap();
        let sleeps = |entry: std::fs::DirEntry| {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            command == format!("sleep\0{seconds}\0").into_bytes()
        };
        std::fs::read_dir("/proc").unwrap().flatten().any(sleeps)
    }
}
