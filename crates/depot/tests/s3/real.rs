use crate::bed::{depot, publish, real, slug};

#[test]
fn odd_names_are_kept_as_they_are() {
    let Some(store) = real() else { return };
    let slug = slug("odd");
    let depot = depot(&store);
    let names = [
        "a b.txt",
        "a+b.txt",
        "a%20b.txt",
        "100%.txt",
        "ü/ß.txt",
        "q?x=1&y=2.txt",
        "h#1.txt",
        "[x].txt",
        "a\\b.txt",
        "'quoted'.txt",
        "\"double\".txt",
        "<tag>&amp;.txt",
        "~tilde.txt",
        "a;b=c,d@e:f!g$h(i)*j.txt",
        "…/emoji-🌱.txt",
        "%2e%2e/x.txt",
        ".hidden",
        "trailing.",
        " leading",
    ];
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    let done = publish(&depot, (&slug, "v+1 %ü"), &files).unwrap();
    assert_eq!(done.put, names.len() as u64);
    let mut wanted: Vec<_> = names
        .iter()
        .map(|name| format!("{slug}/v+1 %ü/{name}"))
        .collect();
    wanted.sort();
    assert_eq!(store.keys(&format!("{slug}/")), wanted);
    files.truncate(1);
    assert_eq!(
        publish(&depot, (&slug, "v+1 %ü"), &files).unwrap().removed,
        names.len() as u64 - 1
    );
    assert_eq!(store.keys(&format!("{slug}/")).len(), 1);
}

#[test]
fn the_empty_version_is_one_of_its_own() {
    let Some(store) = real() else { return };
    let slug = slug("empty");
    let depot = depot(&store);
    let files: &[(&str, &[u8])] = &[("index.html", b"1"), ("1/index.html", b"2")];
    publish(&depot, (&slug, "1"), files).unwrap();
    publish(&depot, (&slug, ""), files).unwrap();
    assert_eq!(
        store.keys(&format!("{slug}/")),
        [
            "/1/index.html",
            "/index.html",
            "1/1/index.html",
            "1/index.html"
        ]
        .map(|key| format!("{slug}/{key}"))
    );
    assert_eq!(
        publish(&depot, (&slug, ""), &files[..1]).unwrap().removed,
        1
    );
    assert_eq!(store.keys(&format!("{slug}/1/")).len(), 2);
}
