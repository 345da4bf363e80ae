//! Bounds on time and disk, and ends that are told apart.

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bryo_stories::{Runtime, World, wait_until};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stories;

/// The cgroup of the one job that runs.
fn cgroup_of_job() -> PathBuf {
    let top = std::env::var("BRYO_TEST_CGROUP").unwrap_or_else(|_| {
        let uid = nix::unistd::Uid::effective();
        format!("/sys/fs/cgroup/user.slice/user-{uid}.slice")
    });
    let mut stack = vec![PathBuf::from(top)];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().replace('_', "-");
            if name.starts_with("bryo-01") {
                return entry.path();
            }
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                stack.push(entry.path());
            }
        }
    }
    panic!("no job's cgroup");
}

/// The processes beneath a cgroup that are the first of a pid namespace within another.
fn first_process(cgroup: &Path) -> Pid {
    let mut stack = vec![cgroup.to_owned()];
    while let Some(dir) = stack.pop() {
        for pid in fs::read_to_string(dir.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status
                .lines()
                .find_map(|l| l.strip_prefix("NSpid:"))
                .unwrap_or_default();
            if numbers.split_whitespace().next_back() == Some("1") {
                return Pid::from_raw(pid.parse().unwrap());
            }
        }
        stack.extend(
            fs::read_dir(&dir)
                .unwrap()
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.is_dir()),
        );
    }
    panic!("no first process in {}", cgroup.display());
}

fn writes(world: &World, at: &str, mib: u32) -> bryo_stories::Told {
    world.build(
        "writes-too-much",
        &[
            "--disk",
            "20m",
            "--env",
            &format!("WHERE={at}"),
            "--env",
            &format!("MIB={mib}"),
        ],
    )
}

fn too_much(world: &World, at: &str) {
    let told = writes(world, at, 2000);
    let report = told.ended(1, "disk_limit");
    assert_eq!(report["limit_reached"], "disk");
    assert_eq!(report["exit_code"], serde_json::Value::Null);
    let peak = report["resources"]["disk_peak_bytes"].as_u64().unwrap();
    assert!(peak > 20 << 20, "{peak}");
    told.because("more on disk");
    assert!(!world.site().exists());
}

/// The numbers of each child, outermost namespace first (proc(5), `NSpid`).
fn namespaced_children_of(parent: Pid) -> Vec<String> {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let numbers = |pid: &str| {
        let status = read(format!("/proc/{pid}/status"));
        let line = status.lines().find(|line| line.starts_with("NSpid:"));
        line.unwrap_or_default().to_owned()
    };
    read(format!("/proc/{parent}/task/{parent}/children"))
        .split_whitespace()
        .map(numbers)
        .collect()
}

stories! {
    fn a_signal_is_told_from_an_exit_code(world) {
        let told = world.build("uses-up-its-cpu-time", &[]);
        let report = told.ended(1, "failed");
        match world.runtime() {
            Runtime::Crun => {
                assert_eq!((&report["signal"], &report["exit_code"]), (&9.into(), &serde_json::Value::Null));
                told.because("signal 9 (SIGKILL)");
            }
            // Podman says 128 + 9, and nobody but its own monitor can know better.
            Runtime::Podman => assert_eq!(report["exit_code"], 137),
        }
        let report = world.build("exits-137", &[]).ended(1, "failed");
        assert_eq!((&report["signal"], &report["exit_code"]), (&serde_json::Value::Null, &137.into()));
    }

    fn silence_is_bounded(world) {
        let told = world.build("says-nothing", &["--silence", "1s"]);
        let report = told.ended(1, "timed_out");
        assert_eq!(report["limit_reached"], "silence");
        assert_eq!(report["limits"]["silence_s"], 1.0);
        told.because("wrote nothing");
        world.build("closes-its-output", &["--silence", "1s"]).ended(1, "timed_out");
        let told = world.build("talks-on", &["--silence", "3s"]);
        told.ended(0, "succeeded");
    }

    fn a_stage_is_bounded(world) {
        let told = world.build("never-ends", &["--stage-timeout", "run=1s"]);
        let report = told.ended(1, "timed_out");
        assert_eq!(report["limit_reached"], "stage_timeout");
        assert_eq!(report["limits"]["stage_timeouts_s"], serde_json::json!({"run": 1.0}));
        told.because("stage run took longer");
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/r.git", server.local_addr().unwrap());
        let told = world.start_script(&address, &["--stage-timeout", "fetch=1s", "--source-protocols", "http", "--source-reach", "127.0.0.1"]).end();
        assert_eq!(told.ended(1, "timed_out")["limit_reached"], "stage_timeout");
        told.because("stage fetch");
    }

    fn no_job_gets_more_than_the_host_allows(world) {
        let told = world.build("never-ends", &["--timeout", "1h", "--at-most", "timeout=1s,grace=1s"]);
        let report = told.ended(1, "timed_out");
        assert_eq!(report["limits"]["timeout_s"], 1.0);
        assert!(told.err().contains("lowered to what this host allows at most: timeout"), "{}", told.err());
    }

    fn the_polite_signal_can_be_chosen(world) {
        let mut going = world.start_build("ends-at-sigusr1", &["--stop-signal", "USR1", "--grace", "60s"]);
        going.until("started");
        going.signal(Signal::SIGINT);
        let told = going.end();
        told.ended(130, "cancelled");
        assert!(told.err().contains("got it"), "{}", told.err());
    }

    fn a_frozen_job_is_killed_all_the_same(world) {
        let mut going = world.start_build("catches-sigterm", &["--grace", "1s"]);
        going.until("started");
        fs::write(cgroup_of_job().join("cgroup.freeze"), "1").unwrap();
        going.signal(Signal::SIGINT);
        going.end().ended(130, "cancelled");
    }

    fn a_stopped_job_is_killed_all_the_same(world) {
        let mut going = world.start_build("catches-sigterm", &["--grace", "1s"]);
        going.until("started");
        let first = first_process(&cgroup_of_job());
        kill(first, Signal::SIGSTOP).unwrap();
        going.signal(Signal::SIGINT);
        going.end().ended(130, "cancelled");
    }

    fn too_much_in_the_output(world) {
        too_much(world, "/output");
    }

    fn too_much_in_tmp(world) {
        too_much(world, "/tmp/a/b");
    }

    fn too_much_beside_everything(world) {
        too_much(world, "/var/lib/x");
    }

    fn too_much_without_a_name(world) {
        too_much(world, "nameless");
    }

    fn as_much_as_it_may(world) {
        let report = writes(world, "/tmp", 15).ended(0, "succeeded");
        assert_eq!(report["limits"]["disk"], 20 << 20);
        let peak = report["resources"]["disk_peak_bytes"].as_u64().unwrap();
        assert!((15 << 20..20 << 20).contains(&peak), "{peak}");
    }

    fn too_many_files(world) {
        let report = world.build("makes-many-files", &["--disk-files", "1000"]).ended(1, "disk_limit");
        assert_eq!(report["limit_reached"], "disk_files");
        let report = world.build("makes-many-files", &["--disk-files", "1000", "--env", "FILES=900"]).ended(0, "succeeded");
        assert!(report["resources"]["disk_peak_files"].as_u64().unwrap() >= 900, "{report:#}");
    }

    fn a_result_that_is_too_large(world) {
        let report = world.build("makes-many-files", &["--max-output-files", "100", "--env", "FILES=200"]).ended(1, "failed");
        assert_eq!(report["limits"]["output_files"], 100);
        let options = ["--max-output", "1m", "--env", "WHERE=/output", "--env", "MIB=2"];
        let told = world.build("writes-too-much", &options);
        told.ended(1, "failed");
        assert!(!world.site().exists());
    }

    fn a_job_costs_no_process_but_its_own(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        let [helper] = going.children("__helper")[..] else {
            panic!("one helper is wanted");
        };
        let has_leases = fs::read_to_string("/proc/sys/fs/leases-enable").is_ok_and(|on| on.trim() == "1");
        let has_labels = Path::new("/sys/fs/selinux/enforce").exists();
        if world.runtime() == Runtime::Crun && has_leases && !has_labels {
            // crun may still be about to end.
            wait_until("the job's first process is the helper's only child", || {
                let namespaced = namespaced_children_of(helper);
                namespaced.len() == 1 && namespaced[0].ends_with("\t1")
            });
        }
        going.signal(Signal::SIGTERM);
        going.end().ended(130, "cancelled");
    }

    fn who_looks_into_the_helper_changes_no_verdict(world) {
        for _ in 0..5 {
            let going = world.start_build("exits-3", &[]);
            let mut looks = 0;
            while going.is_running() {
                let helpers = going.children("__helper");
                let files = helpers.iter().map(|helper| PathBuf::from(format!("/proc/{helper}/fd")));
                for file in files.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
                    let at_once = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file.path());
                    looks += u32::from(at_once.is_ok() || world.runtime() == Runtime::Podman);
                }
            }
            assert!(looks > 0, "nothing was looked at");
            let report = going.end().ended(1, "failed");
            assert_eq!(report["exit_code"], 3);
        }
    }

    fn the_helper_is_killed(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        let [helper] = going.children("__helper")[..] else {
            panic!("one helper is wanted");
        };
        kill(helper, Signal::SIGKILL).unwrap();
        let told = going.end();
        told.ended(3, "infrastructure");
        told.because("user namespace helper");
        wait_until("nothing of the job runs", || world.processes_left().is_empty());
        world.build("succeeds", &[]).ended(0, "succeeded");
    }
}
