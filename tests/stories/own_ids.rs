//! Jobs with subordinate ids that no other job has at the same time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use bryo_stories::{Going, World, wait_until};
use nix::sys::signal::Signal;

use crate::stories;

/// How many ids each job has.
const IDS: u32 = 65_536;

/// Ranges of the host's ids: the first and the one after the last.
type Ranges = Vec<(u32, u32)>;

/// What the kernel tells of the first process of a job.
#[derive(Debug)]
struct Job {
    /// Its attempt's directory.
    name: String,
    /// Real, effective, saved and file system uid, on the host.
    uid: Vec<u32>,
    uids: Ranges,
    gids: Ranges,
}

/// All jobs that run a `build.sh`, by their names: these ascend with the time of their start.
fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let cgroup = read("cgroup").replace('_', "-");
        let name = cgroup
            .split('/')
            .find_map(|part| part.strip_prefix("bryo-01"));
        if read("cmdline") != "sh\0/repo/build.sh\0" {
            continue;
        }
        let Some(name) = name else { continue };
        let status = read("status");
        // What it has just forked has the same command line.
        let number = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
        if number.and_then(|n| n.split_whitespace().next_back()) != Some("1") {
            continue;
        }
        let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
        jobs.push(Job {
            name: format!("01{}", name.trim_end_matches(".slice").to_uppercase()),
            uid: uid.split_whitespace().map(|n| n.parse().unwrap()).collect(),
            uids: ranges(&read("uid_map")),
            gids: ranges(&read("gid_map")),
        });
    }
    jobs.sort_by(|a, b| a.name.cmp(&b.name));
    jobs
}

fn ranges(map: &str) -> Ranges {
    let numbers = |line: &str| -> Vec<u32> {
        line.split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect()
    };
    map.lines()
        .map(numbers)
        .map(|n| (n[1], n[1] + n[2]))
        .collect()
}

fn have(ranges: &Ranges, id: u32) -> bool {
    ranges
        .iter()
        .any(|(first, end)| (*first..*end).contains(&id))
}

fn overlap(one: &Ranges, other: &Ranges) -> bool {
    one.iter()
        .any(|a| other.iter().any(|b| a.0 < b.1 && b.0 < a.1))
}

/// Whether the user of this host has ids for so many jobs; the bed's user has them for three.
pub(crate) fn enough_for(jobs: u32) -> bool {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective())
        .unwrap()
        .unwrap();
    let text = fs::read_to_string("/etc/subuid").unwrap();
    let counts = text.lines().filter_map(|line| {
        line.strip_prefix(&format!("{}:", user.name))?
            .split(':')
            .nth(1)
    });
    let ids: u32 = counts.map(|count| count.parse::<u32>().unwrap()).sum();
    if ids < jobs * IDS {
        eprintln!(
            "SKIPPED: this user has {ids} subordinate ids, and the story needs {}",
            jobs * IDS
        );
    }
    ids >= jobs * IDS
}

fn hold<'a>(world: &'a World, source: &str, options: &[&str]) -> Going<'a> {
    let mut going = world.start_script(source, options);
    going.until("started");
    going
}

/// Ends a job that would run for ever.
fn cancel(going: Going<'_>) {
    going.signal(Signal::SIGINT);
    going.end_whatever_is_left().ended(130, "cancelled");
}

stories! {
    fn own_ids_are_those_of_no_other_job(world) {
        if !enough_for(3) {
            return;
        }
        let repository = world.repository("holds-a-file");
        let source = repository.path().to_str().unwrap();
        let going = [&[][..], &["--own-ids"], &["--own-ids"]].map(|options| hold(world, source, options));
        let jobs = jobs();
        assert_eq!(jobs.len(), 3, "{jobs:#?}");
        let agent = nix::unistd::Uid::effective().as_raw();
        for job in &jobs {
            for ids in [&job.uids, &job.gids] {
                assert_eq!(ids.iter().map(|(first, end)| end - first).sum::<u32>(), IDS, "{job:?}");
                assert!(!have(ids, agent), "{job:?}");
            }
            // The job's root, and a file that only its owner may write to.
            assert_eq!(job.uid, [job.uids[0].0; 4], "{job:?}");
            let file = fs::metadata(world.work().join(&job.name).join("output/mine")).unwrap();
            assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (job.uids[0].0, job.gids[0].0, 0o600), "{job:?}");
            for other in jobs.iter().filter(|other| other.name != job.name) {
                assert!(!overlap(&job.uids, &other.uids) && !overlap(&job.gids, &other.gids), "{jobs:#?}");
                assert!(!have(&other.uids, file.uid()) && !have(&other.gids, file.gid()), "{jobs:#?}");
            }
        }
        // There is no third set.
        let told = world.start_script(source, &["--own-ids"]).end_whatever_is_left();
        told.ended(3, "infrastructure");
        told.because("all 2 sets of ids");
        told.because("usermod --add-subuids");
        going.into_iter().for_each(cancel);
        world.nothing_is_left();
    }

    fn own_ids_change_nothing_for_the_job(world) {
        if !enough_for(2) {
            return;
        }
        let repository = world.repository("succeeds");
        let image = world.image("busybox.tar");
        let script = "stat -c %u:%g / /bin /bin/sh /output > /output/owners && cat /proc/self/uid_map >> /output/owners \
                      && touch /bin/new && chown 65534:65534 /bin/new && chown 7:7 /output/owners && chmod 0 /output/owners";
        world
            .run(
                repository.path().to_str().unwrap(),
                &["--image", &image, "--network", "isolated", "--own-ids", "--disk", "1g", "--", "sh", "-c", script],
            )
            .ended(0, "succeeded");
        let owners = fs::read_to_string(world.site().join("owners")).unwrap();
        let lines: Vec<_> = owners.lines().collect();
        // Files of the image belong to the job's own ids: those of another slot would be nobody's.
        assert_eq!(lines[..4], ["0:0"; 4], "{owners}");
        world.build("writes-as-other-user", &["--own-ids"]).ended(0, "succeeded");
    }

    fn what_a_killed_attempt_had_is_free_and_swept(world) {
        if !enough_for(2) {
            return;
        }
        let repository = world.repository("holds-a-file");
        let source = repository.path().to_str().unwrap();
        let going = hold(world, source, &["--own-ids"]);
        let before = jobs();
        going.signal(Signal::SIGKILL);
        going.abandon();
        wait_until("no process of the job is left", || world.processes_left().is_empty());
        // An attempt with the shared ids can remove what belongs to others.
        let told = world.build("succeeds", &[]);
        told.ended(0, "succeeded");
        assert!(told.err().contains("1 earlier attempts"), "{}", told.err());
        let going = hold(world, source, &["--own-ids"]);
        let after = jobs();
        assert_eq!(before[0].uids, after[0].uids);
        cancel(going);
    }

    fn without_a_second_set_there_is_no_job_with_ids_of_its_own(world) {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap();
        let few = world.path().join("subids");
        fs::write(&few, format!("{}:100000:65536\nother:165536:65536\n", user.name)).unwrap();
        // The files that Bryo reads are others there, and the user is the same.
        let script = "mount --bind \"$1\" /etc/subuid && mount --bind \"$1\" /etc/subgid && uid=$2 gid=$3 && shift 3 \
                      && exec unshare --user --map-user=\"$uid\" --map-group=\"$gid\" -- \"$@\"";
        let bryo = world.command();
        let repository = world.repository("succeeds");
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", script, "sh"])
            .arg(&few)
            .args([user.uid.to_string(), user.gid.to_string()])
            .arg(bryo.get_program())
            .args(["run", repository.path().to_str().unwrap(), "--json", "--own-ids", "--runtime", world.runtime().word()])
            .args(["--image", &world.image("busybox.tar"), "--output"])
            .arg(world.site())
            .stdin(Stdio::null())
            .current_dir(world.path());
        for (name, value) in bryo.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let told = world.start_command(&mut command).end();
        told.ended(3, "infrastructure");
        told.because("cannot have ids of its own");
        told.because(&format!("sudo usermod --add-subuids 231072-493215 --add-subgids 231072-493215 {}", user.name));
    }
}
