//! Images that come by way of the real skopeo, from a real registry and a real Podman store.
//!
//! Needs `skopeo`, for the registry `docker-registry`, and for the store `buildah`; what is missing is told.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bryo_model::ImageRef;
use bryo_process::find_program;

use super::build::{TestImage, TestLayer};
use super::{World, quiet};
use crate::{Fault, Image, ImageError, PullOptions};

fn skipped(programs: &[&str]) -> bool {
    for program in programs {
        if find_program(program).is_none() {
            super::skip(&format!("{program} is not installed"));
            return true;
        }
    }
    false
}

/// A registry of this test alone.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        Self::configured(dir, "")
    }

    /// One that wants the user `bryo` with the password `secret`.
    fn secured(dir: &Path) -> Self {
        let users = dir.join("htpasswd");
        fs::write(
            &users,
            "bryo:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n",
        )
        .unwrap();
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            users.display()
        );
        Self::configured(dir, &auth)
    }

    fn configured(dir: &Path, more: &str) -> Self {
        // The kernel chooses a port that is free; until the registry takes it, few others could.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap().to_string();
        drop(port);
        let config = dir.join("registry.yml");
        let data = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{more}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(find_program("docker-registry").unwrap())
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, address };
        for _ in 0..1000 {
            if std::net::TcpStream::connect(&registry.address).is_ok() {
                return registry;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the registry does not answer");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {said}");
}

async fn pull(world: &World, reference: &str) -> Result<Image, ImageError> {
    let image: ImageRef = reference.parse().unwrap();
    let options = PullOptions {
        authfile: None,
        plain_http: true,
    };
    world.store.resolve(&image, &options, quiet()).await
}

fn sample() -> TestImage {
    TestImage::new(vec![
        TestLayer::new().file("a", "base"),
        TestLayer::new().file("b", "top"),
    ])
}

#[tokio::test]
async fn a_registry_image_is_pulled_once() {
    if skipped(&["skopeo", "docker-registry"]) {
        return;
    }
    let world = World::new();
    let registry = Registry::start(world.dir.path());
    let layout = world.path("layout");
    sample().write_layout(&layout);
    let local = world
        .resolve(format!("oci:{}", layout.display()))
        .await
        .unwrap();
    let source = format!("oci:{}", layout.display());
    let push = |format: &str, tag: &str| {
        let target = format!("docker://{}/{tag}", registry.address);
        let args = [
            "copy",
            "--dest-tls-verify=false",
            "--format",
            format,
            &source,
            &target,
        ];
        run("skopeo", &args);
    };
    push("oci", "docs:1");
    push("v2s2", "docs:docker");

    let fresh = World::new();
    let name = format!("{}/docs:1", registry.address);
    let pulled = pull(&fresh, &name).await.unwrap();
    assert_eq!(pulled, local);
    let layers = fresh.unpack(&pulled).await.unwrap();
    assert_eq!(
        fs::read_to_string(layers.dirs()[0].join("b")).unwrap(),
        "top"
    );
    assert!(fresh.left_in_tmp().is_empty());

    // A Docker manifest keeps its digest: by that the registry knows it.
    let docker = pull(&fresh, &format!("{}/docs:docker", registry.address))
        .await
        .unwrap();
    assert_ne!(docker.manifest_digest(), local.manifest_digest());
    let pinned = format!(
        "{}/docs:docker@{}",
        registry.address,
        docker.manifest_digest()
    );
    let elsewhere = World::new();
    assert_eq!(pull(&elsewhere, &pinned).await.unwrap(), docker);

    // Podman loads archives with OCI manifests: the image stays what it is.
    let out = world.path("out.tar");
    let file = fs::File::create(&out).unwrap();
    fresh.store.write_oci_archive(&docker, file).unwrap();
    let loaded = world
        .resolve(format!("oci-archive:{}", out.display()))
        .await
        .unwrap();
    assert_eq!(loaded.config_digest(), docker.config_digest());
    assert_eq!(loaded.layers(), docker.layers());
    assert_ne!(loaded.manifest_digest(), docker.manifest_digest());

    let missing = pull(&fresh, &format!("{}/docs:none", registry.address)).await;
    assert_eq!(missing.unwrap_err().fault(), Fault::Missing);
    let missing = pull(&fresh, &format!("{}/none:1", registry.address)).await;
    assert_eq!(missing.unwrap_err().fault(), Fault::Missing);

    // The blobs are gone, but not the manifest: what is here already is not copied again.
    let blobs = world.path("registry/docker/registry/v2/blobs/sha256");
    for layer in local.layers() {
        let hex = layer.digest().hex();
        fs::remove_dir_all(blobs.join(&hex[..2]).join(&hex)).unwrap();
    }
    assert_eq!(pull(&fresh, &name).await.unwrap(), local);
    assert!(pull(&World::new(), &name).await.is_err());

    drop(registry);
    assert_eq!(
        pull(&fresh, &pinned).await.unwrap(),
        docker,
        "a digest needs no registry"
    );
    let down = pull(&fresh, &name).await.unwrap_err();
    assert!(matches!(down, ImageError::Unreachable { .. }), "{down}");
}

#[tokio::test]
async fn an_index_of_a_registry_is_followed() {
    if skipped(&["skopeo", "docker-registry"]) {
        return;
    }
    let world = World::new();
    let registry = Registry::start(world.dir.path());
    let here = sample();
    let manifest = here.manifest();
    let list = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": crate::Digest::of(&manifest).to_string(),
            "size": manifest.len(),
            "platform": {"os": "linux", "architecture": here.architecture},
        }],
    });
    let list = list.to_string().into_bytes();
    let digest = crate::Digest::of(&list);
    let layout = world.path("layout");
    here.write_layout(&layout);
    let (name, bytes) = super::build::named(list.clone());
    fs::write(layout.join(name), bytes).unwrap();
    let top = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest.to_string(),
            "size": list.len(),
        }],
    });
    fs::write(layout.join("index.json"), top.to_string()).unwrap();
    let source = format!("oci:{}", layout.display());
    let target = format!("docker://{}/multi:1", registry.address);
    run(
        "skopeo",
        &["copy", "--all", "--dest-tls-verify=false", &source, &target],
    );

    let fresh = World::new();
    let name = format!("{}/multi:1", registry.address);
    let image = pull(&fresh, &name).await.unwrap();
    assert_eq!(*image.manifest_digest(), crate::Digest::of(&manifest));
    assert_eq!(pull(&fresh, &name).await.unwrap(), image);
    let address = registry.address.clone();
    drop(registry);
    let pinned = format!("{address}/multi@{digest}");
    assert_eq!(pull(&fresh, &pinned).await.unwrap(), image);
}

#[tokio::test]
async fn progress_of_a_pull_never_runs_over() {
    if skipped(&["skopeo", "docker-registry"]) {
        return;
    }
    let world = World::new();
    let registry = Registry::start(world.dir.path());
    let layout = world.path("layout");
    sample().write_layout(&layout);
    let source = format!("oci:{}", layout.display());
    let target = format!("docker://{}/docs:1", registry.address);
    run(
        "skopeo",
        &["copy", "--dest-tls-verify=false", &source, &target],
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress: crate::Progress = {
        let seen = Arc::clone(&seen);
        Arc::new(move |amount| seen.lock().unwrap().push(amount))
    };
    let image: ImageRef = format!("{}/docs:1", registry.address).parse().unwrap();
    let options = PullOptions {
        authfile: None,
        plain_http: true,
    };
    world
        .store
        .resolve(&image, &options, progress)
        .await
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty());
    for amount in seen.iter() {
        let bryo_model::Amount::Bytes { done, total } = amount else {
            panic!("{amount:?}");
        };
        assert!(done <= total && *total > 0);
    }
}

#[tokio::test]
async fn credentials_come_from_their_file() {
    if skipped(&["skopeo", "docker-registry"]) {
        return;
    }
    let world = World::new();
    let registry = Registry::secured(world.dir.path());
    let layout = world.path("layout");
    sample().write_layout(&layout);
    let auth = |name: &str, password: &str| {
        let file = world.path(name);
        let text = format!(
            r#"{{"auths":{{"{}":{{"auth":"{password}"}}}}}}"#,
            registry.address
        );
        fs::write(&file, text).unwrap();
        file
    };
    let good = auth("good.json", "YnJ5bzpzZWNyZXQ=");
    let bad = auth("bad.json", "YnJ5bzp3cm9uZw==");
    let source = format!("oci:{}", layout.display());
    let target = format!("docker://{}/docs:1", registry.address);
    let authfile = good.display().to_string();
    run(
        "skopeo",
        &[
            "copy",
            "--dest-tls-verify=false",
            "--authfile",
            &authfile,
            &source,
            &target,
        ],
    );
    let image: ImageRef = format!("{}/docs:1", registry.address).parse().unwrap();
    for (authfile, fault) in [
        (world.path("layout/index.json"), Some(Fault::Missing)),
        (bad, Some(Fault::Missing)),
        (good, None),
    ] {
        let options = PullOptions {
            authfile: Some(authfile),
            plain_http: true,
        };
        let fresh = World::new();
        let result = fresh.store.resolve(&image, &options, quiet()).await;
        let found = result.as_ref().err().map(ImageError::fault);
        assert_eq!(found, fault, "{result:?}");
    }
}

#[tokio::test]
async fn what_podman_does_not_have_is_missing() {
    if skipped(&["skopeo"]) {
        return;
    }
    let world = World::new();
    let error = world
        .resolve("containers-storage:localhost/bryo-no-such-image:1")
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Fault::Missing, "{error}");
}
