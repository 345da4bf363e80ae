//! Publishes a directory to the store that the environment names, for `scripts/bench-s3.sh`:
//! `bryo-bench-publish DIRECTORY SLUG`.
//!
//! A package of its own, so that a measurement does not have the tests' server compiled. Prints the seconds it took and the most memory the process ever had, in KiB.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool of the benchmark"
)]

use std::sync::Arc;
use std::time::Instant;

use bryo_depot::{OutputBounds, OutputTree, Prefix, S3Credentials, S3Depot, S3Settings, Watch};
use bryo_model::{Amount, Secret};

struct Patient;

impl Watch for Patient {
    fn stop(&self) -> bool {
        false
    }

    fn progress(&self, _: Amount) {}
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap();
    let slug = arguments.next().unwrap();
    let value = |name: &str| std::env::var(format!("BRYO_TEST_S3_{name}")).unwrap();
    let parallel = std::env::var("BRYO_BENCH_PARALLEL").ok();
    let depot = S3Depot::new(S3Settings {
        endpoint: value("ENDPOINT"),
        region: value("REGION"),
        bucket: value("BUCKET"),
        path_style: true,
        credentials: S3Credentials {
            access_key: value("ACCESS_KEY"),
            secret_key: Secret::new(value("SECRET_KEY")),
            session_token: None,
        },
        ca_bundle: None,
        parallel: parallel.map_or(16, |n| n.parse().unwrap()),
    });
    let target = depot.unwrap().target(Prefix::of(&slug, "1").unwrap());
    let started = Instant::now();
    let tree = OutputTree::collect(directory.as_ref(), &OutputBounds::default(), &Patient).unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let publishing = target.publish(tree, Arc::new(|_| {}), std::future::pending());
    let done = runtime.block_on(publishing).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    println!("{seconds:.3} {peak} {} {}", done.put, done.unchanged);
}
