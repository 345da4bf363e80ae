//! Layers unpacked and mounted where they are in real use: as root of a user namespace with subordinate ids.
//!
//! Needs `unshare` and lines for this user in /etc/subuid and /etc/subgid; without them the test says that it was
//! skipped.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bryo_model::{CachedKind, IdSlot};
use bryo_process::Program;
use tar::EntryType;

use super::build::{TestLayer, header};
use super::{World, helper, quiet};

/// As the engine arranges it: 0 is this user, 1 and above are subordinate ids.
const NAMESPACE: [&str; 4] = ["--user", "--map-root-user", "--map-auto", "--mount"];

fn sh(script: &str, args: &[&Path]) -> Result<String, String> {
    let done = Command::new("unshare")
        .args(NAMESPACE)
        .args(["sh", "-ec", script, "sh"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

fn skipped() -> bool {
    let reason = sh("mount -t tmpfs none /tmp; chown 5:5 /tmp", &[]).err();
    if let Some(reason) = &reason {
        super::skip(&format!(
            "no user namespace with subordinate ids: {}",
            reason.trim()
        ));
    }
    reason.is_some()
}

fn owned(name: &str, kind: EntryType, mode: u32, id: u64, content: &str) -> TestLayer {
    with_owned(TestLayer::new(), name, kind, mode, id, content)
}

fn with_owned(
    layer: TestLayer,
    name: &str,
    kind: EntryType,
    mode: u32,
    id: u64,
    content: &str,
) -> TestLayer {
    let mut header = header(name.as_bytes(), kind, mode, b"", content.len() as u64);
    header.set_uid(id);
    header.set_gid(id);
    header.set_cksum();
    layer.raw(&header, content.as_bytes())
}

#[tokio::test]
async fn overlay_shows_what_the_image_says() {
    if skipped() {
        return;
    }
    let world = World::new();
    let base = TestLayer::new()
        .dir("keep")
        .file("keep/stays", "stays")
        .file("keep/goes", "goes")
        .dir("hidden")
        .file("hidden/old", "old")
        .dir("etc")
        .file("etc/passwd", "build:x:1000:1000::/home/build:/bin/sh\n")
        .file("whole", "removed with all");
    let base = with_owned(base, "private/", EntryType::Directory, 0o700, 1000, "");
    let base = with_owned(
        base,
        "private/setuid",
        EntryType::Regular,
        0o4750,
        65_534,
        "x",
    );
    let top = TestLayer::new()
        .dir("keep")
        .file("keep/.wh.goes", "")
        .dir("hidden")
        .file("hidden/.wh..wh..opq", "")
        .file("hidden/new", "new")
        .file(".wh.whole", "");
    let image = world.image(vec![base, top]).await.unwrap();
    let exe = std::env::current_exe().unwrap();
    let namespace = helper(Program::new("unshare").args(NAMESPACE).arg(exe));
    // What a crash left belongs to subordinate ids: only in the namespace can it be removed.
    let dead = world.path("store/tmp/unpack-00000000000000000000000000");
    sh(
        r#"mkdir -p "$1/fs/sub"; touch "$1/fs/sub/x"; chown -R 7:7 "$1/fs"; chmod 700 "$1/fs""#,
        &[&dead],
    )
    .unwrap();
    let layers = world
        .store
        .unpack(&image, IdSlot::SHARED, &namespace, quiet())
        .await
        .unwrap();
    assert!(world.left_in_tmp().is_empty());
    assert_eq!(layers.user("build").unwrap().uid, 1000);

    let (top, base) = (&layers.dirs()[0], &layers.dirs()[1]);
    // From outside, no file belongs to this user.
    let me = nix::unistd::getuid().as_raw();
    for dir in layers.dirs() {
        assert_ne!(fs::metadata(dir).unwrap().uid(), me);
    }
    let merged = world.path("merged");
    fs::create_dir(&merged).unwrap();
    let seen = sh(
        r#"mount -t overlay overlay -o "ro,userxattr,lowerdir=$1:$2" "$3"
           cd "$3"; find . -printf '%p %y %m %U:%G\n' | LC_ALL=C sort; cat keep/stays hidden/new"#,
        &[top, base, &merged],
    )
    .unwrap();
    assert_eq!(
        seen,
        ". d 755 1:1\n\
         ./etc d 755 1:1\n\
         ./etc/passwd f 644 1:1\n\
         ./hidden d 755 1:1\n\
         ./hidden/new f 644 1:1\n\
         ./keep d 755 1:1\n\
         ./keep/stays f 644 1:1\n\
         ./private d 700 1001:1001\n\
         ./private/setuid f 4750 65535:65535\n\
         staysnew"
    );
    // The store belongs to the test, and the files in it do not: the collector removes them there too.
    drop(layers);
    for layer in world.store.list().unwrap() {
        if layer.kind == CachedKind::Layer {
            assert!(world.store.remove_layer(&layer, &namespace).await.unwrap());
        }
    }
    assert!(super::names(&world.path("store/layers")).is_empty());
    assert!(world.left_in_tmp().is_empty());
}

#[tokio::test]
async fn an_id_beyond_the_mapping_is_refused() {
    if skipped() {
        return;
    }
    let world = World::new();
    let layer = owned("a", EntryType::Regular, 0o644, 65_535, "");
    let image = world.image(vec![layer]).await.unwrap();
    let exe = std::env::current_exe().unwrap();
    let namespace = helper(Program::new("unshare").args(NAMESPACE).arg(exe));
    let error = world
        .store
        .unpack(&image, IdSlot::SHARED, &namespace, quiet())
        .await
        .unwrap_err();
    assert_eq!(error.fault(), crate::Fault::Unusable, "{error}");
    let tmp = world.path("store/tmp");
    sh(r#"rm -rf "$1"/*"#, &[&tmp]).unwrap();
}
