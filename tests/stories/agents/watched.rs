//! What is seen of an agent from outside: its numbers, and whether it takes jobs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bryo_stories::{
    Repository, Status, let_go, running_jobs, until_its_processes_are_gone, wait_until,
};
use nix::sys::signal::Signal;

use super::Scene;
use crate::stories;

/// A page of an agent that listens on this socket: status and body.
fn page(socket: &Path, page: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "GET {page} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// The numbers of these names, one of which is told once for each set of labels; `None` where it is not told.
fn numbers<const N: usize>(socket: &Path, names: [&str; N]) -> [Option<f64>; N] {
    let (status, text) = page(socket, "/metrics");
    assert_eq!(status, 200, "{text}");
    let value = |line: &str, name: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    names.map(|name| text.lines().find_map(|line| value(line, name)))
}

stories! {
    fn the_numbers_are_those_of_what_happened(world) {
        let scene = Scene::new();
        let good = scene.project(world, "succeeds");
        scene.project(world, "exits-3");
        scene.server.project("not-named", &format!("file://{}", good.display()), "");
        let socket = world.path().join("health.sock");
        let recipe = scene.agent(world).text("agent.listen", &format!("unix:{}", socket.display()));
        let agent = recipe.start();
        wait_until("it is ready", || page(&socket, "/ready").0 == 200);
        let names = [
            "bryo_jobs_taken_total{feed=\"docs\"}",
            "bryo_jobs_ended_total{feed=\"docs\",verdict=\"succeeded\"}",
            "bryo_jobs_ended_total{feed=\"docs\",verdict=\"failed\"}",
            "bryo_jobs_ended_total{feed=\"docs\",verdict=\"infrastructure\"}",
            "bryo_results_delivered_total{feed=\"docs\"}",
            "bryo_queue_wait_seconds_count",
            "bryo_stage_seconds_count{stage=\"run\"}",
            "bryo_output_files_total",
            "bryo_outbox_depth",
            "bryo_jobs_running",
        ];
        // Succeeded, failed, and refused before it began.
        for (slug, told) in [
            ("succeeds", [1, 1, 0, 0, 1, 1, 1, 1, 0, 0]),
            ("exits-3", [2, 1, 1, 0, 2, 2, 2, 1, 0, 0]),
            ("not-named", [3, 1, 2, 0, 3, 2, 2, 1, 0, 0]),
        ] {
            let id = scene.server.trigger(slug, "", "v1");
            scene.server.ended(id);
            agent.until_status("it is told", |status| status["outbox"] == 0 && status["slots_used"] == 0);
            let found = numbers(&socket, names).map(Option::unwrap_or_default);
            assert_eq!(found, told.map(f64::from), "{slug}: {names:#?}");
        }
        // The second build needed neither registry nor unpacking, nor perhaps the first, and the third one got to nothing.
        let [images, slots, bytes, inodes, free] = numbers(&socket, [
            "bryo_images_cached_total",
            "bryo_slots",
            "bryo_disk_watermark_bytes",
            "bryo_disk_watermark_inodes",
            "bryo_disk_free_bytes",
        ]);
        assert!(images.is_some_and(|images| (1.0..=2.0).contains(&images)), "{images:?}");
        assert_eq!(slots, Some(1.0));
        assert_eq!((bytes, inodes), (Some(f64::from(1 << 20)), Some(10.0)));
        assert!(free.unwrap() > f64::from(1 << 20));
        agent.stop();
    }

    fn a_job_that_a_restart_has_cut_short_is_counted(world) {
        let scene = Scene::new();
        scene.project(world, "ends-when-let-go");
        let socket = world.path().join("health.sock");
        let recipe = scene.agent(world).text("agent.listen", &format!("unix:{}", socket.display()));
        let agent = recipe.start();
        let id = scene.server.trigger("ends-when-let-go", "", "v1");
        wait_until("it runs", || running_jobs() == 1);
        agent.kill();
        let_go();
        until_its_processes_are_gone(world);
        let agent = recipe.start();
        assert_eq!(scene.server.ended(id).status, Status::Failed);
        let ended = "bryo_jobs_ended_total{feed=\"docs\",verdict=\"infrastructure\"}";
        assert_eq!(numbers(&socket, [ended]), [Some(1.0)]);
        wait_until("what it left is removed", || world.work_is_empty());
        agent.stop();
    }

    fn what_a_reload_cannot_change_is_told_by_name(world) {
        let scene = Scene::new();
        let path = scene.project(world, "succeeds");
        let recipe = scene.agent(world);
        let mut agent = recipe.start();
        agent.until("the agent has begun");
        let changed = recipe
            .clone()
            .text("agent.log", "warn")
            .set("host.plain-http", "true")
            .set("source.lfs", "true")
            .text("agent.control", &world.path().join("other.sock").display().to_string());
        changed.write();
        agent.signal(Signal::SIGHUP);
        let told = "these settings change at the next start only: agent.control, host.plain-http, source.lfs";
        agent.until(told);
        agent.until_notified(&format!("reload: {told}"));
        // What can be changed was: only warnings are logged from here on, one of them that all of it is wrong.
        recipe.clone().text("agent.slots", "many").text("agent.drain", "never").write();
        agent.signal(Signal::SIGHUP);
        agent.until("agent.drain");
        // The two mistakes are one line for the service manager.
        agent.until_notified(&format!("10m or 2h) {}:", recipe.file().display()));
        recipe.clone().text("agent.log", "warn").write();
        agent.signal(Signal::SIGHUP);
        let alarms = |status: &serde_json::Value| status["alarms"].as_array().map(Vec::len);
        agent.until_status("all is as it was", |status| alarms(status) == Some(0));
        let commit = Repository::open(path).commit("again");
        scene.is_published(world, scene.server.trigger("succeeds", &commit, "v1"));
        let log = agent.stop();
        let (_, after) = log.split_once(told).unwrap();
        assert!(!after.contains(" INFO ") && !after.contains("DEBUG"), "{after}");
    }
}
