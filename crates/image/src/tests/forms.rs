//! One image in every local form.

use std::fs;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::SystemTime;

use bryo_model::{Amount, IdSlot, ImageRef};
use serde_json::json;
use tar::{EntryType, Header};

use super::World;
use super::build::{TestImage, TestLayer, compress, named, settle, write_archive};
use crate::image::Compression;
use crate::record;
use crate::scratch::Scratch;
use crate::{Digest, Fault, PullOptions};

fn sample() -> TestImage {
    TestImage::new(vec![
        TestLayer::new().file("a", "base"),
        TestLayer::new().file("b", "top"),
    ])
}

#[tokio::test]
async fn a_layout_and_its_archive_are_the_same_image() {
    let world = World::new();
    let sample = sample();
    let (dir, file, packed) = (
        world.path("layout"),
        world.path("a.tar"),
        world.path("a.tgz"),
    );
    sample.write_layout(&dir);
    sample.write_oci_archive(&file);
    fs::write(
        &packed,
        compress(Compression::Gzip, &fs::read(&file).unwrap()),
    )
    .unwrap();
    let from_dir = world
        .resolve(format!("oci:{}", dir.display()))
        .await
        .unwrap();
    for form in [&file, &packed] {
        let fresh = World::new();
        let image = fresh.resolve(format!("oci-archive:{}", form.display()));
        assert_eq!(image.await.unwrap(), from_dir);
    }
    assert_eq!(*from_dir.manifest_digest(), Digest::of(&sample.manifest()));
    assert_eq!(*from_dir.config_digest(), Digest::of(&sample.config()));
    assert_eq!(from_dir.config().entrypoint(), ["/bin/sh"]);
    assert_eq!(from_dir.config().env(), ["A=1"]);
    // What is in the store needs nothing of the layout but its index.
    fs::remove_dir_all(dir.join("blobs")).unwrap();
    let again = world.resolve(format!("oci:{}", dir.display())).await;
    assert_eq!(again.unwrap(), from_dir);
    assert!(world.left_in_tmp().is_empty());
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_host() {
    let world = World::new();
    let (here, mut there) = (sample(), sample());
    there.architecture = "mips".to_owned();
    let entry = |image: &TestImage| {
        let manifest = image.manifest();
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&manifest).to_string(),
            "size": manifest.len(),
            "platform": {"os": "linux", "architecture": image.architecture},
        })
    };
    let list = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&there), entry(&here)],
    });
    let list = list.to_string().into_bytes();
    let top = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": Digest::of(&list).to_string(),
            "size": list.len(),
        }],
    });
    let mut files = here.layout();
    files.pop();
    files.push(named(list));
    files.push(("index.json".to_owned(), top.to_string().into_bytes()));
    let file = world.path("list.tar");
    write_archive(&file, &files);
    let image = world
        .resolve(format!("oci-archive:{}", file.display()))
        .await;
    assert_eq!(
        *image.unwrap().manifest_digest(),
        Digest::of(&here.manifest())
    );
}

/// A `docker save` archive, in which a layer that occurs twice is a link the second time.
fn docker_archive(image: &TestImage, pack: Compression, path: &std::path::Path) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: EntryType, link: &str, bytes: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if link.is_empty() {
            tar.append_data(&mut header, name, bytes).unwrap();
        } else {
            tar.append_link(&mut header, name, link).unwrap();
        }
    };
    let layers: Vec<_> = image.blobs().iter().map(|b| compress(pack, b)).collect();
    add("one/layer.tar", EntryType::Regular, "", &layers[0]);
    add("two.tar", EntryType::Regular, "", &layers[1]);
    add(
        "three/layer.tar",
        EntryType::Symlink,
        "../one/layer.tar",
        b"",
    );
    add("four.tar", EntryType::Link, "two.tar", b"");
    add("config.json", EntryType::Regular, "", &image.config());
    let list = json!([{
        "Config": "config.json",
        "RepoTags": ["x:1"],
        "Layers": ["one/layer.tar", "two.tar", "three/layer.tar", "four.tar"],
    }]);
    add(
        "manifest.json",
        EntryType::Regular,
        "",
        list.to_string().as_bytes(),
    );
    fs::write(path, tar.into_inner().unwrap()).unwrap();
}

#[tokio::test]
async fn a_docker_archive_gets_a_manifest_that_is_always_the_same() {
    let a = || TestLayer::new().file("f", "a");
    let b = || TestLayer::new().file("f", "b");
    for pack in [Compression::None, Compression::Gzip] {
        let mut image = TestImage::new(vec![a(), b(), a(), b()]);
        image.compression = Compression::None;
        let mut digests = Vec::new();
        for _ in 0..2 {
            let world = World::new();
            let file = world.path("d.tar");
            docker_archive(&image, pack, &file);
            let found = world.resolve(format!("docker-archive:{}", file.display()));
            let found = found.await.unwrap();
            assert_eq!(found.layers().len(), 4);
            assert_eq!(found.layers()[0].compression(), pack);
            assert_eq!(found.layers()[0].digest(), found.layers()[2].digest());
            assert_eq!(*found.config_digest(), Digest::of(&image.config()));
            let layers = world.unpack(&found).await.unwrap();
            let seen = layers
                .dirs()
                .iter()
                .map(|d| fs::read_to_string(d.join("f")).unwrap());
            assert_eq!(seen.collect::<Vec<_>>(), ["b", "a"]);
            digests.push(*found.manifest_digest());
        }
        assert_eq!(digests[0], digests[1]);
    }
}

#[tokio::test]
async fn a_docker_archive_of_several_images_is_refused() {
    let world = World::new();
    let file = world.path("d.tar");
    let list = json!([
        {"Config": "a", "RepoTags": ["x:1"], "Layers": []},
        {"Config": "b", "RepoTags": ["y:2"], "Layers": []},
    ]);
    write_archive(
        &file,
        &[("manifest.json".to_owned(), list.to_string().into_bytes())],
    );
    let error = world
        .resolve(format!("docker-archive:{}", file.display()))
        .await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("x:1, y:2"), "{error}");
}

#[tokio::test]
async fn an_archive_that_is_known_is_not_read() {
    let world = World::new();
    let image = world
        .image(vec![TestLayer::new().file("a", "x")])
        .await
        .unwrap();
    // Nothing in this file could be read as an image; only the record says that it is one.
    let file = world.path("opaque.tar");
    fs::write(&file, "not an archive at all").unwrap();
    let name = format!("oci-archive:{}", file.display());
    assert!(world.resolve(name.as_str()).await.is_err());
    let scratch = Scratch::new(&world.store.paths).unwrap();
    let place = fs::canonicalize(&file).unwrap();
    let key = record::file_key("Oci", &place, &fs::metadata(&file).unwrap());
    record::write(&world.store.paths, &scratch, &key, image.manifest_digest()).unwrap();
    assert_eq!(world.resolve(name.as_str()).await.unwrap(), image);
}

#[tokio::test]
async fn an_archive_that_changed_is_read_again() {
    let world = World::new();
    let first = world
        .image(vec![TestLayer::new().file("a", "1")])
        .await
        .unwrap();
    let key_of = |path| {
        let place = fs::canonicalize(path).unwrap();
        record::file_key("Oci", &place, &fs::metadata(path).unwrap())
    };
    let archive = world.path("image.tar");
    let key = key_of(&archive);
    assert_eq!(
        record::find(&world.store.paths, &key),
        Some(*first.manifest_digest())
    );
    // Same length, same place, same inode.
    let second = world
        .image(vec![TestLayer::new().file("a", "2")])
        .await
        .unwrap();
    assert_ne!(first.manifest_digest(), second.manifest_digest());
    assert_ne!(key, key_of(&archive));
    // What is lost or damaged in the store is fetched again.
    let name = format!("oci-archive:{}", archive.display());
    let paths = &world.store.paths;
    let layer = paths.blob(second.layers()[0].digest());
    let whole = fs::read(&layer).unwrap();
    fs::remove_file(&layer).unwrap();
    assert_eq!(world.resolve(name.as_str()).await.unwrap(), second);
    assert_eq!(fs::read(&layer).unwrap(), whole);
    fs::write(&layer, &whole[1..]).unwrap();
    assert_eq!(world.resolve(name.as_str()).await.unwrap(), second);
    assert_eq!(fs::read(&layer).unwrap(), whole);
    for document in [second.manifest_digest(), second.config_digest()] {
        fs::write(paths.blob(document), "{}").unwrap();
        assert_eq!(world.resolve(name.as_str()).await.unwrap(), second);
    }
}

#[tokio::test]
async fn an_archive_of_this_moment_is_recorded_too() {
    let world = World::new();
    let file = world.path("new.tar");
    fs::write(&file, super::build::archive(&sample().layout())).unwrap();
    let name = format!("oci-archive:{}", file.display());
    let image = world.resolve(name).await.unwrap();
    let place = fs::canonicalize(&file).unwrap();
    let key = record::file_key("Oci", &place, &fs::metadata(&file).unwrap());
    assert_eq!(
        record::find(&world.store.paths, &key),
        Some(*image.manifest_digest())
    );
}

#[test]
fn what_changed_just_now_is_not_recorded() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let state = fs::metadata(file.path()).unwrap();
    assert!(!record::is_settled(&state, state.modified().unwrap()));
    settle(file.path());
    assert!(record::is_settled(&state, SystemTime::now()));
}

#[tokio::test]
async fn what_is_not_there_is_missing() {
    let world = World::new();
    for name in [
        "oci:/no/such/dir",
        "oci-archive:/no/file",
        "docker-archive:/no/file",
    ] {
        let error = world.resolve(name).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Missing, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn what_is_written_out_comes_in_again() {
    let world = World::new();
    sample().write_layout(&world.path("layout"));
    let image = world.resolve(format!("oci:{}", world.path("layout").display()));
    let image = image.await.unwrap();
    let file = world.path("out.tar");
    let out = fs::File::create(&file).unwrap();
    world.store.write_oci_archive(&image, out).unwrap();
    let other = World::new();
    let again = other
        .resolve(format!("oci-archive:{}", file.display()))
        .await;
    assert_eq!(again.unwrap(), image);
}

#[tokio::test]
async fn progress_reaches_its_end() {
    let world = World::new();
    let file = world.path("a.tar");
    sample().write_oci_archive(&file);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress: crate::Progress = {
        let seen = Arc::clone(&seen);
        Arc::new(move |amount| seen.lock().unwrap().push(amount))
    };
    let name: ImageRef = format!("oci-archive:{}", file.display()).parse().unwrap();
    let options = PullOptions::default();
    let image = world
        .store
        .resolve(&name, &options, Arc::clone(&progress))
        .await
        .unwrap();
    let total = fs::metadata(&file).unwrap().len();
    let last = seen.lock().unwrap().pop();
    assert_eq!(last, Some(Amount::Bytes { done: total, total }));
    world
        .store
        .unpack(&image, IdSlot::SHARED, &super::unpacker(&[]), progress)
        .await
        .unwrap();
    let total = image.layers().iter().map(crate::LayerRef::size).sum();
    let last = seen.lock().unwrap().pop();
    assert_eq!(last, Some(Amount::Bytes { done: total, total }));
}
