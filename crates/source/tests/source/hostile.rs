//! Repositories that mean harm, and a user whose configuration would let them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use git2::{ObjectType, Oid, Repository};

use crate::bed::{Bed, build, commit, git, git_command, git_in, source, write};
use crate::corpus::raw_tree;

const ARMED: &str = "BRYO_TEST_ARMED_HOME";

/// A repository that asks for everything that a configuration could run.
fn armed_repository(bed: &Bed) -> std::path::PathBuf {
    let repo = bed.repository("hostile");
    write(
        &repo,
        ".gitattributes",
        "* filter=evil diff=evil merge=evil\n*.bin filter=lfs\n",
    );
    write(&repo, ".gitconfig", "[core]\n\tfsmonitor = touch pwned\n");
    write(
        &repo,
        "big.bin",
        "version https://git-lfs.github.com/spec/v1\n",
    );
    symlink("/etc/passwd", repo.join("passwd")).unwrap();
    symlink("../../../..", repo.join("up")).unwrap();
    git(&repo, &["add", "-A"]);
    let module = git(&repo, &["rev-parse", "HEAD"]);
    let entry = format!("160000,{module},evil");
    git(&repo, &["update-index", "--add", "--cacheinfo", &entry]);
    git(&repo, &["commit", "-q", "-m", "hostile"]);
    for name in ["refs/heads/--upload-pack=id", "refs/tags/-x"] {
        git(&repo, &["update-ref", name, "HEAD"]);
    }
    repo
}

/// A home whose configuration runs a program at every turn.
fn armed_home(bed: &Bed) -> std::path::PathBuf {
    let home = bed.path("home");
    let mark = home.join("mark");
    fs::create_dir_all(home.join("hooks")).unwrap();
    fs::write(
        &mark,
        format!(
            "#!/bin/sh\ntouch '{}/ran-'$$\nexec \"$@\"\n",
            home.display()
        ),
    )
    .unwrap();
    for hook in [
        "post-checkout",
        "reference-transaction",
        "post-index-change",
    ] {
        fs::copy(&mark, home.join("hooks").join(hook)).unwrap();
    }
    for file in [
        mark.clone(),
        home.join("hooks/post-checkout"),
        home.join("hooks/reference-transaction"),
        home.join("hooks/post-index-change"),
    ] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (mark, hooks) = (mark.display(), home.join("hooks"));
    let config = format!(
        "[core]\n\thooksPath = {}\n\tfsmonitor = {mark}\n[filter \"evil\"]\n\tsmudge = {mark} cat\n\tclean = {mark} cat\n[uploadpack]\n\tpackObjectsHook = {mark}\n[credential]\n\thelper = !{mark}\n[protocol]\n\tallow = always\n",
        hooks.display()
    );
    fs::write(home.join(".gitconfig"), config).unwrap();
    home
}

fn ran(home: &Path) -> usize {
    fs::read_dir(home)
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("ran-")
        })
        .count()
}

#[tokio::test]
async fn nothing_of_it_executes() {
    if let Some(home) = std::env::var_os(ARMED) {
        return in_the_armed_home(Path::new(&home)).await;
    }
    let bed = Bed::new();
    let repo = armed_repository(&bed);
    let home = armed_home(&bed);
    // The trap works: a git that reads this home steps into it.
    let plain = git_command(&bed.path(""))
        .env_remove("GIT_CONFIG_GLOBAL")
        .env("HOME", &home)
        .args(["clone", "-q", "--no-local"])
        .args([&repo, &bed.path("plain")])
        .output()
        .unwrap();
    assert!(ran(&home) > 1, "{plain:?}");
    for entry in fs::read_dir(&home).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("ran-")
        {
            fs::remove_file(path).unwrap();
        }
    }
    // Ours does not: in a process of its own, since a home is read once.
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::nothing_of_it_executes"])
        .env("HOME", &home)
        .env("GIT_CONFIG_GLOBAL", home.join(".gitconfig"))
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "uploadpack.packObjectsHook")
        .env("GIT_CONFIG_VALUE_0", home.join("mark"))
        .env(ARMED, &home)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && said.contains("1 passed"),
        "{ended:?}"
    );
    assert_eq!(ran(&home), 0);
}

async fn in_the_armed_home(home: &Path) {
    let place = home.parent().unwrap();
    let cache = bryo_source::SourceCache::open(&place.join("cache")).unwrap();
    let repo = place.join("hostile");
    for location in [
        repo.display().to_string(),
        format!("file://{}", repo.display()),
    ] {
        let (_, checkout) = build(&cache, &source(&location, None)).await;
        let tree = checkout.tree();
        assert_eq!(
            fs::read_link(tree.join("passwd")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(
            fs::read_link(tree.join("up")).unwrap(),
            Path::new("../../../..")
        );
        assert!(fs::read_dir(tree.join("evil")).unwrap().next().is_none());
        assert_eq!(
            checkout.notices(),
            [
                "submodule evil is not in .gitmodules: its directory is empty",
                "files kept in Git LFS are not fetched: the tree has their pointers"
            ]
        );
        assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
        assert!(
            fs::read_to_string(checkout.refs())
                .unwrap()
                .contains("refs/tags/-x\n")
        );
    }
    bryo_source::uncommitted_changes(&repo).await.unwrap();
    assert_eq!(ran(home), 0);
}

/// A commit whose tree is these raw entries.
pub(crate) fn raw_commit(repo: &Path, entries: &[(&str, &str, Oid)]) {
    let repository = Repository::open(repo).unwrap();
    let tree = raw_tree(&repository, entries);
    let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nraw\n");
    let commit = repository
        .odb()
        .unwrap()
        .write(ObjectType::Commit, text.as_bytes())
        .unwrap();
    git(
        repo,
        &["update-ref", "refs/heads/main", &commit.to_string()],
    );
}

#[tokio::test]
async fn line_ends_and_keywords_are_left_as_they_are() {
    let bed = Bed::new();
    let repo = bed.repository("raw");
    write(&repo, "crlf.txt", "line\r\n");
    commit(&repo, "before");
    write(&repo, ".gitattributes", "*.txt text eol=crlf ident\n");
    write(&repo, "a.txt", "$Id$\nline\n");
    // Only these: a file that contradicts the attributes stays as it was committed, and must not look modified.
    git(&repo, &["add", ".gitattributes", "a.txt"]);
    git(&repo, &["commit", "-q", "-m", "attributes"]);
    let (_, checkout) = build(&bed.cache(), &source(&repo, None)).await;
    let text = fs::read_to_string(checkout.tree().join("a.txt")).unwrap();
    assert_eq!(text, "$Id$\nline\n");
    assert_eq!(git_in(&checkout, &["status", "--porcelain"]), "");
    // Not only for a git that knows nanoseconds: the index is younger than every file by whole seconds.
    let date = |name: &str| fs::metadata(checkout.tree().join(name)).unwrap().mtime();
    assert!(date(".git/index") > date("crlf.txt"));
}
