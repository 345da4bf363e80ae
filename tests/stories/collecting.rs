//! What is kept between jobs, and what `bryo gc` removes of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bryo_stories::{Runtime, World, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::own_ids::enough_for;
use crate::stories;

/// What the program prints as JSON.
fn json(world: &World, args: &[&str]) -> Value {
    let out = world.command().args(args).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    serde_json::from_slice(&out.stdout).unwrap()
}

fn kinds(list: &Value) -> Vec<&str> {
    let all = list.as_array().unwrap().iter();
    all.map(|one| one["kind"].as_str().unwrap()).collect()
}

/// Everything in the cache but locks and empty directories.
fn files_in(dir: &Path) -> Vec<String> {
    let mut rest = vec![dir.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with("images/locks") || path.ends_with("CACHEDIR.TAG") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                rest.push(path);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

stories! {
    fn after_gc_nothing_is_left_and_a_job_still_builds(world) {
        let cache = world.own_cache().to_owned();
        world.build("succeeds", &[]).ended(0, "succeeded");
        if enough_for(2) {
            world.build("succeeds", &["--own-ids"]).ended(0, "succeeded");
        }
        let list = json(world, &["cache"]);
        let found = kinds(&list["cached"]);
        for kind in ["checkout", "mirror", "image"] {
            assert!(found.contains(&kind), "{list:#}");
        }
        assert_eq!(found.contains(&"layer"), world.runtime() == Runtime::Crun, "{list:#}");
        let all = list["cached"].as_array().unwrap();
        assert!(all.iter().all(|one| one["in_use"] == false && one["bytes"].as_u64() > Some(0)), "{list:#}");
        // Nothing is older than this, and a dry run removes nothing.
        assert_eq!(json(world, &["gc", "--older-than", "24h"])["bytes"], 0);
        let would = json(world, &["gc", "--all", "--dry-run"]);
        assert_eq!(kinds(&would["removed"]).len(), found.len(), "{would:#}");
        assert_eq!(json(world, &["cache"])["bytes"], list["bytes"]);

        let images = json(world, &["gc", "--all", "--images"]);
        assert!(!kinds(&images["removed"]).contains(&"mirror"), "{images:#}");
        let sources = json(world, &["gc", "--all", "--source"]);
        let mut removed = kinds(&sources["removed"]);
        // Each build has a commit of its own.
        removed.sort_unstable();
        removed.dedup();
        assert_eq!(removed, ["checkout", "mirror"]);
        assert_eq!(json(world, &["cache"])["bytes"], 0);
        assert_eq!(files_in(&cache), Vec::<String>::new());

        let told = world.build("succeeds", &[]);
        told.ended(0, "succeeded");
        assert_eq!(told.report()["source_cached"], false);
        assert_eq!(json(world, &["gc", "--all"])["left_bytes"], 0);
    }

    fn gc_takes_nothing_of_a_job_that_runs(world) {
        world.own_cache();
        let repository = world.repository("succeeds");
        let image = world.image("busybox.tar");
        let script = "echo started >&2; until [ -e /output/go ]; do sleep 0.1; done; \
                      cat /repo/build.sh > /output/copy && ls /repo/.git/objects > /output/objects && /bin/ls /bin > /output/bin";
        let args = ["--image", &image, "--network", "none", "--", "sh", "-c", script];
        let mut going = world.start(repository.path().to_str().unwrap(), &args);
        going.until("started");
        let list = json(world, &["cache"]);
        let done = json(world, &["gc", "--all"]);
        assert_eq!(kinds(&done["removed"]), Vec::<&str>::new(), "{done:#}");
        assert_eq!(done["left_bytes"], list["bytes"]);
        assert!(list["cached"].as_array().unwrap().iter().all(|one| one["in_use"] == true), "{list:#}");
        let job = fs::read_dir(world.work()).unwrap().flatten().map(|e| e.path()).find(|p| p.is_dir()).unwrap();
        fs::write(job.join("output/go"), "").unwrap();
        going.end().ended(0, "succeeded");
        for name in ["copy", "objects", "bin"] {
            assert!(fs::metadata(world.site().join(name)).unwrap().len() > 0, "{name}");
        }
        let done = json(world, &["gc", "--all"]);
        assert_eq!((&done["left_bytes"], &done["bytes"]), (&0.into(), &list["bytes"]));
    }

    fn a_gc_that_is_killed_harms_nobody(world) {
        world.own_cache();
        for round in 0..6_u32 {
            let told = world.build("succeeds", &[]);
            told.ended(0, "succeeded");
            assert!(!told.err().contains("damaged"), "{}", told.err());
            let gc = world.start_command(world.command().args(["gc", "--all"]));
            std::thread::sleep(Duration::from_millis(12) * round);
            gc.signal(Signal::SIGKILL);
            gc.abandon();
            wait_until("its helper has ended", || world.processes_left().is_empty());
        }
        assert_eq!(json(world, &["gc", "--all"])["left_bytes"], 0);
        assert_eq!(json(world, &["cache"])["bytes"], 0);
    }

    fn the_configuration_bounds_the_cache(world) {
        world.own_cache();
        world.build("succeeds", &[]).ended(0, "succeeded");
        let file = world.path().join("bryo.toml");
        fs::write(&file, "[cache]\nbytes = \"1k\"\n").unwrap();
        let file = file.to_str().unwrap();
        let done = json(world, &["gc", "--config", file]);
        assert_eq!(done["left_bytes"], 0, "{done:#}");
    }
}
