//! Repositories in jobs: what git finds in them, and those that mean harm.

use std::fs;
use std::path::Path;
use std::process::Command;

use bryo_stories::{Repository, World};
use serde_json::Value;

use crate::stories;

/// Made by whatever of a trap gets to run.
const CANARY: &str = "/tmp/bryo-canary";

/// A fixture with another one as an initialised submodule `lib`, both with a tag.
fn with_submodule(world: &World) -> Repository {
    let lib = world.repository("succeeds");
    lib.git(&["tag", "v2.0"]);
    let app = world.repository("looks-at-its-repository");
    app.git(&["tag", "-a", "-m", "one", "v1.0"]);
    let from = lib.path().to_str().unwrap();
    app.git(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        from,
        "lib",
    ]);
    app.commit("with lib");
    app
}

/// An image whose processes run as this user, made of another one.
fn with_user(world: &World, image: &str, user: &str) -> String {
    let dir = world
        .path()
        .join(format!("user-{}", user.replace(':', "-")));
    let layout = format!("oci:{}:it", dir.display());
    let copied = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            &world.image(image),
            &layout,
        ])
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |entry: &Value| {
        let digest = entry["digest"].as_str().unwrap();
        dir.join("blobs").join(digest.replace(':', "/"))
    };
    // Gives an entry the digest and size of what it leads to now.
    let put = |entry: &mut Value, content: &Value| {
        let text = content.to_string();
        let new = dir.join("new");
        fs::write(&new, &text).unwrap();
        let sum = Command::new("sha256sum").arg(&new).output().unwrap().stdout;
        let sum = String::from_utf8(sum).unwrap()[..64].to_owned();
        fs::rename(&new, dir.join("blobs/sha256").join(&sum)).unwrap();
        entry["digest"] = format!("sha256:{sum}").into();
        entry["size"] = text.len().into();
    };
    let mut index = read(&dir.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]));
    let mut config = read(&blob(&manifest["config"]));
    config["config"]["User"] = user.into();
    put(&mut manifest["config"], &config);
    put(&mut index["manifests"][0], &manifest);
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    layout
}

/// A commit with one entry of this name at its top, made without git's own checks.
fn commit_entry(repository: &Repository, kind: &str, name: &str) {
    let object = repository.git(&["rev-parse", kind]);
    let (mode, word) = match kind {
        "HEAD^{tree}" => ("040000", "tree"),
        _ => ("100644", "blob"),
    };
    let list = repository.path().join("list");
    fs::write(&list, format!("{mode} {word} {}\t{name}\n", object.trim())).unwrap();
    let made = Command::new("git")
        .current_dir(repository.path())
        .arg("mktree")
        .stdin(fs::File::open(&list).unwrap())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let tree = String::from_utf8(made.stdout).unwrap();
    let commit = repository.git(&["commit-tree", "-m", "trap", tree.trim()]);
    repository.git(&["update-ref", "refs/heads/main", commit.trim()]);
}

stories! {
    fn git_works_inside_for_every_user_of_an_image(world) {
        let app = with_submodule(world);
        for user in ["", "1000:1000", "65534"] {
            let image = match user {
                "" => world.image("mkdocs.tar"),
                user => with_user(world, "mkdocs.tar", user),
            };
            let source = app.path().to_str().unwrap();
            let told = world.run(source, &["--image", &image, "--network", "none", "--", "sh", "/repo/build.sh"]);
            told.ended(0, "succeeded");
            let text = |name: &str| fs::read_to_string(world.site().join(name)).unwrap();
            let uid = user.split(':').next().filter(|u| !u.is_empty()).unwrap_or("0");
            assert_eq!(text("uid").trim(), uid);
            assert_eq!(text("log-repo"), "with lib\nthe fixture\n");
            assert_eq!(text("log-lib"), "the fixture\n");
            assert!(text("described-repo").starts_with("v1.0-1-g"), "{}", text("described-repo"));
            assert_eq!(text("described-lib"), "v2.0\n");
            assert!(text("submodules").starts_with(' ') && text("submodules").contains(" lib (v2.0)"), "{}", text("submodules"));
        }
    }

    fn a_submodule_that_cannot_be_had_is_named(world) {
        let app = with_submodule(world);
        let clone = world.path().join("clone");
        app.git(&["clone", "--quiet", ".", clone.to_str().unwrap()]);
        let told = world.start_script(clone.to_str().unwrap(), &[]).end();
        told.ended(1, "failed");
        told.because("submodule lib (");
        told.because("git submodule update --init");
    }

    fn a_trap_is_only_data(world) {
        let _ = fs::remove_file(CANARY);
        let repository = world.repository("is-a-trap");
        std::os::unix::fs::symlink("/etc/passwd", repository.path().join("passwd")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", repository.path().join("up")).unwrap();
        repository.commit("links");
        for name in ["refs/heads/--upload-pack=touch", "refs/tags/--exec"] {
            repository.git(&["update-ref", name, "HEAD"]);
        }
        let told = world.start_script(repository.path().to_str().unwrap(), &[]).end();
        told.ended(0, "succeeded");
        assert!(told.err().contains("Git LFS"), "{}", told.err());
        let text = |name: &str| fs::read_to_string(world.site().join(name)).unwrap();
        // The links lead to the job's own files, never to the host's.
        assert_ne!(text("passwd"), fs::read_to_string("/etc/passwd").unwrap());
        assert!(text("up").contains("repo\n"), "{}", text("up"));
        assert!(text("big.bin").starts_with("version https://git-lfs"));
        assert!(!Path::new(CANARY).exists());
    }

    fn a_trap_that_would_be_more_is_refused_with_its_reason(world) {
        let _ = fs::remove_file(CANARY);
        let repository = world.repository("is-a-trap");
        for (kind, name) in [("HEAD:hooks/post-checkout", ".GIT"), ("HEAD:hooks/post-checkout", "GIT~1")] {
            let head = repository.git(&["rev-parse", "HEAD"]);
            commit_entry(&repository, kind, name);
            let told = world.start_script(repository.path().to_str().unwrap(), &[]).end();
            told.ended(1, "failed");
            told.because("it could be taken for the repository's own '.git'");
            repository.git(&["update-ref", "refs/heads/main", head.trim()]);
        }
        for (path, url, why) in [("evil", "ext::sh", "not a supported source"), ("evil", "--upload-pack=touch", "taken for an option"), ("../evil", "../x", "place in the tree")] {
            let text = format!("[submodule \"evil\"]\n\tpath = {path}\n\turl = {url}\n");
            fs::write(repository.path().join(".gitmodules"), text).unwrap();
            repository.git(&["add", ".gitmodules"]);
            let entry = format!("160000,{},evil", repository.git(&["rev-parse", "HEAD"]).trim());
            repository.git(&["update-index", "--add", "--cacheinfo", &entry]);
            repository.git(&["commit", "--quiet", "-m", "trap"]);
            let told = world.start_script(repository.path().to_str().unwrap(), &[]).end();
            told.ended(1, "failed");
            told.because(why);
        }
        assert!(!Path::new(CANARY).exists());
    }
}
