//! What jobs leave that is not a site.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{Patient, World, names, read, skip};
use crate::{Bound, DepotError, OutputBounds, OutputTree, publish};

#[test]
fn links_to_the_host_are_never_read() {
    let world = World::new();
    world.write("index.html", "home");
    fs::write(world.work.path().join("secret"), "secret").unwrap();
    fs::create_dir(world.work.path().join("private")).unwrap();
    fs::write(world.work.path().join("private/key"), "secret").unwrap();
    for (name, to) in [
        ("absolute", "/etc/passwd"),
        ("relative", "../secret"),
        ("absolute-directory", "/etc"),
        ("relative-directory", "../private"),
        ("self", "self"),
        ("inside", "index.html"),
        ("nowhere", "missing"),
    ] {
        symlink(to, world.output().join(name)).unwrap();
    }
    let tree = world.collect().unwrap();
    assert_eq!((tree.files(), tree.bytes()), (1, 4));
    assert_eq!(tree.skipped().symlinks.count, 7);
    assert_eq!(tree.skipped().symlinks.examples.len(), 3);
    publish(tree, &world.target(), &Patient).unwrap();
    assert_eq!(names(&world.site()), ["index.html"]);
}

#[test]
fn an_output_root_that_is_a_link_is_refused() {
    let world = World::new();
    fs::remove_dir(world.output()).unwrap();
    symlink("/etc", world.output()).unwrap();
    assert!(matches!(world.collect(), Err(DepotError::Io { .. })));
}

/// Nobody should write any more; if somebody does, it is noticed and the host is not read.
#[test]
fn what_is_swapped_for_a_link_after_listing_is_noticed() {
    for shared in [false, true] {
        for whole_directory in [true, false] {
            let world = World::new();
            world.old_site();
            world.write("a/passwd", "mine");
            if shared {
                let second = world.work.path().join("second");
                fs::hard_link(world.output().join("a/passwd"), second).unwrap();
            }
            let tree = world.collect().unwrap();
            if whole_directory {
                fs::rename(world.output().join("a"), world.output().join("b")).unwrap();
                symlink("/etc", world.output().join("a")).unwrap();
            } else {
                fs::remove_file(world.output().join("a/passwd")).unwrap();
                symlink("/etc/passwd", world.output().join("a/passwd")).unwrap();
            }
            let error = publish(tree, &world.target(), &Patient).unwrap_err();
            assert!(matches!(error, DepotError::Changed { .. }), "{error}");
            world.assert_untouched();
        }
    }
}

#[test]
fn fifos_sockets_and_devices_are_left_alone() {
    let world = World::new();
    world.write("index.html", "home");
    nix::unistd::mkfifo(&world.output().join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(world.output().join("socket")).unwrap();
    let made = mknod(
        &world.output().join("device"),
        SFlag::S_IFCHR,
        Mode::S_IRWXU,
        makedev(1, 5),
    );
    if made.is_err() {
        skip("making a device node needs root");
    }
    let began = Instant::now();
    let tree = world.collect().unwrap();
    assert_eq!(tree.files(), 1);
    assert_eq!(tree.skipped().fifos.count, 1);
    assert_eq!(tree.skipped().sockets.count, 1);
    assert_eq!(tree.skipped().devices.count, u64::from(made.is_ok()));
    publish(tree, &world.target(), &Patient).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(names(&world.site()), ["index.html"]);
}

#[test]
fn two_names_of_one_file_become_two_files() {
    let world = World::new();
    world.write("a", "text");
    fs::hard_link(world.output().join("a"), world.output().join("b")).unwrap();
    fs::hard_link(world.output().join("a"), world.work.path().join("outside")).unwrap();
    let tree = world.collect().unwrap();
    assert_eq!((tree.files(), tree.bytes()), (2, 8));
    publish(tree, &world.target(), &Patient).unwrap();
    fs::write(world.work.path().join("outside"), "evil").unwrap();
    fs::write(world.site().join("a"), "mine").unwrap();
    assert_eq!(read(&world.site(), "b"), "text");
}

#[test]
fn names_are_bytes() {
    let world = World::new();
    let all: [&[u8]; 4] = [b"new\nline", b"\xff\xfe", b"-rf", b"\x1b[2J"];
    for name in all {
        let dir = world.output().join(OsStr::from_bytes(name));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    world.publish().unwrap();
    for name in all {
        let name = OsStr::from_bytes(name);
        assert!(world.site().join(name).join(name).is_file());
    }
}

#[test]
fn empty_directories_are_not_published() {
    let world = World::new();
    fs::create_dir_all(world.output().join("a/b/c")).unwrap();
    let tree = world.collect().unwrap();
    assert!(tree.is_empty());
    assert_eq!(tree.skipped().total(), 0);
    world.write("x/y/file", "1");
    world.publish().unwrap();
    assert_eq!(names(&world.site()), ["x"]);
    assert_eq!(read(&world.site(), "x/y/file"), "1");
}

fn over(world: &World, bounds: &OutputBounds) -> Bound {
    match OutputTree::collect(&world.output(), bounds, &Patient) {
        Err(DepotError::TooLarge(bound)) => bound,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("within bounds"),
    }
}

#[test]
fn each_bound_is_kept() {
    let world = World::new();
    world.write("a/b/c", "123");
    world.write("d", "45");
    let fits = OutputBounds {
        max_files: 2,
        max_bytes: 5,
        max_depth: 3,
        max_path: 5,
    };
    assert!(OutputTree::collect(&world.output(), &fits, &Patient).is_ok());
    let with = |change: fn(&mut OutputBounds)| {
        let mut bounds = fits.clone();
        change(&mut bounds);
        over(&world, &bounds)
    };
    assert_eq!(with(|b| b.max_bytes = 4), Bound::Bytes(4));
    assert_eq!(with(|b| b.max_depth = 2), Bound::Depth("a/b/c".into(), 2));
    assert_eq!(with(|b| b.max_path = 4), Bound::Path("a/b/c".into(), 4));
    for i in 0..3 {
        symlink("x", world.output().join(i.to_string())).unwrap();
    }
    assert_eq!(over(&world, &fits), Bound::OtherEntries(2));
    let flat = World::new();
    for name in ["a", "b", "c"] {
        flat.write(name, "1");
    }
    assert_eq!(over(&flat, &fits), Bound::Files(2));
}

#[test]
fn a_huge_sparse_file_is_counted_and_not_read() {
    let world = World::new();
    let file = fs::File::create(world.output().join("hole")).unwrap();
    file.set_len(1 << 40).unwrap();
    let bound = over(&world, &OutputBounds::default());
    assert!(matches!(bound, Bound::Bytes(_)));
}

/// Deeper than a path can be named: made step by step, as a job can.
#[test]
fn a_bottomless_tree_is_too_large() {
    let world = World::new();
    let mut at = crate::dir::open(&world.output()).unwrap();
    let name = std::ffi::CString::new("d".repeat(200)).unwrap();
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(
            &at,
            &name,
            rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    let bounds = OutputBounds {
        max_depth: 1000,
        max_path: usize::MAX,
        ..OutputBounds::default()
    };
    assert!(matches!(over(&world, &bounds), Bound::Path(_, 4095)));
}
