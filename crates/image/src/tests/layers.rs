//! What becomes of honest layers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use bryo_model::IdSlot;
use tar::EntryType;

use super::build::{TestImage, TestLayer};
use super::{World, names};
use crate::image::Compression;

fn read(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join(name)).unwrap()
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 4];
    rustix::fs::lgetxattr(path, "user.overlay.opaque", &mut value)
        .is_ok_and(|n| &value[..n] == b"y")
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[tokio::test]
async fn files_are_what_the_layer_says() {
    let world = World::new();
    let long = format!("dir/{}", "long-name-".repeat(15));
    let layer = TestLayer::new()
        .entry(b"./", EntryType::Directory, 0o700, b"", b"")
        .entry(b"dir/", EntryType::Directory, 0o1711, b"", b"")
        .entry(b"dir/setuid", EntryType::Regular, 0o4755, b"", b"x")
        .entry(b"./dir/secret", EntryType::Regular, 0o600, b"", b"s")
        .entry(
            b"dir/\xff\xfe",
            EntryType::Regular,
            0o644,
            b"",
            b"not UTF-8",
        )
        .entry(b"pipe", EntryType::Fifo, 0o620, b"", b"")
        .symlink("link", "/dir/../dir/setuid")
        .link("hard", "dir/setuid")
        .link("hard-link-to-link", "link")
        .long(&long, "long")
        .file("no/parents/were/named", "deep")
        .entry(b"sealed/", EntryType::Directory, 0o555, b"", b"")
        .file("sealed/in", "in");
    let root = world.unpacked(layer).await.unwrap();
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    let mode = |name: &str| meta(name).permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o755, "the root's own entry is not used");
    assert_eq!(mode("dir"), 0o1711);
    assert_eq!(mode("dir/setuid"), 0o4755);
    assert_eq!(mode("dir/secret"), 0o600);
    assert_eq!(mode("pipe"), 0o620);
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(mode("no/parents"), 0o755);
    assert_eq!(mode("sealed"), 0o555);
    assert_eq!(read(&root, "sealed/in"), "in");
    assert_eq!(read(&root, &long), "long");
    assert_eq!(
        fs::read_link(root.join("link")).unwrap(),
        Path::new("/dir/../dir/setuid")
    );
    assert_eq!(meta("hard").ino(), meta("dir/setuid").ino());
    assert_eq!(meta("hard-link-to-link").ino(), meta("link").ino());
    for name in ["dir", "dir/setuid", "link", "pipe", "sealed"] {
        assert_eq!(meta(name).mtime(), 1_000_000_000, "{name}");
    }
    let odd: Vec<_> = names(&root.join("dir"));
    assert!(odd.iter().any(|n| n.as_encoded_bytes() == b"\xff\xfe"));
}

#[tokio::test]
async fn a_layer_comes_in_every_packing() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let world = World::new();
        let mut image = TestImage::new(vec![TestLayer::new().file("a", "content")]);
        image.compression = compression;
        let archive = world.path("i.tar");
        image.write_oci_archive(&archive);
        let image = world.resolve(format!("oci-archive:{}", archive.display()));
        let image = image.await.unwrap();
        assert_eq!(image.layers()[0].compression(), compression);
        let layers = world.unpack(&image).await.unwrap();
        assert_eq!(read(&layers.dirs()[0], "a"), "content");
        assert!(world.left_in_tmp().is_empty());
    }
}

#[tokio::test]
async fn removals_become_what_overlay_understands() {
    let world = World::new();
    let layer = TestLayer::new()
        .dir("d")
        .file("d/.wh.gone", "")
        .dir("o")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "new")
        .file(".wh..wh.plnk", "")
        // Gone beneath, and here again: the file is simply there, of the directory nothing beneath is seen.
        .file(".wh.file", "")
        .file("file", "again")
        .file(".wh.dir", "")
        .dir("dir")
        .dir("late")
        .file(".wh.late", "");
    let root = world.unpacked(layer).await.unwrap();
    assert!(is_whiteout(&root.join("d/gone")));
    assert!(!is_opaque(&root.join("d")));
    assert!(is_opaque(&root.join("o")));
    assert_eq!(read(&root, "o/new"), "new");
    assert_eq!(read(&root, "file"), "again");
    assert!(is_opaque(&root.join("dir")));
    assert!(is_opaque(&root.join("late")));
    assert_eq!(names(&root), ["d", "dir", "file", "late", "o"]);
}

#[tokio::test]
async fn the_last_entry_of_a_name_is_right() {
    let world = World::new();
    let layer = TestLayer::new()
        .file("a", "first")
        .file("a", "second")
        .file("b", "file")
        .dir("b")
        .file("b/in", "in")
        .dir("c")
        .dir("c/deep")
        .file("c/deep/file", "x")
        .symlink("c", "b")
        .symlink("d", "b")
        .dir("d")
        .file("d/own", "own")
        .dir("e")
        .dir("e")
        .file("f", "f")
        .link("f", "f");
    let root = world.unpacked(layer).await.unwrap();
    assert_eq!(read(&root, "a"), "second");
    assert_eq!(read(&root, "b/in"), "in");
    assert_eq!(fs::read_link(root.join("c")).unwrap(), Path::new("b"));
    assert_eq!(names(&root.join("b")), ["in"]);
    assert_eq!(names(&root.join("d")), ["own"]);
    assert_eq!(read(&root, "f"), "f");
}

#[tokio::test]
async fn the_exact_time_is_kept_and_attributes_are_not() {
    let world = World::new();
    let layer = TestLayer::new()
        .pax(&[
            ("mtime", b"1234567890.5"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.test", b"x"),
        ])
        .dir("a");
    let root = world.unpacked(layer).await.unwrap();
    let meta = fs::metadata(root.join("a")).unwrap();
    assert_eq!(
        (meta.mtime(), meta.mtime_nsec()),
        (1_234_567_890, 500_000_000)
    );
    assert!(!is_opaque(&root.join("a")));
}

#[tokio::test]
async fn layers_are_stacked_once_each_topmost_first() {
    let world = World::new();
    let a = || TestLayer::new().file("f", "a");
    let b = || TestLayer::new().file("f", "b");
    let image = world.image(vec![a(), b(), a()]).await.unwrap();
    assert_eq!(image.layers().len(), 3);
    let layers = world.unpack(&image).await.unwrap();
    let seen: Vec<_> = layers.dirs().iter().map(|dir| read(dir, "f")).collect();
    assert_eq!(seen, ["a", "b"]);
    let name = layers.dirs()[0].parent().unwrap().file_name().unwrap();
    assert_eq!(name.len(), 26);
    // Another time, nothing is unpacked: no program is needed for it.
    let nothing = bryo_process::Program::new("/no/such/program");
    let again = world
        .store
        .unpack(&image, IdSlot::SHARED, &nothing, super::quiet());
    assert_eq!(again.await.unwrap(), layers);
}

#[tokio::test]
async fn users_come_from_the_topmost_layer_that_has_them() {
    let world = World::new();
    let base = TestLayer::new()
        .dir("etc")
        .file("etc/passwd", "build:x:1000:100::/home/build:/bin/sh\n")
        .file("etc/group", "users:x:100:\ndocs:x:7:build\n");
    let middle = TestLayer::new().dir("etc").file("etc/hosts", "");
    let top = TestLayer::new()
        .dir("etc")
        .file("etc/passwd", "build:x:1001:100::/home/build:/bin/sh\n");
    let image = world.image(vec![base, middle, top]).await.unwrap();
    let layers = world.unpack(&image).await.unwrap();
    let user = layers.user(image.config().user()).unwrap();
    assert_eq!(
        (user.uid, user.gid, user.additional_gids),
        (1001, 100, vec![7])
    );
    assert_eq!(user.home, "/home/build");
    for removed in [".wh.etc", "etc/.wh.passwd", "etc/.wh..wh..opq"] {
        let world = World::new();
        let base = TestLayer::new()
            .dir("etc")
            .file("etc/passwd", "build:x:1:1::/:/bin/sh\n");
        let top = TestLayer::new().file(removed, "");
        let image = world.image(vec![base, top]).await.unwrap();
        let layers = world.unpack(&image).await.unwrap();
        assert!(layers.user("build").is_err(), "{removed}");
    }
}

#[tokio::test]
async fn several_may_use_one_store_at_the_same_time() {
    let world = World::new();
    let layer = |n: usize| TestLayer::new().file("f", &n.to_string());
    let archive = world.path("image.tar");
    TestImage::new((0..4).map(layer).collect()).write_oci_archive(&archive);
    let work = || async {
        let store = crate::ImageStore::open(&world.path("store")).unwrap();
        let name = format!("oci-archive:{}", archive.display())
            .parse()
            .unwrap();
        let options = crate::PullOptions::default();
        let image = store
            .resolve(&name, &options, super::quiet())
            .await
            .unwrap();
        let unpacker = super::unpacker(&[]);
        store
            .unpack(&image, IdSlot::SHARED, &unpacker, super::quiet())
            .await
            .unwrap()
    };
    let (a, b, c) = tokio::join!(work(), work(), work());
    assert!(a == b && b == c);
    assert_eq!(names(&world.path("store/layers")).len(), 4);
    assert!(world.left_in_tmp().is_empty());
}

#[tokio::test]
async fn nobody_works_for_a_dropped_future() {
    let world = World::new();
    let image = world
        .image(vec![TestLayer::new().file("a", "x")])
        .await
        .unwrap();
    // An unpacker that tells who it is and then never ends.
    let pid = world.path("pid");
    let endless = bryo_process::Program::new("sh")
        .args(["-c", "echo $$ > \"$0\"; exec sleep 600"])
        .arg(&pid);
    let unpacking = world
        .store
        .unpack(&image, IdSlot::SHARED, &endless, super::quiet());
    let started = async {
        while !fs::read_to_string(&pid).is_ok_and(|p| p.ends_with('\n')) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = unpacking => panic!("{result:?}"),
        () = started => {}
    }
    let pid = fs::read_to_string(&pid).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    while fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
        tokio::task::yield_now().await;
    }
    // Its lock is free again.
    world.unpack(&image).await.unwrap();
}

#[tokio::test]
async fn the_unpacker_begins_with_an_empty_directory() {
    let world = World::new();
    let layer = TestLayer::new().file("a", "whole").bytes();
    let (blob, target) = (world.path("blob"), world.path("target"));
    fs::write(&blob, &layer).unwrap();
    fs::create_dir_all(target.join("fs/left")).unwrap();
    let program = super::unpacker(&["unpack"])
        .arg(&blob)
        .arg(&target)
        .arg(crate::Digest::of(&layer).to_string())
        .arg("tar");
    let deadline = std::time::Duration::from_secs(60);
    let done = program.finish(b"", 100_000, deadline).await.unwrap();
    done.success().unwrap();
    assert_eq!(names(&target.join("fs")), ["a"]);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_done_again() {
    let world = World::new();
    let image = world
        .image(vec![TestLayer::new().file("a", "whole")])
        .await
        .unwrap();
    let diff_id = image.layers()[0].diff_id().hex();
    let half = world
        .path("store/tmp")
        .join(format!("unpack-{}", &diff_id[..26]));
    let other = world.path("store/tmp/unpack-00000000000000000000000000");
    for dir in [&half, &other] {
        fs::create_dir_all(dir.join("fs/sub")).unwrap();
        fs::write(dir.join("fs/rest"), "rest").unwrap();
    }
    let layers = world.unpack(&image).await.unwrap();
    assert_eq!(names(&layers.dirs()[0]), ["a"]);
    assert!(world.left_in_tmp().is_empty());
}

#[tokio::test]
async fn a_layer_of_other_ids_is_not_used() {
    let world = World::new();
    let image = world
        .image(vec![TestLayer::new().file("a", "content")])
        .await
        .unwrap();
    let shared = world.unpack(&image).await.unwrap();
    let slot = IdSlot::new(1).unwrap();
    let unpacker = super::unpacker(&[]);
    let unpack = || world.store.unpack(&image, slot, &unpacker, super::quiet());
    let own = unpack().await.unwrap();
    let beneath = |dir: &Path| dir.strip_prefix(world.path("store")).unwrap().to_owned();
    let (shared, own) = (&shared.dirs()[0], &own.dirs()[0]);
    assert!(beneath(shared).starts_with("layers") && beneath(own).starts_with("layers-1"));
    assert_eq!(read(own, "a"), "content");
    // Somebody puts a layer where one of other ids belongs.
    let (shared, own) = (shared.parent().unwrap(), own.parent().unwrap());
    fs::remove_dir_all(own).unwrap();
    fs::rename(shared, own).unwrap();
    let error = unpack().await.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("of other ids"), "{why}");
}
