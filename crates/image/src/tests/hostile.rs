//! Layers and archives that want what they must not have.

use std::fs;

use bryo_model::IdSlot;
use tar::EntryType;

use super::build::{TestImage, TestLayer, archive, compress, header, named, write_archive};
use super::{World, names, quiet};
use crate::image::Compression;
use crate::{Fault, ImageError};

/// Unpacks one layer beside a file that must stay as it is.
async fn attack(layer: TestLayer) -> (World, Result<std::path::PathBuf, ImageError>) {
    let world = World::new();
    fs::write(world.path("victim"), "untouched").unwrap();
    let result = world.unpacked(layer).await;
    assert_eq!(
        fs::read_to_string(world.path("victim")).unwrap(),
        "untouched"
    );
    let known = ["image.tar", "store", "victim"];
    assert_eq!(names(world.dir.path()), known, "something was made outside");
    (world, result)
}

fn unusable<T: std::fmt::Debug>(result: Result<T, ImageError>, words: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.fault(), Fault::Unusable, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn names_that_leave_the_root_are_refused() {
    for name in ["../x", "a/../../x", "../../../../victim", ".."] {
        let layer =
            TestLayer::new().entry(name.as_bytes(), EntryType::Regular, 0o644, b"", b"evil");
        unusable(attack(layer).await.1, "leaves the root");
    }
}

#[tokio::test]
async fn absolute_names_are_beneath_the_root() {
    let layer = TestLayer::new().entry(b"/etc/x", EntryType::Regular, 0o644, b"", b"inside");
    let (_world, root) = attack(layer).await;
    let root = root.unwrap();
    assert_eq!(fs::read_to_string(root.join("etc/x")).unwrap(), "inside");
}

#[tokio::test]
async fn links_as_parents_lead_nowhere_else() {
    let up = "../../../../../../../../../../../../tmp";
    let world = World::new();
    for target in [world.dir.path().to_str().unwrap(), up, "..", "../../../.."] {
        let layer = TestLayer::new()
            .symlink("out", target)
            .file("out/victim", "evil");
        // Either the way inside the root exists, or there is none.
        let (_world, result) = attack(layer).await;
        if let Err(error) = result {
            assert_eq!(error.fault(), Fault::Unusable, "{error}");
        }
        assert!(names(world.dir.path()).contains(&"store".into()));
        assert!(!world.path("victim").exists());
    }
    // A link within the layer is followed as it would be in a container.
    let layer = TestLayer::new()
        .dir("usr")
        .dir("usr/bin")
        .symlink("bin", "/usr/bin")
        .file("bin/tool", "tool");
    let (_world, root) = attack(layer).await;
    let root = root.unwrap();
    assert_eq!(
        fs::read_to_string(root.join("usr/bin/tool")).unwrap(),
        "tool"
    );
}

#[tokio::test]
async fn writing_through_a_link_replaces_the_link() {
    let world = World::new();
    fs::write(world.path("victim"), "untouched").unwrap();
    let victim = world.path("victim");
    let layer = TestLayer::new()
        .symlink("link", victim.to_str().unwrap())
        .file("link", "inside")
        .symlink("mode", victim.to_str().unwrap())
        .entry(b"mode", EntryType::Directory, 0o700, b"", b"");
    let root = world.unpacked(layer).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "inside");
    assert!(fs::symlink_metadata(root.join("mode")).unwrap().is_dir());
}

#[tokio::test]
async fn hard_links_reach_nothing_outside() {
    let world = World::new();
    let outside = world.path("victim");
    fs::write(&outside, "untouched").unwrap();
    let absolute = outside.to_str().unwrap();
    let dir = world.dir.path().to_str().unwrap();
    for layer in [
        TestLayer::new().link("x", "../victim"),
        TestLayer::new().link("x", absolute),
        TestLayer::new().link("x", "missing"),
        TestLayer::new().symlink("out", dir).link("x", "out/victim"),
        TestLayer::new()
            .symlink("out", "..")
            .link("x", "out/meta.json"),
        TestLayer::new().dir("d").link("x", "d"),
        TestLayer::new().link("x", "."),
        TestLayer::new().file(".wh.gone", "").link("x", "gone"),
    ] {
        let (_world, result) = attack(layer).await;
        let error = result.unwrap_err();
        assert_eq!(error.fault(), Fault::Unusable, "{error}");
    }
    // A hard link to a link is one to the link, not to what that points to.
    let layer = TestLayer::new()
        .symlink("out", absolute)
        .link("x", "out")
        .file("x", "inside");
    attack(layer).await.1.unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
}

#[tokio::test]
async fn removals_stay_beneath_the_root() {
    for name in [".wh...", "a/.wh.", ".wh..wh..opq/../../x"] {
        let layer = TestLayer::new().entry(name.as_bytes(), EntryType::Regular, 0o644, b"", b"");
        let error = attack(layer).await.1.unwrap_err();
        assert_eq!(error.fault(), Fault::Unusable, "{error}");
    }
    let world = World::new();
    let layer = TestLayer::new()
        .symlink("out", world.dir.path().to_str().unwrap())
        .file("out/.wh.store", "");
    let _ = attack(layer).await;
    assert!(world.path("store/blobs").is_dir());
}

#[tokio::test]
async fn device_nodes_are_skipped() {
    let layer = TestLayer::new()
        .entry(b"null", EntryType::Char, 0o666, b"", b"")
        .entry(b"disk", EntryType::Block, 0o666, b"", b"")
        .file("after", "x");
    let (_world, root) = attack(layer).await;
    let root = root.unwrap();
    assert_eq!(names(&root), ["after"]);
    let meta = fs::read_to_string(root.parent().unwrap().join("meta.json")).unwrap();
    assert!(meta.contains(r#""devices":2"#), "{meta}");
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let world = World::new();
    let layer = TestLayer::new()
        .file("a", &"x".repeat(100_000))
        .file("b", "x");
    let image = world.image(vec![layer]).await.unwrap();
    unusable(
        world.unpack_with(&image, &["--max-bytes", "99999"]).await,
        "more than 99999 bytes",
    );
    // A layer that was refused is fetched again.
    let image = world.resolve(format!("oci-archive:{}", world.path("image.tar").display()));
    let image = image.await.unwrap();
    unusable(
        world.unpack_with(&image, &["--max-entries", "1"]).await,
        "more than 1 files",
    );
}

#[tokio::test]
async fn what_comes_after_the_end_counts() {
    let world = World::new();
    let mut stream = TestLayer::new().file("a", "x").bytes();
    stream.resize(64 << 20, 0);
    let archive = world.path("image.tar");
    TestImage::of_streams(vec![stream]).write_oci_archive(&archive);
    let image = world.resolve(format!("oci-archive:{}", archive.display()));
    let image = image.await.unwrap();
    let options = ["--max-bytes", "1000", "--max-entries", "1000"];
    let result = world.unpack_with(&image, &options).await;
    unusable(result, "larger than a layer may be");
}

#[tokio::test]
async fn endless_headers_are_refused() {
    let value = vec![b'a'; 8 << 20];
    let layer = TestLayer::new().pax(&[("path", &value)]).file("a", "x");
    unusable(attack(layer).await.1, "headers of an entry are too long");
}

#[tokio::test]
async fn another_content_than_promised_is_refused() {
    let world = World::new();
    let honest = TestImage::new(vec![TestLayer::new().file("a", "honest")]);
    // The configuration promises one layer, the manifest delivers another.
    let mut lying = TestImage::new(vec![TestLayer::new().file("a", "lying!")]);
    lying.compression = Compression::None;
    let text = String::from_utf8(lying.manifest()).unwrap();
    let old = crate::Digest::of(&lying.config()).to_string();
    let new = crate::Digest::of(&honest.config()).to_string();
    let manifest = text.replace(&old, &new).into_bytes();
    let index = String::from_utf8(lying.layout().pop().unwrap().1).unwrap();
    let index = index.replace(
        &crate::Digest::of(text.as_bytes()).to_string(),
        &crate::Digest::of(&manifest).to_string(),
    );
    let mut files: Vec<_> = lying.blobs().into_iter().map(named).collect();
    files.extend([named(honest.config()), named(manifest)]);
    files.push(("index.json".to_owned(), index.into_bytes()));
    let path = world.path("lying.tar");
    write_archive(&path, &files);
    let image = world.resolve(format!("oci-archive:{}", path.display()));
    let image = image.await.unwrap();
    unusable(world.unpack(&image).await, "is damaged");
    assert!(names(&world.path("store/layers")).is_empty());
}

#[tokio::test]
async fn damaged_archives_are_refused() {
    let sample = TestImage::new(vec![TestLayer::new().file("a", &"x".repeat(10_000))]);
    let whole = archive(&sample.layout());
    let packed = compress(Compression::Gzip, &whole);
    let mut damaged: Vec<(Vec<u8>, &str)> = Vec::new();
    for at in 0..3 {
        let mut files = sample.layout();
        let last = files[at].1.len() - 1;
        files[at].1[last] ^= 1;
        damaged.push((archive(&files), "is damaged"));
        files.remove(at);
        damaged.push((archive(&files), "does not hold"));
    }
    for length in [0, 100, 700, whole.len() / 2] {
        damaged.push((whole[..length].to_vec(), ""));
    }
    damaged.push((packed[..packed.len() / 2].to_vec(), "is damaged"));
    damaged.push((b"this is not an archive".to_vec(), ""));
    for (bytes, words) in damaged {
        let world = World::new();
        let path = world.path("damaged.tar");
        fs::write(&path, bytes).unwrap();
        let result = world.resolve(format!("oci-archive:{}", path.display()));
        unusable(result.await, words);
        assert!(world.left_in_tmp().is_empty());
        // Whatever came in before the damage showed, no manifest did.
        let manifest = crate::Digest::of(&sample.manifest());
        assert!(!world.store.paths.blob(&manifest).exists());
    }
    let world = World::new();
    let result = world.resolve("oci-archive:/dev/null").await;
    unusable(result, "is not a file");
}

#[tokio::test]
async fn a_wrong_size_is_refused_though_the_digest_is_right() {
    let world = World::new();
    let sample = TestImage::new(vec![TestLayer::new().file("a", "x")]);
    let text = String::from_utf8(sample.manifest()).unwrap();
    let size = format!("\"size\":{}", sample.blobs()[0].len());
    assert!(text.contains(&size));
    let manifest = text.replace(&size, "\"size\":1").into_bytes();
    let index = String::from_utf8(sample.layout().pop().unwrap().1).unwrap();
    let index = index
        .replace(
            &crate::Digest::of(text.as_bytes()).to_string(),
            &crate::Digest::of(&manifest).to_string(),
        )
        .replace(
            &format!("\"size\":{}", text.len()),
            &format!("\"size\":{}", manifest.len()),
        );
    let mut files = sample.layout();
    files.pop();
    files.push(named(manifest));
    files.push(("index.json".to_owned(), index.into_bytes()));
    let path = world.path("size.tar");
    write_archive(&path, &files);
    let result = world.resolve(format!("oci-archive:{}", path.display()));
    unusable(result.await, "should have 1");
}

#[tokio::test]
async fn truncated_layers_are_refused() {
    let whole = TestLayer::new().file("a", &"x".repeat(10_000)).bytes();
    for length in [512, 5_000] {
        let world = World::new();
        let archive = world.path("image.tar");
        TestImage::of_streams(vec![whole[..length].to_vec()]).write_oci_archive(&archive);
        let image = world.resolve(format!("oci-archive:{}", archive.display()));
        let image = image.await.unwrap();
        unusable(world.unpack(&image).await, "");
        assert!(names(&world.path("store/layers")).is_empty());
    }
}

#[tokio::test]
async fn too_many_layers_are_refused() {
    let world = World::new();
    let layer = |n: usize| TestLayer::new().file("f", &n.to_string());
    let image = world.image((0..=crate::MAX_LAYERS).map(layer).collect());
    let image = image.await.unwrap();
    unusable(world.unpack(&image).await, "can be mounted");
}

#[tokio::test]
async fn another_architecture_is_refused() {
    let world = World::new();
    let mut image = TestImage::new(vec![]);
    image.architecture = "mips".to_owned();
    let path = world.path("mips.tar");
    image.write_oci_archive(&path);
    let result = world.resolve(format!("oci-archive:{}", path.display()));
    unusable(result.await, "it is for linux/mips");
}

#[tokio::test]
async fn ids_that_no_container_has_are_refused() {
    let world = World::new();
    let mut huge = header(b"a", EntryType::Regular, 0o644, b"", 0);
    huge.set_uid(65_535);
    huge.set_cksum();
    let image = world.image(vec![TestLayer::new().raw(&huge, b"")]).await;
    let image = image.unwrap();
    // Without the option to keep owners: this one is refused before any owner is changed.
    let program = super::helper(bryo_process::Program::new(std::env::current_exe().unwrap()));
    let result = world
        .store
        .unpack(&image, IdSlot::SHARED, &program, quiet())
        .await;
    unusable(result, "belongs to id 65535");
}
