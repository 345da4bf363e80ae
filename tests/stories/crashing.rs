//! What happens to a job when Bryo itself is killed, or nobody reads what it says.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bryo_stories::{Runtime, World, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stories;

/// Long for a signal on the slowest machine, short for a service that does not answer.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Long for a clean-up without podman, which is asked once.
const CLEANED_UP: Duration = Duration::from_secs(30);

/// What begins later than the program itself ends later by less than this.
const A_LITTLE: Duration = Duration::from_secs(2);

/// Numbers that look random and are the same each time (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn command(world: &World, source: &str, network: &str) -> Command {
    command_with(world, source, network, &[])
}

fn command_with(world: &World, source: &str, network: &str, options: &[&str]) -> Command {
    let mut command = world.command();
    command
        .args([
            "run",
            source,
            "--network",
            network,
            "--runtime",
            world.runtime().word(),
        ])
        .args(["--image", &world.image("busybox.tar"), "--output"])
        .arg(world.site())
        .args(options)
        .args(["--", "sh", "/repo/build.sh"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// After a whole run there is nothing of it, nor of those before it that were killed.
fn the_next_one_leaves_nothing(world: &World) {
    let repository = world.path().join("succeeds");
    let out = command(world, repository.to_str().unwrap(), "none")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() && !said.contains("could not remove"),
        "{said}"
    );
    wait_until("helpers of killed ones have ended", || {
        world.processes_left().is_empty()
    });
    world.nothing_is_left();
}

stories! {
    fn a_killed_bryo_takes_its_job_along(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        going.signal(Signal::SIGKILL);
        going.abandon();
        wait_until("no process of the job is left", || world.processes_left().is_empty());
        // The next attempt removes the rest: directory, cgroup, container.
        let told = world.build("succeeds", &[]);
        told.ended(0, "succeeded");
        assert!(told.err().contains("1 earlier attempts"), "{}", told.err());
    }

    fn killed_at_every_stage_boundary(world) {
        for boundary in ["fetch  ", "prepare  ", "run      ...", "exit code 0", "collect  ", "publish  "] {
            let mut going = world.start_build("succeeds", &[]);
            going.until(boundary);
            going.signal(Signal::SIGKILL);
            going.abandon();
            the_next_one_leaves_nothing(world);
        }
    }

    fn killed_at_two_hundred_random_moments(world) {
        let repository = world.repository("succeeds");
        let source = repository.path().to_str().unwrap();
        // A little longer than a whole run, so that some moments lie after its end.
        let ways = ["none", "isolated"].map(|network| {
            let since = Instant::now();
            assert!(command(world, source, network).status().unwrap().success());
            (network, since.elapsed().as_nanos() * 5 / 4)
        });
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 1..=200 {
            let (network, whole) = ways[round % 2];
            let mut child = command(world, source, network).spawn().unwrap();
            // The moment is the test: nothing is waited for.
            let moment = (u128::from(random.next()) * whole) >> 64;
            std::thread::sleep(Duration::from_nanos(u64::try_from(moment).unwrap()));
            let _ = child.kill();
            child.wait().unwrap();
            if round % 20 == 0 {
                the_next_one_leaves_nothing(world);
            }
        }
    }

    fn what_lost_its_directory_is_found_by_its_mark(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        going.signal(Signal::SIGKILL);
        going.abandon();
        wait_until("no process of the job is left", || world.processes_left().is_empty());
        // As a cleaner of temporary files would. What belongs to other ids stays, and so do cgroup and container.
        for entry in fs::read_dir(world.work()).unwrap().flatten() {
            fs::rename(entry.path(), world.path().join(entry.file_name())).unwrap();
        }
        let told = world.build("succeeds", &[]);
        told.ended(0, "succeeded");
        assert!(told.err().contains("1 earlier attempts"), "{}", told.err());
        for entry in fs::read_dir(world.path()).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("01") && entry.path().is_dir() {
                fs::rename(entry.path(), world.work().join(&name)).unwrap();
            }
        }
        world.build("succeeds", &[]).ended(0, "succeeded");
    }

    fn a_podman_that_hangs_holds_nobody_up(world) {
        if world.runtime() != Runtime::Podman {
            return;
        }
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        let stopped = world.stop_podman();
        going.signal(Signal::SIGINT);
        let told = going.end_whatever_is_left();
        drop(stopped);
        // The job is dead and the verdict is right; what only podman can remove is named, and the next attempt removes it.
        let report = told.report();
        assert_eq!((told.code, &report["verdict"]), (130, &"cancelled".into()), "{}", told.err());
        assert!(report["leftovers"].to_string().contains("container"), "{report:#}");
        assert!(world.processes_left().iter().all(|process| !process.contains("sleep")));
        let told = world.build("succeeds", &[]);
        told.ended(0, "succeeded");
    }

    fn a_podman_that_hangs_keeps_no_signal_back(world) {
        if world.runtime() != Runtime::Podman {
            return;
        }
        let mut going = world.start_build("catches-sigterm", &["--grace", "120s"]);
        going.until("started");
        let stopped = world.stop_podman();
        going.signal(Signal::SIGINT);
        let since = Instant::now();
        wait_until("the job has ended", || world.processes_left().iter().all(|process| !process.contains("build.sh")));
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        // What it said last was on its way through podman.
        drop(stopped);
        let told = going.end();
        told.ended(130, "cancelled");
        assert!(told.err().contains("asked to end"), "{}", told.err());
    }

    fn a_podman_that_hangs_costs_no_grace(world) {
        if world.runtime() != Runtime::Podman {
            return;
        }
        let mut going = world.start_build("catches-sigterm", &["--grace", "120s"]);
        going.until("started");
        let stopped = world.stop_podman();
        going.signal(Signal::SIGINT);
        let since = Instant::now();
        let told = going.end_whatever_is_left();
        assert!(since.elapsed() < CLEANED_UP, "{:?}", since.elapsed());
        drop(stopped);
        let report = told.report();
        assert_eq!((told.code, &report["verdict"]), (130, &"cancelled".into()), "{}", told.err());
        assert!(report["leftovers"].to_string().contains("container"), "{report:#}");
        world.build("succeeds", &[]).ended(0, "succeeded");
    }

    fn a_podman_that_never_answers_is_told(world) {
        if world.runtime() != Runtime::Podman {
            return;
        }
        let socket = world.path().join("silent.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let repository = world.repository("succeeds");
        let mut command = command(world, repository.path().to_str().unwrap(), "none");
        command.env("CONTAINER_HOST", format!("unix://{}", socket.display())).stderr(Stdio::piped());
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(3));
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains("podman") && said.contains("within 10 s"), "{said}");
    }

    fn nobody_reads(world) {
        let repository = world.repository("prints-100-mb");
        let mut command = command_with(world, repository.path().to_str().unwrap(), "none", &["--timeout", "2s"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let since = Instant::now();
        let mut child = command.spawn().unwrap();
        // Its pipes stay open and unread. The time limit holds all the same.
        wait_until("the job and its directory are gone", || {
            world.processes_left().is_empty() && since.elapsed() > Duration::from_secs(2) && world.work_is_empty()
        });
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(!world.site().exists());
    }

    fn who_reads_late_makes_no_job_late(world) {
        let repository = world.repository("prints-many-pieces");
        let limit = Duration::from_secs(8);
        let options = ["--stage-timeout", "run=8s", "--disk", "1g"];
        let mut command = command_with(world, repository.path().to_str().unwrap(), "none", &options);
        command.stdout(Stdio::piped());
        let since = Instant::now();
        let child = command.spawn().unwrap();
        let runs = || world.processes_left().iter().any(|process| process.contains("in a job's cgroup: sh /repo"));
        wait_until("the job runs", runs);
        wait_until("the job has ended", || !runs());
        assert!(since.elapsed() < limit, "it was late indeed: {:?}", since.elapsed());
        wait_until("its time is up", || since.elapsed() > limit + A_LITTLE);
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", out.status);
        assert!(out.stdout.ends_with(b"piece 200\n"));
    }
}
