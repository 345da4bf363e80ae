//! The bucket held to the API's description, at the wire.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::*;

/// Status, headers in lower case, and body.
fn ask(bucket: &Bucket, request: &str, headers: &str, body: &str) -> (u16, String, String) {
    let mut connection = TcpStream::connect(&bucket.address).unwrap();
    let who = Bucket::ACCESS_KEY;
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 Credential={who}/x\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    connection.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn between<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    text.split(&*open)
        .skip(1)
        .map(|piece| piece.split(&*close).next().unwrap())
        .collect()
}

#[test]
fn an_object_from_its_writing_to_its_end() {
    let bucket = Bucket::start();
    let kind = "Content-Type: text/html\r\n";
    for (request, body, status, said) in [
        ("GET /docs/a/b%20c%25.html", "", 404, "NoSuchKey"),
        ("PUT /docs/a/b%20c%25.html", "hello", 200, ""),
        ("GET /docs/a/b%20c%25.html", "", 200, "hello"),
        ("HEAD /docs/a/b%20c%25.html", "", 200, ""),
        ("PUT /other/a", "hello", 404, "NoSuchBucket"),
        ("DELETE /docs/a/b%20c%25.html", "", 204, ""),
        ("DELETE /docs/a/b%20c%25.html", "", 204, ""),
        ("HEAD /docs/a/b%20c%25.html", "", 404, ""),
    ] {
        let (told, head, text) = ask(&bucket, request, kind, body);
        assert_eq!(told, status, "{request}");
        assert!(text.contains(said), "{request}: {text}");
        if told == 200 {
            assert!(
                head.contains("etag: \"5d41402abc4b2a76b9719d911017c592\""),
                "{head}"
            );
        }
    }
    assert_eq!(bucket.puts(), ["a/b c%.html"]);
    let mut stranger = TcpStream::connect(&bucket.address).unwrap();
    stranger.write_all(b"GET /docs/a HTTP/1.1\r\n\r\n").unwrap();
    stranger.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stranger.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
}

#[test]
fn a_list_has_pages() {
    let bucket = Bucket::start();
    for n in 0..45 {
        ask(&bucket, &format!("PUT /docs/x/{n:02}%26"), "", "1");
    }
    ask(&bucket, "PUT /docs/y/1", "", "1");
    let mut keys = Vec::new();
    let mut pages = 0;
    let mut more = String::new();
    loop {
        let request = format!("GET /docs/?list-type=2&prefix=x%2F{more}");
        let (_, _, text) = ask(&bucket, &request, "", "");
        pages += 1;
        keys.extend(between(&text, "Key").into_iter().map(str::to_owned));
        match between(&text, "NextContinuationToken").first() {
            Some(token) => {
                let token = token.replace("&amp;", "%26").replace('/', "%2F");
                more = format!("&continuation-token={token}");
            }
            None => break,
        }
    }
    let expected: Vec<_> = (0..45).map(|n| format!("x/{n:02}&amp;")).collect();
    assert_eq!((keys, pages), (expected, 3));
}

#[test]
fn a_large_object_comes_in_parts() {
    let bucket = Bucket::start();
    let (_, _, text) = ask(
        &bucket,
        "POST /docs/large?uploads",
        "Content-Type: a/b\r\n",
        "",
    );
    let id = between(&text, "UploadId")[0].to_owned();
    for (number, body) in [(2, "second"), (1, "first ")] {
        let request = format!("PUT /docs/large?partNumber={number}&uploadId={id}");
        assert_eq!(ask(&bucket, &request, "", body).0, 200);
    }
    assert!(bucket.objects().is_empty());
    let request = format!("POST /docs/large?uploadId={id}");
    assert_eq!(ask(&bucket, &request, "", "<x/>").0, 200);
    let object = &bucket.objects()["large"];
    assert_eq!(
        (object.bytes.as_slice(), object.kind.as_str()),
        (b"first second".as_slice(), "a/b")
    );
}

#[test]
fn faults_come_when_they_are_due() {
    let bucket = Bucket::start();
    bucket.storm(1);
    bucket.cut_after(1);
    let mut told = Vec::new();
    for n in 0..4 {
        let mut connection = TcpStream::connect(&bucket.address).unwrap();
        let who = Bucket::ACCESS_KEY;
        let head = format!(
            "PUT /docs/{n} HTTP/1.1\r\nAuthorization: Credential={who}/\r\nContent-Length: 1\r\n\r\nx"
        );
        connection.write_all(head.as_bytes()).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        let _ = connection.read_to_string(&mut said);
        told.push(said.get(9..12).unwrap_or_default().to_owned());
    }
    assert_eq!(
        told,
        ["503", "200", "200", "200"].map(str::to_owned).as_slice()
    );
    // The second of them got a status line and nothing more.
    assert_eq!(bucket.puts(), ["2", "3"]);
}

#[test]
fn a_put_has_conditions() {
    let bucket = Bucket::start();
    let tag = "\"5d41402abc4b2a76b9719d911017c592\"";
    for (headers, body, status) in [
        (format!("If-Match: {tag}\r\n"), "hello", 412),
        ("If-None-Match: *\r\n".to_owned(), "hello", 200),
        ("If-None-Match: *\r\n".to_owned(), "other", 412),
        (format!("If-Match: {tag}\r\n"), "other", 200),
        (format!("If-Match: {tag}\r\n"), "third", 412),
        (String::new(), "fourth", 200),
    ] {
        let (told, _, text) = ask(&bucket, "PUT /docs/a", &headers, body);
        assert_eq!(told, status, "{headers}{body}: {text}");
    }
    assert_eq!(bucket.puts().len(), 3);
}

#[test]
fn keys_may_be_denied_something() {
    let bucket = Bucket::start();
    bucket.deny("PUT", ".bryo/");
    assert_eq!(ask(&bucket, "PUT /docs/.bryo/a", "", "x").0, 403);
    assert_eq!(ask(&bucket, "PUT /docs/a", "", "x").0, 200);
    assert_eq!(
        ask(&bucket, "GET /docs/?list-type=2&prefix=.bryo/", "", "").0,
        200
    );
    bucket.calm();
    assert_eq!(ask(&bucket, "PUT /docs/.bryo/a", "", "x").0, 200);
}
