//! Places that may and may not be replaced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Patient, World, set_mode, skip};
use crate::{DepotError, Refusal, Target, publish};

fn refusal(path: &Path, protected: &[&Path]) -> Refusal {
    let protected: Vec<PathBuf> = protected.iter().map(|p| p.to_path_buf()).collect();
    match Target::check(path, &protected) {
        Err(DepotError::Refused { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{path:?} is accepted"),
    }
}

#[test]
fn what_must_survive_is_refused() {
    let top = tempfile::tempdir().unwrap();
    let home = top.path().join("home");
    let source = home.join("project/docs");
    fs::create_dir_all(&source).unwrap();
    for way in ["/", "/.", "/..", "//"] {
        assert_eq!(refusal(Path::new(way), &[]), Refusal::Root, "{way}");
    }
    let holds = |what: &Path| Refusal::Holds(what.to_owned());
    assert_eq!(refusal(&home, &[&home]), holds(&home));
    assert_eq!(refusal(&source, &[&home, &source]), holds(&source));
    assert_eq!(refusal(&home.join("project"), &[&source]), holds(&source));
    assert_eq!(refusal(&source.join(".."), &[&source]), holds(&source));
    assert_eq!(refusal(&source.join("."), &[&source]), holds(&source));
    let unmade = home.join("later/source");
    assert_eq!(refusal(&home.join("later"), &[&unmade]), holds(&unmade));
    symlink(&home, top.path().join("alias")).unwrap();
    let alias = top.path().join("alias/project");
    assert_eq!(refusal(&alias, &[&source]), holds(&source));
    let inside = Target::check(&source.join("site"), &[home.clone(), source.clone()]).unwrap();
    assert!(inside.path().ends_with("home/project/docs/site"));
}

#[test]
fn repositories_files_and_links_are_refused() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    fs::create_dir_all(at("tree/.git")).unwrap();
    fs::create_dir(at("linked")).unwrap();
    fs::write(at("linked/.git"), "gitdir: elsewhere").unwrap();
    fs::create_dir_all(at("bare.git/objects")).unwrap();
    fs::create_dir(at("bare.git/refs")).unwrap();
    fs::write(at("bare.git/HEAD"), "ref: refs/heads/main").unwrap();
    for name in ["tree", "linked", "bare.git"] {
        assert_eq!(refusal(&at(name), &[]), Refusal::Repository, "{name}");
    }
    fs::write(at("file"), "x").unwrap();
    assert_eq!(refusal(&at("file"), &[]), Refusal::NotADirectory);
    symlink("tree", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    assert_eq!(refusal(&at("link"), &[]), Refusal::Symlink);
    assert_eq!(refusal(&at("dangling"), &[]), Refusal::Symlink);
    let blocked = Refusal::WayBlocked(at("file").canonicalize().unwrap());
    assert_eq!(refusal(&at("file/site"), &[]), blocked);
    assert_eq!(refusal(&at("file/a/b/site"), &[]), blocked);
    assert!(Target::check(&at("dangling/site"), &[]).is_err());
    assert!(Target::check(&at("missing/../site"), &[]).is_err());
    assert!(Target::check(&at("missing/also/site"), &[]).is_ok());
    assert!(!at("missing").exists());
}

#[test]
fn mount_points_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        skip("the mount point that every host has is beside directories of root's");
        return;
    }
    assert_eq!(refusal(Path::new("/proc"), &[]), Refusal::MountPoint);
}

#[test]
fn a_parent_that_may_not_be_written_to_is_told() {
    if nix::unistd::geteuid().is_root() {
        skip("root may write anywhere");
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let closed = top.path().join("closed");
    fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o555);
    let told = Refusal::ParentNotWritable(closed.canonicalize().unwrap());
    assert_eq!(refusal(&closed.join("site"), &[]), told);
    assert_eq!(refusal(&closed.join("deeper/site"), &[]), told);
}

#[test]
fn it_is_checked_again_at_the_switch() {
    let world = World::new();
    world.old_site();
    world.write("index.html", "new");
    let target = world.target();
    fs::create_dir(world.site().join(".git")).unwrap();
    let error = publish(world.collect().unwrap(), &target, &Patient).unwrap_err();
    assert!(matches!(
        error,
        DepotError::Refused {
            why: Refusal::Repository,
            ..
        }
    ));
    fs::remove_dir(world.site().join(".git")).unwrap();
    world.assert_untouched();
}
