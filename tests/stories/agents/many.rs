//! Many builds, and more than one agent.

use std::collections::BTreeMap;
use std::path::Path;

use bryo_stories::{Endpoint, Repository, Status};

use super::Scene;
use crate::stories;

const PROJECTS: usize = 10;
const VERSIONS: usize = 5;

/// Stands in the pages of the site that the others are compared with.
const WORD: &str = "variant-00-0";

fn word(project: usize, version: usize) -> String {
    format!("variant-{project:02}-{version}")
}

/// The content type that a file of a MkDocs site has to have.
fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap() {
        "html" => "text/html",
        "css" => "text/css",
        "js" => "text/javascript",
        "json" => "application/json",
        "map" => "text/plain",
        "png" => "image/png",
        "xml" => "text/xml",
        "gz" => "application/gzip",
        "svg" => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// A site's files.
fn read(dir: &Path, below: &str, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{name}/"), into);
        } else {
            into.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

/// The same bytes with another word of the same length.
fn with_word(bytes: &[u8], word: &str) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|b| *b == WORD.as_bytes()[0]) {
        at += found;
        if bytes[at..].starts_with(WORD.as_bytes()) {
            bytes[at..at + WORD.len()].copy_from_slice(word.as_bytes());
        }
        at += 1;
    }
    bytes
}

stories! {
    fn fifty_sites_and_two_agents(world) {
        let scene = Scene::new();
        // A server that checks signatures.
        let store = bryo_test_s3::Server::start();
        let first = world.repository("mkdocs-site");
        let mut expected = BTreeMap::new();
        for project in 0..PROJECTS {
            let path = world.path().join(format!("site-{project:02}"));
            first.git(&["clone", "--quiet", ".", path.to_str().unwrap()]);
            let repository = Repository::open(path.clone());
            for version in 0..VERSIONS {
                for page in ["index.md", "second.md"] {
                    let text = std::fs::read_to_string(first.path().join("docs").join(page)).unwrap();
                    let text = format!("{text}\n## About {0}\n\nThis is {0}.\n", word(project, version));
                    std::fs::write(path.join("docs").join(page), text).unwrap();
                }
                repository.commit("a version");
                repository.git(&["tag", &format!("v{version}")]);
            }
            let slug = format!("site-{project:02}");
            scene.server.project(&slug, &format!("file://{}", path.display()), "mkdocs");
        }
        // What the command line makes of one of them is what agents must make of it.
        let date = "SOURCE_DATE_EPOCH=1767323045";
        let image = world.image("mkdocs.tar");
        let source = world.path().join("site-00");
        let options = ["--image", &image, "--ref", "v0", "--env", date, "--network", "none"];
        world.run(source.to_str().unwrap(), &options).ended(0, "succeeded");
        read(&world.site(), "", &mut expected);
        assert!(expected["index.html"].windows(WORD.len()).any(|w| w == WORD.as_bytes()));

        let mut builds = Vec::new();
        for version in 0..VERSIONS {
            for project in 0..PROJECTS {
                let (slug, tag) = (format!("site-{project:02}"), format!("v{version}"));
                builds.push((scene.server.trigger(&slug, &tag, &tag), project, version));
            }
        }
        let agents = ["one", "two"].map(|name| {
            let recipe = world.agent(name, &scene.server, &scene.bucket).set("agent.slots", "4");
            let recipe = recipe.text("s3.region", &store.region);
            let recipe = recipe.s3(&store.endpoint, &store.bucket, [&store.access_key, &store.secret_key]);
            recipe.text("jobs.env.SOURCE_DATE_EPOCH", "1767323045").start()
        });
        scene.server.all_ended();
        for (id, project, version) in builds {
            let build = scene.server.build(id);
            assert_eq!(build.status, Status::Success, "{build:#?}");
            assert!(build.logs.unwrap().contains("Documentation built"));
            let prefix = format!("site-{project:02}/v{version}/");
            let keys: Vec<_> = expected.keys().map(|name| format!("{prefix}{name}")).collect();
            assert_eq!(store.keys(&prefix), keys);
            for (name, bytes) in &expected {
                let object = store.object(&format!("{prefix}{name}")).unwrap();
                let bytes = with_word(bytes, &word(project, version));
                assert!(object.bytes == bytes, "{prefix}{name} differs");
                assert_eq!(object.content_type.split(';').next(), Some(kind(name)), "{name}");
            }
        }
        scene.server.each_once_as(Status::Success);
        assert_eq!(scene.server.look(|history| history.of(Endpoint::Result).count()), PROJECTS * VERSIONS);
        assert_eq!(store.keys("site-").len(), PROJECTS * VERSIONS * expected.len());
        // Both had their share.
        for agent in &agents {
            let told = agent.recipe().ask(&["agent", "jobs", "--json"]);
            assert!(told.out().contains("succeeded"), "{}", told.out());
        }
        let [one, two] = agents;
        one.signal(nix::sys::signal::Signal::SIGTERM);
        one.ended();
        two.stop();
    }
}
