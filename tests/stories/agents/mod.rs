//! Agents: the real program between a server and a bucket.

/// Servers that are not there, or not well; disks without room.
mod adrift;
/// Agents whose clock jumps.
mod clock;
/// Agents that are killed where they stand.
mod killed;
/// How an agent is asked to stop, to pause, and to read its settings anew.
mod leaving;
/// Many builds, and more than one agent.
mod many;
/// A server that is not what it should be.
mod strangers;
/// What becomes of a build.
mod taking;
/// What is seen of an agent from outside.
mod watched;

use std::path::PathBuf;
use std::time::Duration;

use bryo_stories::{Agent, Bucket, DocThor, History, Recipe, Status, World, wait_until};
use nix::sys::signal::Signal;

/// A server and a bucket.
struct Scene {
    server: DocThor,
    bucket: Bucket,
}

impl Scene {
    fn new() -> Self {
        Self {
            server: DocThor::start(),
            bucket: Bucket::start(),
        }
    }

    /// A project made of a fixture, which busybox builds.
    fn project(&self, world: &World, fixture: &str) -> PathBuf {
        let repository = world.repository(fixture);
        let source = format!("file://{}", repository.path().display());
        self.server.project(fixture, &source, "busybox");
        repository.path().to_owned()
    }

    /// An agent of this world for the two.
    fn agent<'a>(&self, world: &'a World) -> Recipe<'a> {
        world.agent("agent", &self.server, &self.bucket)
    }

    /// Waits until something is so, and has the agent wait for nothing: whoever reads its settings anew asks at once.
    #[track_caller]
    fn hurry(&self, agent: &Agent<'_>, what: &str, condition: impl Fn(&History) -> bool) {
        wait_until(what, || {
            let is_so = self.server.look(&condition);
            if !is_so {
                agent.signal(Signal::SIGHUP);
                std::thread::sleep(Duration::from_millis(300));
            }
            is_so
        });
    }

    /// The build succeeded, and the bucket has exactly the script of its fixture.
    #[track_caller]
    fn is_published(&self, world: &World, id: u64) {
        let build = self.server.ended(id);
        assert_eq!(build.status, Status::Success, "{build:#?}");
        let script = std::fs::read(world.path().join(&build.slug).join("build.sh")).unwrap();
        let prefix = format!("{}/{}/", build.slug, build.tag);
        let there = self.bucket.below(&prefix);
        assert_eq!(there.keys().collect::<Vec<_>>(), ["index.html"], "{prefix}");
        assert!(there["index.html"].bytes == script, "{prefix}index.html");
    }
}
