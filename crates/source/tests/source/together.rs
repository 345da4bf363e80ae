//! Many processes and one cache, and processes that are killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bryo_model::CachedKind;
use bryo_source::Checkout;

use crate::bed::{
    Bed, build, commit, fetch, git, git_in, head, inode, open, recorded, source, write,
};
use crate::http::Server;

/// Tells [`the_attempt`] what to build: cache, address and commit, by lines.
const ATTEMPT: &str = "BRYO_TEST_ATTEMPT";

const MOMENTS: u32 = 50;

/// Not a test, but a process of the ones below: says when it begins, then `made` or `found`, the tree and what it has.
#[tokio::test]
async fn the_attempt() {
    let Ok(what) = std::env::var(ATTEMPT) else {
        return;
    };
    let [cache, url, commit] = what.lines().collect::<Vec<_>>()[..] else {
        panic!("{what}");
    };
    let cache = open(Path::new(cache));
    let say = |what: String| writeln!(std::io::stdout(), "\n{what}").unwrap();
    say("begins".to_owned());
    let fetched = fetch(&cache, &source(url, Some(commit))).await.unwrap();
    let (progress, seen) = recorded();
    let checkout = cache.checkout(&fetched, progress).await.unwrap();
    let how = match seen.lock().unwrap().is_empty() {
        true => "found",
        false => "made",
    };
    is_whole(&checkout);
    let text = fs::read_to_string(checkout.tree().join("README.md")).unwrap();
    say(format!(
        "built {how} {} {}",
        inode(checkout.tree()),
        text.trim()
    ));
}

fn attempt(cache: &Path, url: &str, commit: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "together::the_attempt", "--nocapture"])
        .env(ATTEMPT, format!("{}\n{url}\n{commit}", cache.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn is_whole(checkout: &Checkout) {
    // The objects of its submodules are mounted in a sandbox, and not here.
    let status = ["status", "--porcelain", "--ignore-submodules=all"];
    assert_eq!(git_in(checkout, &status), "");
    let fsck = ["fsck", "--connectivity-only", "--no-dangling"];
    assert_eq!(git_in(checkout, &fsck), "");
}

#[test]
fn thirty_two_processes_at_four_commits_make_one_mirror_and_four_trees() {
    let bed = Bed::new();
    let repo = bed.repository("project");
    for n in 0..500 {
        write(&repo, &format!("many/{}/{n}", n % 9), &format!("{n}\n"));
    }
    let mut commits = BTreeMap::new();
    for n in 0..4 {
        write(&repo, "README.md", &format!("version-{n}\n"));
        commits.insert(commit(&repo, "version"), format!("version-{n}"));
    }
    let server = Server::start(&bed.path(""));
    let url = server.url("project/.git");
    let root = bed.path("cache");
    let running: Vec<_> = (0..32)
        .map(|n| {
            let commit = commits.keys().nth(n % 4).unwrap();
            (commit, attempt(&root, &url, commit))
        })
        .collect();
    let mut made: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for (commit, child) in running {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let line = text.lines().find_map(|l| l.strip_prefix("built ")).unwrap();
        let [how, tree, version] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!(version, commits[commit]);
        let entry = made.entry(commit).or_default();
        entry.0 += usize::from(how == "made");
        entry.1.push(tree.to_owned());
    }
    assert_eq!(made.len(), 4);
    for (commit, (times, trees)) in made {
        assert_eq!(times, 1, "{commit}");
        assert!(trees.len() == 8 && trees.iter().all(|tree| *tree == trees[0]));
    }
    let all = open(&root).list().unwrap();
    let count = |kind| all.iter().filter(|one| one.kind == kind).count();
    assert_eq!(
        (count(CachedKind::Mirror), count(CachedKind::Checkout)),
        (1, 4)
    );
    // Each commit once: whoever waited for the lock found what it wanted. A fetch is three requests, and two more ask for the
    // server's tags where the mirror has some.
    assert!(server.requests() <= 4 * (3 + 2), "{}", server.requests());
}

/// The same numbers in every run, unlike each other.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[tokio::test]
async fn fifty_kills_leave_caches_that_every_repository_builds_from() {
    let bed = Bed::new();
    let lib = bed.repository("lib");
    let app = bed.repository("app");
    for n in 0..300 {
        write(&app, &format!("many/{}/{n}", n % 9), &format!("{n}\n"));
    }
    write(
        &app,
        ".gitmodules",
        "[submodule \"lib\"]\n\tpath = lib\n\turl = ../../lib/.git\n",
    );
    git(&app, &["add", "-A"]);
    let entry = format!("160000,{},lib", head(&lib));
    git(&app, &["update-index", "--add", "--cacheinfo", &entry]);
    git(&app, &["commit", "-q", "-m", "many"]);
    let server = Server::start(&bed.path(""));
    let urls = [server.url("app/.git"), server.url("lib/.git")];
    // How long one takes undisturbed is what the moments are chosen from.
    let start = Instant::now();
    let child = attempt(&bed.path("first"), &urls[0], &head(&app));
    assert!(child.wait_with_output().unwrap().status.success());
    let long = u64::try_from(start.elapsed().as_micros()).unwrap();
    // From what is there, and from nothing. A busy machine's first is longer than those that follow.
    let mut long = [long; 2];

    let mut moments = Moments(0x5eed);
    let (mut killed, mut repaired) = (0, 0);
    let root = bed.path("cache");
    for round in 0..MOMENTS {
        if round % 5 == 0 {
            // From nothing, else from what the kill before has left.
            fs::remove_dir_all(&root).ok();
        } else {
            write(&app, "README.md", &format!("round {round}\n"));
            commit(&app, "round");
        }
        let mut child = attempt(&root, &urls[0], &head(&app));
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let begins = said
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line == "begins");
        assert!(begins);
        let long = &mut long[usize::from(round % 5 == 0)];
        let moment = Duration::from_micros(moments.next() % *long);
        let since = Instant::now();
        while since.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        } else {
            let took = u64::try_from(since.elapsed().as_micros()).unwrap();
            *long = took.clamp(1, *long);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(said);
        if round % 5 == 4 {
            for (url, repo) in urls.iter().zip([&app, &lib]) {
                let (fetched, checkout) = build(&open(&root), &source(url, None)).await;
                assert_eq!(checkout.commit().as_str(), head(repo));
                repaired += fetched.notices().len() + checkout.notices().len();
                is_whole(&checkout);
            }
        }
    }
    // Otherwise nothing was shown.
    assert!(killed > MOMENTS / 3, "{killed}");
    // A kill is no damage.
    assert_eq!(repaired, 0);
}
