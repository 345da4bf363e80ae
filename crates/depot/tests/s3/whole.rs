use bryo_depot::{CacheRule, DepotError, S3Depot, S3Tuning};
use bryo_test_s3::{Server, Store};

use crate::bed::{depot, noise, output, prefix, publish, settings, slug, tuning};

/// Declares tests: each is told to s3s-fs, and to the real server where there is one.
macro_rules! told_to_both {
    ($(fn $name:ident($store:ident) $body:block)+) => {
        $(fn $name($store: &Store) $body)+

        mod in_process {
            $(#[test] fn $name() { super::$name(&bryo_test_s3::Server::start()); })+
        }

        mod real {
            $(#[test] fn $name() {
                if let Some(store) = crate::bed::real() {
                    super::$name(&store);
                }
            })+
        }
    };
}

const SITE: &[(&str, &[u8])] = &[
    ("index.html", b"<h1>start</h1>"),
    ("guide/index.html", b"<h1>guide</h1>"),
    ("css/site.css", b"h1 {}"),
    ("js/site.js", b"1"),
    ("img/logo.svg", b"<svg/>"),
    ("fonts/a.woff2", b"\x00\x01"),
    ("search.json", b"{}"),
    ("empty.txt", b""),
    ("CNAME", b"example.org"),
];

fn under(store: &Store, slug: &str) -> Vec<String> {
    store.keys(&format!("{slug}/"))
}

told_to_both! {
    fn files_are_there_with_their_types(store) {
        let slug = slug("types");
        let rules = vec![CacheRule::new("*.html", "no-cache").unwrap(), CacheRule::new("css/**", "max-age=60").unwrap()];
        let depot = S3Depot::tuned(settings(store), S3Tuning { cache_rules: rules, ..tuning() }).unwrap();
        let done = publish(&depot, (&slug, "1"), SITE).unwrap();
        assert_eq!((done.files, done.put, done.unchanged, done.removed), (9, 9, 0, 0));
        assert!(!done.repaired && done.leftovers.is_empty());
        for (path, content_type, cache_control) in [
            ("index.html", "text/html; charset=utf-8", "no-cache"),
            ("guide/index.html", "text/html; charset=utf-8", "no-cache"),
            ("css/site.css", "text/css; charset=utf-8", "max-age=60"),
            ("js/site.js", "text/javascript; charset=utf-8", ""),
            ("img/logo.svg", "image/svg+xml", ""),
            ("fonts/a.woff2", "font/woff2", ""),
            ("search.json", "application/json", ""),
            ("empty.txt", "text/plain; charset=utf-8", ""),
            ("CNAME", "application/octet-stream", ""),
        ] {
            let object = store.object(&format!("{slug}/1/{path}")).unwrap();
            let bytes = SITE.iter().find(|(name, _)| *name == path).unwrap().1;
            assert_eq!(object.bytes, bytes, "{path}");
            assert_eq!(object.content_type, content_type, "{path}");
            assert_eq!(object.cache_control, cache_control, "{path}");
        }
        assert_eq!(under(store, &slug).len(), 9);
    }

    fn what_is_the_same_is_left_alone(store) {
        let slug = slug("same");
        let depot = depot(store);
        publish(&depot, (&slug, "1"), SITE).unwrap();
        let again = publish(&depot, (&slug, "1"), SITE).unwrap();
        assert_eq!((again.put, again.unchanged, again.removed), (0, 9, 0));
        let mut changed = SITE.to_vec();
        changed[2].1 = b"h2 {}";
        let third = publish(&depot, (&slug, "1"), &changed).unwrap();
        assert_eq!((third.put, third.unchanged), (1, 8));
        let object = store.object(&format!("{slug}/1/css/site.css")).unwrap();
        assert_eq!(object.bytes, b"h2 {}");
    }

    fn other_rules_put_everything_again(store) {
        let slug = slug("rules");
        publish(&depot(store), (&slug, "1"), SITE).unwrap();
        let rules = vec![CacheRule::new("*.css", "max-age=60").unwrap()];
        let ruled = S3Depot::tuned(settings(store), S3Tuning { cache_rules: rules, ..tuning() }).unwrap();
        assert_eq!(publish(&ruled, (&slug, "1"), SITE).unwrap().put, 9);
        let object = store.object(&format!("{slug}/1/css/site.css")).unwrap();
        assert_eq!(object.cache_control, "max-age=60");
        assert_eq!(publish(&ruled, (&slug, "1"), SITE).unwrap().put, 0);
    }

    fn what_somebody_else_put_is_put_again(store) {
        let slug = slug("foreign");
        store.put(&format!("{slug}/1/index.html"), b"<h1>start</h1>");
        store.put(&format!("{slug}/1/gone.html"), b"x");
        let done = publish(&depot(store), (&slug, "1"), SITE).unwrap();
        assert_eq!((done.put, done.removed), (9, 0));
        let object = store.object(&format!("{slug}/1/index.html")).unwrap();
        assert_eq!(object.content_type, "text/html; charset=utf-8");
        assert!(store.object(&format!("{slug}/1/gone.html")).is_some());
    }

    fn what_another_program_has_put_is_never_deleted(store) {
        let slug = slug("filled");
        let depot = depot(store);
        let key = |path: &str| format!("{slug}/release/{path}");
        let others = ["2.0/a.css", "2.0/index.html", "css/old.css", "old.html"];
        for path in others.iter().chain(&["index.html"]) {
            store.put(&key(path), b"another program's");
        }
        // The second one has a stale file of its own, and the third one nothing to do.
        for (files, put, removed) in [(SITE, 9, 0), (&SITE[..3], 0, 6), (&SITE[..3], 0, 0)] {
            let done = publish(&depot, (&slug, "release"), files).unwrap();
            assert_eq!((done.put, done.removed), (put, removed));
            let wanted = [("2.0/", "2 objects"), ("css/old.css", "1 object"), ("old.html", "1 object")];
            assert_eq!(done.others, wanted.map(|(path, n)| format!("{}: {n}", key(path))));
            assert!(done.leftovers.is_empty());
            for path in others {
                assert!(store.object(&key(path)).is_some(), "{path}");
            }
        }
        // What Bryo puts beside it is Bryo's, and goes again.
        let more = [SITE[0], ("2.0/new.css", b"1")];
        publish(&depot, (&slug, "release"), &more).unwrap();
        let done = publish(&depot, (&slug, "release"), &SITE[..3]).unwrap();
        assert_eq!((done.removed, store.keys(&key("2.0/")).len()), (1, 2));
        // It is no obstacle to the version whose files they are.
        publish(&depot, (&slug, "release/2.0"), SITE).unwrap();
        let done = publish(&depot, (&slug, "release"), &SITE[..3]).unwrap();
        assert_eq!(done.others.len(), 2, "a version of its own is nothing to tell of");
        assert_eq!(store.keys(&key("2.0/")).len(), 10);
    }

    fn what_another_program_puts_later_is_never_deleted(store) {
        let slug = slug("later");
        let depot = depot(store);
        let key = |path: &str| format!("{slug}/release/{path}");
        publish(&depot, (&slug, "release"), SITE).unwrap();
        // A version of another builder, a file beside ours, and one in a directory of ours.
        let others = ["2.0/index.html", "old.html", "css/theirs.css"];
        for path in others {
            store.put(&key(path), b"another program's");
        }
        let wanted = [("2.0/", "1 object"), ("css/theirs.css", "1 object"), ("old.html", "1 object")];
        let more = [&SITE[..3], &[("new.html", &b"1"[..])]].concat();
        for (files, put, removed) in [(SITE, 0, 0), (&more[..], 1, 6), (&SITE[..3], 0, 1), (&SITE[..3], 0, 0)] {
            let done = publish(&depot, (&slug, "release"), files).unwrap();
            assert_eq!((done.put, done.removed), (put, removed));
            assert_eq!(done.others, wanted.map(|(path, n)| format!("{}: {n}", key(path))));
            for path in others {
                assert!(store.object(&key(path)).is_some(), "{path}");
            }
            assert_eq!(store.keys(&key("")).len(), files.len() + others.len());
        }
        assert_eq!(store.keys(&format!(".bryo/files/{slug}/")).len(), 1, "earlier lists are deleted");
        // Without a list nothing is known to be ours, and the next one is made at once.
        for list in store.keys(&format!(".bryo/files/{slug}/")) {
            store.put(&list, b"<html>");
        }
        let done = publish(&depot, (&slug, "release"), &SITE[..1]).unwrap();
        assert_eq!((done.removed, done.others.len()), (0, 4));
        let done = publish(&depot, (&slug, "release"), &more).unwrap();
        assert_eq!(publish(&depot, (&slug, "release"), &SITE[..1]).unwrap().removed, done.files - 1);
    }

    fn stale_files_go_and_neighbours_stay(store) {
        let slug = slug("stale");
        let depot = depot(store);
        let neighbours = ["10", "1.0", "release/2.0"];
        for version in ["1", "release"].iter().chain(&neighbours) {
            publish(&depot, (&slug, version), SITE).unwrap();
        }
        for version in ["1", "release"] {
            let done = publish(&depot, (&slug, version), &SITE[..1]).unwrap();
            assert_eq!((done.unchanged, done.removed), (1, 8), "{version}");
            assert!(store.object(&format!("{slug}/{version}/index.html")).is_some());
        }
        for version in neighbours {
            assert_eq!(store.keys(&format!("{slug}/{version}/")).len(), 9, "{version}");
        }
    }

    fn versions_that_would_share_files_are_refused(store) {
        let slug = slug("overlap");
        let depot = depot(store);
        publish(&depot, (&slug, "release"), &[("2.0/index.html", b"1")]).unwrap();
        let refused = publish(&depot, (&slug, "release/2.0"), SITE).unwrap_err();
        assert!(matches!(refused, DepotError::Overlap { .. }), "{refused}");
        publish(&depot, (&slug, "next/1"), SITE).unwrap();
        let refused = publish(&depot, (&slug, "next"), &[("1/index.html", b"1")]).unwrap_err();
        assert!(matches!(refused, DepotError::Overlap { .. }), "{refused}");
        assert_eq!(under(store, &slug).len(), 10);
    }

    fn uploads_that_a_killed_attempt_left_are_given_up(store) {
        let slug = slug("left");
        let depot = depot(store);
        let key = |path: &str| format!("{slug}/{path}");
        let site = &SITE[..1];
        // Of another version's in that prefix: somebody may go on with it.
        store.put(&key("1/theirs/index.html"), b"x");
        for version in ["1", "1/2"] {
            publish(&depot, (&slug, version), &[site[0], ("big.bin", b"1")]).unwrap();
        }
        for path in ["1/big.bin", "1/2/big.bin", "1/theirs/big.bin", "10/big.bin"] {
            store.leave_upload(&key(path));
        }
        let left = || ["1/big.bin", "1/2/", "1/theirs/", "10/"].map(|path| store.unfinished_uploads(&key(path)));
        let record = format!(".bryo/publications/{}", key("1.json"));
        let complete = String::from_utf8(store.object(&record).unwrap().bytes).unwrap();
        store.put(&record, complete.replace("complete", "publishing").as_bytes());
        assert!(publish(&depot, (&slug, "1"), site).unwrap().repaired);
        assert_eq!(left(), [0, 1, 1, 1]);
    }

    fn a_large_file_goes_in_parts(store) {
        let slug = slug("large");
        let depot = S3Depot::tuned(settings(store), S3Tuning { part_size: 5 << 20, memory: 1, ..tuning() }).unwrap();
        let large = noise((17 << 20) + 3);
        let files: &[(&str, &[u8])] = &[("big.pdf", &large), ("index.html", b"1")];
        publish(&depot, (&slug, "1"), files).unwrap();
        let object = store.object(&format!("{slug}/1/big.pdf")).unwrap();
        assert!(object.bytes == large);
        assert_eq!(object.content_type, "application/pdf");
        let again = publish(&depot, (&slug, "1"), files).unwrap();
        assert_eq!((again.put, again.unchanged), (0, 2));
    }

    fn names_that_stand_in_another_order_as_paths_are_known_again(store) {
        let slug = slug("order");
        let depot = depot(store);
        let names = ["a.html", "a-b/x", "a/b", "a/b.html", "a/b-c/d", "a0/b", "index.html", "a%2Fb", "ü/ß.html"];
        let files = names.map(|name| (name, &b"1"[..]));
        assert_eq!(publish(&depot, (&slug, "1"), &files).unwrap().put, 9);
        let again = publish(&depot, (&slug, "1"), &files).unwrap();
        assert_eq!((again.put, again.unchanged, again.removed), (0, 9, 0));
        let fewer = publish(&depot, (&slug, "1"), &files[2..]).unwrap();
        assert_eq!((fewer.unchanged, fewer.removed), (7, 2));
        assert_eq!(under(store, &slug).len(), 7);
    }

    fn lists_have_more_than_one_page(store) {
        let slug = slug("pages");
        let depot = depot(store);
        let names: Vec<_> = (0..1100).map(|n| format!("f/{n}.txt")).collect();
        let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b"x"[..])).collect();
        files.push(("index.html", b"1"));
        publish(&depot, (&slug, "1"), &files).unwrap();
        assert_eq!(publish(&depot, (&slug, "1"), &files).unwrap().unchanged, 1101);
        let done = publish(&depot, (&slug, "1"), &files[1100..]).unwrap();
        assert_eq!((done.removed, under(store, &slug).len()), (1100, 1));
    }
}

#[test]
fn assets_come_first_and_the_start_page_last() {
    let server = Server::start();
    let depot = depot(&server);
    publish(&depot, ("p", "1"), &[("old.css", b"1"), ("old.html", b"1")]).unwrap();
    server.seen();
    publish(&depot, ("p", "1"), SITE).unwrap();
    let seen = server.seen();
    let changes: Vec<_> = seen.iter().filter(|s| s.method != "GET").collect();
    let at = |end: &str| changes.iter().position(|s| s.path.ends_with(end)).unwrap();
    let record = ".bryo/publications/p/1.json";
    assert_eq!(at(record), 0);
    let assets = [
        "site.css",
        "site.js",
        "logo.svg",
        "a.woff2",
        "search.json",
        "empty.txt",
        "CNAME",
    ];
    assert!(
        assets
            .iter()
            .all(|asset| at(asset) < at("guide/index.html"))
    );
    assert!(at("guide/index.html") < at("/1/index.html"));
    let delete = changes
        .iter()
        .position(|s| s.query == "delete=" || s.query == "delete");
    assert!(at("/1/index.html") < delete.unwrap());
    assert!(changes.last().unwrap().path.ends_with(record));
    assert!(changes[1].path.contains("/.bryo/files/p/1.keys/"));
    // Record and list, files, what is stale, the earlier list, and the record again.
    assert_eq!(changes.len(), 2 + 9 + 1 + 1 + 1);
}

#[test]
fn a_publication_without_a_change_changes_nothing() {
    let server = Server::start();
    let depot = depot(&server);
    publish(&depot, ("p", "1"), SITE).unwrap();
    server.seen();
    publish(&depot, ("p", "1"), SITE).unwrap();
    assert!(server.seen().iter().all(|seen| seen.method == "GET"));
}

#[test]
fn bad_names_are_refused_before_anything_is_put() {
    use std::os::unix::ffi::OsStrExt;
    let server = Server::start();
    let depot = depot(&server);
    let (top, _) = output(&[("index.html", b"1")]);
    for bad in [&b"a\xffb"[..], b"a\nb"] {
        let path = top.path().join(std::ffi::OsStr::from_bytes(bad));
        std::fs::write(&path, "x").unwrap();
        let tree = crate::bed::collect(top.path());
        let target = depot.target(prefix("p", "1"));
        let stop = std::future::pending();
        let refused = crate::bed::block_on(target.publish(tree, std::sync::Arc::new(|_| {}), stop));
        let refused = refused.unwrap_err();
        assert!(matches!(refused, DepotError::Key { .. }), "{refused}");
        std::fs::remove_file(path).unwrap();
    }
    assert!(server.seen().is_empty());
}

#[test]
fn progress_ends_with_everything() {
    let server = Server::start();
    let depot = depot(&server);
    let (_top, tree) = output(SITE);
    let bytes = tree.bytes();
    let last = std::sync::Arc::new(std::sync::Mutex::new(None));
    let told = std::sync::Arc::clone(&last);
    let progress = std::sync::Arc::new(move |amount| *told.lock().unwrap() = Some(amount));
    let target = depot.target(prefix("p", "1"));
    crate::bed::block_on(target.publish(tree, progress, std::future::pending())).unwrap();
    let whole = bryo_model::Amount::Bytes {
        done: bytes,
        total: bytes,
    };
    assert_eq!(*last.lock().unwrap(), Some(whole));
}
