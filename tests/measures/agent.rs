//! What an agent costs: memory and wake-ups while it waits, the time until it is ready, and a job from claim to report
//! beside the same job by `bryo run`.
//!
//! `bryo-measure-agent RESULTS ROUNDS` is called by `scripts/bench-agent.sh` in the test bed. Each way gets a file with one
//! number per line. Server and bucket are those of the stories, in this process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that goes wrong is none"
)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bryo_stories::{Bucket, DocThor, Endpoint, Runtime, Status, World};

/// How long an agent is left alone to be looked at.
const IDLE: Duration = Duration::from_secs(20);

struct Results(PathBuf);

impl Results {
    fn add(&self, way: &str, number: f64) {
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(self.0.join(way))
            .unwrap();
        writeln!(file, "{number:.2}").unwrap();
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [results, rounds] = args.as_slice() else {
        panic!("usage: RESULTS ROUNDS");
    };
    let results = Results(PathBuf::from(results));
    let rounds: u32 = rounds.parse().unwrap();
    let world = World::new(Runtime::Crun).expect("the test bed");
    let (server, bucket) = (DocThor::start(), Bucket::start());
    let repository = world.repository("succeeds");
    let source = format!("file://{}", repository.path().display());
    server.project("succeeds", &source, "busybox");
    let recipe = world
        .agent("agent", &server, &bucket)
        .text("agent.log", "info");

    for _ in 0..rounds.min(10) {
        let began = Instant::now();
        let mut agent = recipe.start();
        agent.until_notified("READY=1");
        results.add("ready", milliseconds(began));
        agent.stop();
    }

    let agent = recipe.clone().text("feed.docs.poll", "5s").start();
    agent.until_status("the host was looked at", |status| {
        status["host_ready"] == true
    });
    let process = PathBuf::from(format!("/proc/{}", agent.id()));
    let before = wakes(&process);
    std::thread::sleep(IDLE);
    results.add("wakes", (wakes(&process) - before) / IDLE.as_secs_f64());
    let helpers = children(&process);
    let helper: f64 = helpers.iter().map(|pid| field(pid, "RssAnon:")).sum();
    results.add("rss-helper", helper / 1024.0);
    results.add("rss", field(&process, "VmRSS:") / 1024.0);
    results.add("rss-own", field(&process, "RssAnon:") / 1024.0);
    agent.stop();

    let agent = recipe.start();
    for round in 0..=rounds {
        let id = server.trigger("succeeds", "main", &format!("v{round}"));
        let build = server.ended(id);
        assert_eq!(build.status, Status::Success, "{build:#?}");
        if round > 0 {
            results.add("agent", claim_to_report(&server, id));
        }
        let site = world.path().join("by-hand");
        let began = Instant::now();
        let told = world
            .command()
            .args(["run", &source, "--runtime", "crun", "--network", "none"])
            .args(["--image", &world.image("busybox.tar"), "--output"])
            .arg(&site)
            .output()
            .unwrap();
        assert!(told.status.success(), "{told:?}");
        if round > 0 {
            results.add("run", milliseconds(began));
        }
    }
    results.add("rss-after", field(&process_of(&agent), "VmRSS:") / 1024.0);
    agent.stop();
    let size = fs::metadata(std::env::var("BRYO_BIN").unwrap())
        .unwrap()
        .len();
    #[expect(clippy::cast_precision_loss, reason = "a size in MiB")]
    results.add("size", size as f64 / f64::from(1 << 20));
}

/// What the agent has started and keeps.
fn children(process: &Path) -> Vec<PathBuf> {
    let tasks = fs::read_dir(process.join("task")).unwrap().flatten();
    let pids = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap());
    let pids: Vec<String> = pids
        .flat_map(|pids| {
            pids.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    pids.iter()
        .map(|pid| Path::new("/proc").join(pid))
        .collect()
}

/// How often its threads, and those of what it keeps, have woken up.
fn wakes(process: &Path) -> f64 {
    let mut all = children(process);
    all.push(process.to_owned());
    let tasks = all
        .iter()
        .flat_map(|process| fs::read_dir(process.join("task")).unwrap());
    tasks
        .map(|task| field(&task.unwrap().path(), "voluntary_ctxt_switches:"))
        .sum()
}

fn process_of(agent: &bryo_stories::Agent<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}", agent.id()))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// From the request that got the build to that which told its end, as the server saw them.
fn claim_to_report(server: &DocThor, id: u64) -> f64 {
    let path = format!("/builds/{id}/result");
    server.look(|history| {
        let told = history
            .of(Endpoint::Result)
            .find(|exchange| exchange.request.target.ends_with(&path))
            .unwrap()
            .at;
        let claimed = history
            .of(Endpoint::Claim)
            .filter(|exchange| exchange.status == Some(200) && exchange.at < told)
            .map(|exchange| exchange.at)
            .max()
            .unwrap();
        told.duration_since(claimed).as_secs_f64() * 1000.0
    })
}

/// A number of `/proc/PID/status`.
fn field(process: &Path, name: &str) -> f64 {
    let status = fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}
