//! How jobs end, and what Bryo makes of it.

use std::time::{Duration, Instant};

use crate::stories;

stories! {
    fn succeeds(world) {
        let told = world.build("succeeds", &[]);
        let report = told.ended(0, "succeeded");
        assert_eq!(report["exit_code"], 0);
        assert_eq!(report["runtime"], world.runtime().word());
        assert_eq!(report["format"], 1);
        assert_eq!(report["commit"].as_str().unwrap().len(), 40);
        assert!(report["image_digest"].as_str().unwrap().starts_with("sha256:"));
        let stages: Vec<_> = report["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
        assert_eq!(stages, ["fetch", "prepare", "run", "collect", "publish"]);
        assert!(std::fs::read_to_string(world.site().join("index.html")).unwrap().contains("standard output"));
    }

    fn exits_3(world) {
        let told = world.build("exits-3", &[]);
        let report = told.ended(1, "failed");
        assert_eq!(report["exit_code"], 3);
        told.because("exited with code 3");
        assert!(!world.site().exists());
    }

    fn never_ends(world) {
        let since = Instant::now();
        let told = world.build("never-ends", &["--timeout", "5s", "--grace", "60s"]);
        told.ended(1, "timed_out");
        told.because("stage run");
        // Its shell has no handler for the signal, so the grace period would be spent on nothing.
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    }

    fn catches_sigterm(world) {
        let told = world.build("catches-sigterm", &["--stage-timeout", "run=3s", "--grace", "60s"]);
        told.ended(1, "timed_out");
        assert!(told.err().contains("asked to end"), "{}", told.err());
    }

    fn ignores_sigterm(world) {
        let told = world.build("ignores-sigterm", &["--stage-timeout", "run=2s", "--grace", "1s"]);
        told.ended(1, "timed_out");
        assert!(told.err().contains("ignored"), "{}", told.err());
    }

    fn forks_a_daemon(world) {
        // The look around afterwards is what this story is about.
        world.build("forks-a-daemon", &[]).ended(0, "succeeded");
    }

    fn the_command_is_not_in_the_image(world) {
        let repository = world.repository("succeeds");
        let source = repository.path().to_str().unwrap();
        let image = world.image("busybox.tar");
        let told = world.run(source, &["--image", &image, "--network", "none", "--", "/no/such/program"]);
        told.ended(1, "failed");
        told.because("/no/such/program");
    }

    fn limits_that_cannot_be_enforced_are_refused(world) {
        let controllers = std::env::var("BRYO_TEST_CGROUP")
            .ok()
            .and_then(|dir| std::fs::read_to_string(format!("{dir}/cgroup.controllers")).ok())
            .unwrap_or_default();
        if controllers.contains("memory") {
            eprintln!("SKIPPED: this host delegates the memory controller; the VM's checks show the limit at work");
            return;
        }
        let told = world.build("succeeds", &["--memory", "1g"]);
        told.ended(3, "infrastructure");
        told.because("--allow-unlimited");
        let told = world.build("exits-3", &["--memory", "1g", "--allow-unlimited"]);
        let report = told.ended(1, "failed");
        assert_eq!(report["limits"]["unlimited"], serde_json::json!(["memory"]));
        assert!(told.err().contains("WITHOUT"), "{}", told.err());
    }
}
