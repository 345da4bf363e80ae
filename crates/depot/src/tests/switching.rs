//! What readers, and other publishes, see.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::{World, names, read};

#[test]
fn a_reader_inside_keeps_the_old_tree_until_it_is_removed() {
    let world = World::new();
    world.old_site();
    let inside = fs::File::open(world.site()).unwrap();
    let page = fs::File::open(world.site().join("index.html")).unwrap();
    world.write("index.html", "new");
    let published = world.publish().unwrap();
    assert!(published.replaced);
    assert_eq!(read(&world.site(), "index.html"), "new");
    assert_eq!(names(world.place.path()), ["site"]);
    assert_eq!(std::io::read_to_string(page).unwrap(), "old");
    assert_ne!(
        inside.metadata().unwrap().ino(),
        world.site().metadata().unwrap().ino()
    );
}

#[test]
fn a_reader_never_misses_the_site() {
    let world = World::new();
    world.old_site();
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let site = world.site();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(site.symlink_metadata().unwrap().is_dir());
                // Who has walked into the old directory just before the switch may find it emptied; who walks in
                // again finds the new one.
                let page = || site.join("index.html").symlink_metadata().is_ok();
                assert!((0..3).any(|_| page()));
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        for i in 0..200 {
            world.write("index.html", &i.to_string());
            world.publish().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.load(Ordering::Relaxed) > 0);
    assert_eq!(read(&world.site(), "index.html"), "199");
}

#[test]
fn publishes_at_the_same_time_leave_one_whole_site() {
    let place = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for who in 0..4 {
            let site = place.path().join("site");
            scope.spawn(move || {
                for _ in 0..25 {
                    let world = World::new();
                    world.write("a", &who.to_string());
                    world.write("b/c", &who.to_string());
                    let target = crate::Target::check(&site, &[]).unwrap();
                    crate::publish(world.collect().unwrap(), &target, &super::Patient).unwrap();
                }
            });
        }
    });
    let site = place.path().join("site");
    assert_eq!(names(place.path()), ["site"]);
    assert_eq!(read(&site, "a"), read(&site, "b/c"));
}

#[test]
fn leftovers_are_removed_but_not_what_is_in_use_or_a_users() {
    let world = World::new();
    world.write("index.html", "new");
    let dead = [
        ".site.bryo-0123456789abcdef",
        ".site.bryo-old-0123456789abcdef",
    ];
    let kept = [
        ".site.bryo-1111111111111111",
        ".site.bryo-notes",
        ".other.bryo-0123456789abcdef",
        "site.bryo-0123456789abcdef",
    ];
    for name in dead.iter().chain(&kept) {
        fs::create_dir_all(world.place.path().join(name).join("below")).unwrap();
    }
    let living = fs::File::open(world.place.path().join(kept[0])).unwrap();
    flock(&living, FlockOperation::LockExclusive).unwrap();
    assert!(world.publish().unwrap().leftovers.is_empty());
    let mut expected: Vec<&str> = kept.to_vec();
    expected.push("site");
    expected.sort_unstable();
    assert_eq!(names(world.place.path()), expected);
}

#[test]
fn a_link_in_a_leftover_or_in_the_old_site_is_not_followed() {
    let world = World::new();
    world.old_site();
    let kept = world.work.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "x").unwrap();
    std::os::unix::fs::symlink(&kept, world.site().join("link")).unwrap();
    let fake = world.place.path().join(".site.bryo-0123456789abcdef");
    std::os::unix::fs::symlink(&kept, &fake).unwrap();
    world.write("index.html", "new");
    world.publish().unwrap();
    assert_eq!(read(&kept, "file"), "x");
    assert!(fake.symlink_metadata().is_ok());
}

#[test]
fn a_name_as_long_as_a_name_can_be() {
    let world = World::new();
    world.write("index.html", "new");
    let path = world.place.path().join("n".repeat(255));
    for replaced in [false, true] {
        world.write("index.html", "new");
        let target = crate::Target::check(&path, &[]).unwrap();
        let published = crate::publish(world.collect().unwrap(), &target, &super::Patient).unwrap();
        assert_eq!(published.replaced, replaced);
    }
}
