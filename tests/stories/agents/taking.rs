//! What becomes of a build: taken, built, published, told.

use bryo_stories::{Bucket, Endpoint, History, Repository, Status, TOKEN};

use super::Scene;
use crate::stories;

stories! {
    fn a_build_is_published_and_told(world) {
        let scene = Scene::new();
        let fixture = scene.project(world, "makes-a-site").join("site");
        let agent = scene.agent(world).start();
        let id = scene.server.trigger("makes-a-site", "main", "v1");
        let build = scene.server.ended(id);
        assert_eq!((build.status, build.error.as_deref()), (Status::Success, None), "{build:#?}");
        let logs = build.logs.unwrap();
        // Both streams, in UTF-8, without the frames of an engine's stream.
        assert!(logs.contains("grüße an alle\n") && logs.contains("caf\u{fffd} \n"), "{logs:?}");
        assert!(!logs.contains(['\0', '\u{1}', '\u{2}']), "{logs:?}");
        let there = scene.bucket.below("makes-a-site/v1/");
        for (name, kind) in [
            ("index.html", "text/html"),
            ("style.css", "text/css"),
            ("app.js", "text/javascript"),
            ("data.json", "application/json"),
            ("picture.svg", "image/svg+xml"),
            ("LICENSE", "application/octet-stream"),
            ("inner/index.html", "text/html"),
            ("inner/ümlaut/a b+c%20.html", "text/html"),
            ("inner/x.unknown-kind", "application/octet-stream"),
            ("zeros.bin", "application/octet-stream"),
            ("empty.txt", "text/plain"),
        ] {
            let object = there.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", there.keys()));
            let bytes = match name {
                "zeros.bin" => vec![0; 300_000],
                "empty.txt" => Vec::new(),
                name => std::fs::read(fixture.join(name)).unwrap(),
            };
            assert!(object.bytes == bytes, "{name}");
            assert_eq!(object.kind.split(';').next(), Some(kind), "{name}");
        }
        assert_eq!(there.len(), 11, "{:?}", there.keys());
        agent.stop();
        scene.server.each_once_as(Status::Success);
        scene.server.look(|history| {
            let report = history.of(Endpoint::Result).next().unwrap();
            let body: serde_json::Value = serde_json::from_slice(&report.request.body).unwrap();
            assert_eq!(body["job_id"], id.to_string());
            assert!(body["duration"].as_str().unwrap().ends_with('s'), "{body}");
            for exchange in history.exchanges() {
                let expected = format!("Bearer {TOKEN}");
                assert_eq!(exchange.request.header("authorization"), Some(expected.as_str()));
            }
        });
    }

    /// On one that was kept a claim might be sent at the moment at which the server closes it; a build would be lost.
    fn each_request_has_a_connection_of_its_own(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let agent = scene.agent(world).start();
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        let claims = |history: &History| history.of(Endpoint::Claim).count();
        let before = scene.server.look(claims);
        scene.server.wait("it was asked for nothing", |history| claims(history) >= before + 5);
        agent.stop();
        scene.server.look(|history| assert_eq!(history.accepted(), history.exchanges().len()));
    }

    fn what_is_said_of_builds_that_fail(world) {
        let scene = Scene::new();
        let agent = scene.agent(world).set("agent.slots", "3").text("jobs.limits.stages.run", "2s").text("jobs.limits.grace", "100ms").start();
        let good = scene.project(world, "succeeds");
        let source = format!("file://{}", good.display());
        for fixture in ["exits-3", "leaves-nothing", "never-ends"] {
            scene.project(world, fixture);
        }
        let nowhere = format!("file://{}", world.path().join("nowhere").display());
        scene.server.project("nowhere", &nowhere, "busybox");
        scene.server.project("no-image", &source, "127.0.0.1:1/no/image:1");
        scene.server.project("no-registry", &source, "no-image:1");
        scene.server.project("not-named", &source, "");
        let table = [
            ("exits-3", "", "run: container exited with code 3"),
            ("leaves-nothing", "", "collect: output directory is empty"),
            ("never-ends", "", "run: container exceeded timeout of 2s"),
            ("nowhere", "", "pull: "),
            ("succeeds", "no-such-branch", "pull: "),
            ("no-image", "", "run: "),
            ("no-registry", "", "run: "),
            ("not-named", "", "run: "),
        ];
        let builds = table.map(|(slug, reference, _)| scene.server.trigger(slug, reference, "v1"));
        for (id, (slug, reference, error)) in builds.into_iter().zip(table) {
            let build = scene.server.ended(id);
            let told = build.error.unwrap_or_default();
            assert_eq!(build.status, Status::Failed, "{slug} {reference}");
            assert!(told.starts_with(error) && told.len() > 6, "{slug} {reference}: {told:?}");
        }
        assert!(scene.server.build(builds[2]).logs.unwrap().contains("started"));
        assert!(scene.bucket.puts().is_empty(), "{:?}", scene.bucket.puts());
        // It has not lost its head.
        let id = scene.server.trigger("succeeds", "", "v1");
        scene.is_published(world, id);
        agent.stop();
    }

    fn a_version_without_a_name_and_one_with_slashes(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let agent = scene.agent(world).start();
        let nested = scene.server.trigger("succeeds", "", "release/2.0");
        let unnamed = scene.server.trigger("succeeds", "", "");
        scene.is_published(world, nested);
        scene.server.ended(unnamed);
        let build = scene.server.build(unnamed);
        assert_eq!(build.status, Status::Success, "{build:#?}");
        let keys: Vec<_> = scene.bucket.objects().into_keys().collect();
        assert_eq!(keys, ["succeeds//index.html", "succeeds/release/2.0/index.html"]);
        agent.stop();
    }

    fn the_environment_of_doc_thor_is_enough(world) {
        let scene = Scene::new();
        scene.project(world, "succeeds");
        let mut recipe = scene.agent(world);
        for key in ["type", "server", "token", "poll"] {
            recipe = recipe.without(&format!("feed.docs.{key}"));
        }
        for key in ["endpoint", "bucket", "access-key", "secret-key"] {
            recipe = recipe.without(&format!("s3.{key}"));
        }
        let workspace = world.work().display().to_string();
        let (server, storage) = (scene.server.url(), scene.bucket.endpoint());
        for (name, value) in [
            ("SERVER_URL", server.as_str()),
            ("BUILDER_TOKEN", TOKEN),
            ("STORAGE_ENDPOINT", &storage),
            ("STORAGE_REGION", "garage"),
            ("STORAGE_ACCESS_KEY", Bucket::ACCESS_KEY),
            ("STORAGE_SECRET_KEY", Bucket::SECRET_KEY),
            ("STORAGE_BUCKET", Bucket::NAME),
            ("POLL_INTERVAL", "1"),
            ("CONTAINER_TIMEOUT", "300"),
            ("WORKSPACE_DIR", &workspace),
        ] {
            recipe = recipe.env(name, value);
        }
        let id = scene.server.trigger("succeeds", "main", "v1");
        let agent = recipe.start();
        scene.is_published(world, id);
        agent.stop();
    }

    fn two_builds_of_one_version_are_never_mixed(world) {
        let scene = Scene::new();
        let path = scene.project(world, "makes-a-site");
        let agent = scene.agent(world).set("agent.slots", "4").start();
        // Each has a file of its own, and bytes of its own in all the others.
        let commits = ["first", "second", "third", "fourth"].map(|name| {
            for entry in std::fs::read_dir(path.join("site")).unwrap().flatten() {
                if ["first", "second", "third"].iter().any(|earlier| entry.file_name() == *earlier) {
                    std::fs::remove_file(entry.path()).unwrap();
                } else if entry.path().is_file() {
                    std::fs::write(entry.path(), name).unwrap();
                }
            }
            std::fs::write(path.join("site").join(name), name).unwrap();
            Repository::open(path.clone()).commit(name)
        });
        let builds = commits.map(|commit| scene.server.trigger("makes-a-site", &commit, "v1"));
        scene.server.all_ended();
        // The server says of all but one that it failed to note them, once, and then that they are known: that is delivered.
        scene.server.wait("the server was told again", |history| {
            history.builds().iter().filter(|build| build.reports == [500, 409]).count() == 3
        });
        let whole = builds.iter().filter(|id| scene.server.build(**id).reports == [200]).count();
        assert_eq!(whole, 1);
        let there = scene.bucket.below("makes-a-site/v1/");
        for (name, object) in &there {
            if !["build.sh", "zeros.bin", "empty.txt"].contains(&name.as_str()) && !name.contains('/') {
                assert_eq!(String::from_utf8_lossy(&object.bytes), "fourth", "{name}");
            }
        }
        assert!(there.contains_key("fourth") && !there.contains_key("third"), "{:?}", there.keys());
        agent.until_status("nothing waits to be told", |status| status["outbox"] == 0);
        agent.stop();
    }
}
