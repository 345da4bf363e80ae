//! What happens to a job when Bryo itself is killed, or nobody reads what it says.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bryo_stories::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stories;

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

    fn nobody_reads(world) {
        let repository = world.repository("prints-100-mb");
        let image = world.image("busybox.tar");
        let mut command = world.command();
        command
            .args(["run", repository.path().to_str().unwrap(), "--network", "none", "--timeout", "2s"])
            .args(["--runtime", world.runtime().word(), "--image", &image, "--output"])
            .arg(world.site())
            .args(["--", "sh", "/repo/build.sh"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
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
}
