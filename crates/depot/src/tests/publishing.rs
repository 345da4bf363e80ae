//! What is published, and what is left when it is not.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::{Patient, StopsAfter, World, mode, names, read, set_mode, two_file_systems};
use crate::collect::File;
use crate::dir::path_of;
use crate::{DepotError, publish};

#[test]
fn modes_are_normalised_and_times_kept() {
    let mut worlds = vec![World::new()];
    if let Some((one, two)) = two_file_systems() {
        worlds.push(World::between(&one, &two));
        worlds.push(World::between(&two, &one));
    }
    for world in worlds {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (name, bits) in [("a", 0o600), ("b", 0o666), ("c", 0o6711), ("d", 0o1644)] {
            world.write(&format!("dir/{name}"), name);
            let path = world.output().join("dir").join(name);
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(then)
                .unwrap();
            set_mode(&path, bits);
        }
        set_mode(&world.output().join("dir"), 0o2770);
        let published = world.publish().unwrap();
        assert_eq!((published.files, published.bytes), (4, 4));
        assert!(!published.replaced);
        assert!(published.leftovers.is_empty());
        assert_eq!(mode(&world.site()), 0o755);
        assert_eq!(mode(&world.site().join("dir")), 0o755);
        for (name, bits) in [("a", 0o644), ("b", 0o644), ("c", 0o755), ("d", 0o644)] {
            let path = world.site().join("dir").join(name);
            assert_eq!(mode(&path), bits, "{name}");
            assert_eq!(path.metadata().unwrap().modified().unwrap(), then);
            assert_eq!(read(&world.site().join("dir"), name), name);
        }
    }
}

#[test]
fn directories_and_files_stand_in_order_whatever_is_empty() {
    let world = World::new();
    let files = ["a/c/d/e", "a/c/d/E", "a/b", "a-b/x", "a-b/c/y", "z/z/z"];
    for path in files {
        world.write(path, "1");
    }
    for empty in ["0", "a/c/empty/empty", "a-b/z", "a/z", "z/z/a", "zz"] {
        fs::create_dir_all(world.output().join(empty)).unwrap();
    }
    let tree = world.collect().unwrap();
    let directories: Vec<_> = tree.directories().iter().map(|d| &*d.path).collect();
    let wanted = ["", "a", "a/c", "a/c/d", "a-b", "a-b/c", "z", "z/z"];
    assert_eq!(directories, wanted.map(Path::new));
    assert!(directories.is_sorted());
    let path = |(n, file): (usize, &File)| tree.directory_of(n).path.join(path_of(&file.name));
    let paths: Vec<_> = tree.all_files().iter().enumerate().map(path).collect();
    let wanted = ["a/b", "a/c/d/E", "a/c/d/e", "a-b/x", "a-b/c/y", "z/z/z"];
    assert_eq!(paths, wanted.map(Path::new));
}

#[test]
fn on_one_file_system_nothing_is_copied() {
    let world = World::new();
    world.write("index.html", "home");
    let inode = |p: &Path| p.metadata().unwrap().ino();
    let before = inode(&world.output().join("index.html"));
    world.publish().unwrap();
    assert_eq!(inode(&world.site().join("index.html")), before);
}

#[test]
fn across_file_systems_large_files_arrive_whole() {
    let Some((one, two)) = two_file_systems() else {
        return;
    };
    for (from, to) in [(&one, &two), (&two, &one)] {
        let world = World::between(from, to);
        let large: Vec<u8> = (0..5_000_001_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        fs::write(world.output().join("large"), &large).unwrap();
        world.write("empty", "");
        world.publish().unwrap();
        assert!(fs::read(world.site().join("large")).unwrap() == large);
        assert_eq!(read(&world.site(), "empty"), "");
    }
}

/// At every point at which it can be stopped.
#[test]
fn a_stop_leaves_the_old_site_and_nothing_else() {
    let mut worlds = vec![(std::env::temp_dir(), std::env::temp_dir())];
    worlds.extend(two_file_systems());
    for (from, to) in worlds {
        for asked in 0.. {
            let world = World::between(&from, &to);
            world.old_site();
            for i in 0..5 {
                world.write(&format!("d{i}/file"), "new");
            }
            let tree = world.collect().unwrap();
            match publish(tree, &world.target(), &StopsAfter(Cell::new(asked))) {
                Ok(_) => {
                    assert!(asked > 5, "it was asked at every file");
                    assert_eq!(names(&world.site()).len(), 5);
                    break;
                }
                Err(DepotError::Stopped) => world.assert_untouched(),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn collecting_can_be_stopped() {
    let world = World::new();
    world.write("a", "1");
    let stop = StopsAfter(Cell::new(0));
    let stopped = crate::OutputTree::collect(&world.output(), &Default::default(), &stop);
    assert!(matches!(stopped, Err(DepotError::Stopped)));
}

#[test]
fn an_error_leaves_the_old_site_and_nothing_else() {
    let world = World::new();
    world.old_site();
    world.write("a", "1");
    world.write("b/c", "1");
    let tree = world.collect().unwrap();
    fs::remove_file(world.output().join("b/c")).unwrap();
    let error = publish(tree, &world.target(), &Patient).unwrap_err();
    assert!(matches!(error, DepotError::Changed { .. }), "{error}");
    world.assert_untouched();
}

#[test]
fn missing_parents_are_made_when_there_is_something_to_publish() {
    let world = World::new();
    world.write("index.html", "home");
    let path = world.place.path().join("x/y/site");
    let target = crate::Target::check(&path, &[]).unwrap();
    assert!(names(world.place.path()).is_empty());
    publish(world.collect().unwrap(), &target, &Patient).unwrap();
    assert_eq!(read(&path, "index.html"), "home");
}

/// Prints its times only: `cargo test -p bryo-depot fifty -- --nocapture`.
#[test]
#[expect(clippy::print_stderr, reason = "a measurement")]
fn fifty_thousand_small_files() {
    let mut worlds = vec![("rename", 500, std::env::temp_dir(), std::env::temp_dir())];
    if let Some((one, two)) = two_file_systems() {
        worlds.push(("rename in memory", 500, two.clone(), two.clone()));
        // ext4 is slow to make files for seconds after many were removed (it spares their inodes): so fewer here.
        worlds.push(("copy of a tenth", 50, one, two));
    }
    for (how, directories, from, to) in worlds {
        let world = World::between(&from, &to);
        for d in 0..directories {
            let dir = world.output().join(format!("d{d}"));
            fs::create_dir(&dir).unwrap();
            for f in 0..100 {
                fs::write(dir.join(format!("page-{f}.html")), "<p>hello</p>").unwrap();
            }
        }
        let began = Instant::now();
        let tree = world.collect().unwrap();
        let collected = began.elapsed();
        let began = Instant::now();
        let published = publish(tree, &world.target(), &Patient).unwrap();
        assert_eq!(published.files, directories * 100);
        let took = began.elapsed();
        let began = Instant::now();
        world.write("one", "1");
        world.publish().unwrap();
        eprintln!(
            "{how}: collect {collected:?}, publish {took:?}, replace by one {:?}",
            began.elapsed()
        );
        let one = World::between(&from, &to);
        one.write("index.html", "home");
        let began = Instant::now();
        one.publish().unwrap();
        eprintln!("{how}: one file, all in all {:?}", began.elapsed());
    }
}
