//! Agents whose clock jumps.

use std::fs;
use std::path::PathBuf;

use bryo_stories::{Recipe, Status, let_go, running_jobs, wait_until};

use super::Scene;
use crate::stories;

/// What puts another clock before that of the system (libfaketime): the time of day jumps, and what counts from the start of
/// the machine goes on.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib")
        .unwrap()
        .chain(fs::read_dir("/usr/lib64").into_iter().flatten());
    let files = places
        .flatten()
        .map(|dir| dir.path().join("faketime/libfaketime.so.1"));
    let found = files
        .chain(["/usr/lib64/faketime/libfaketime.so.1".into()])
        .find(|file| file.exists());
    found.unwrap()
}

/// A clock that is set by a file.
struct Clock(PathBuf);

impl Clock {
    fn of<'a>(&self, recipe: Recipe<'a>) -> Recipe<'a> {
        recipe
            .env("LD_PRELOAD", library().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", self.0.to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    fn is_off_by(&self, time: &str) {
        fs::write(&self.0, time).unwrap();
    }
}

/// The year of each line of a log.
fn years(log: &str) -> Vec<u32> {
    let years = log.lines().filter_map(|line| line.get(..4)?.parse().ok());
    years.collect()
}

stories! {
    fn a_clock_that_jumps_loses_and_doubles_nothing(world) {
        let mut scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let clock = Clock(world.path().join("clock"));
        clock.is_off_by("+0");
        let recipe = clock.of(scene.agent(world));
        let mut agent = recipe.start();
        let mut logs = String::new();
        // Before and after a job runs, and while its result waits; and over the end of the agent.
        for (tag, runs, waits, restarts) in [
            ("back", "-3d", "+0", false),
            ("ahead", "+400d", "+800d", false),
            ("across", "+1h", "-400d", true),
            ("home", "-400d", "+0", true),
        ] {
            let id = scene.server.trigger("ends-when-let-go", "", tag);
            scene.hurry(&agent, "it runs", |_| running_jobs() == 1);
            clock.is_off_by(runs);
            scene.server.away();
            let_go();
            agent.until_status("its result waits", |status| status["outbox"] == 1);
            clock.is_off_by(waits);
            if restarts {
                let log = agent.stop();
                assert!(log.contains("are kept for the next start"), "{log}");
                logs.push_str(&log);
                agent = recipe.start();
            }
            scene.server.back();
            scene.hurry(&agent, "it is told", |_| agent.status()["outbox"] == 0);
            scene.is_published(world, id);
        }
        let seen = years(&(logs + &agent.stop()));
        assert!(seen.iter().min() < seen.iter().max(), "no clock jumped: {seen:?}");
        scene.server.each_once_as(Status::Success);
        wait_until("nothing runs", || running_jobs() == 0);
    }
}
