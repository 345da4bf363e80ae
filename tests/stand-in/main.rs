//! Server and bucket of the stories as a program of its own, for guests in which there is no Rust: a stand-in for doc-thor's
//! server and for an S3 store, neither of which is there.
//!
//! It reads one command in each line of standard input and answers each with one line of standard output:
//!
//! ```text
//! server                   the URL of the server
//! s3                       the URL of the store
//! token | bucket | access-key | secret-key
//! project SLUG SOURCE IMAGE
//! trigger SLUG TAG         the id of the build
//! status ID                pending, running, success or failed
//! error ID                 what was reported as its error
//! claims ID                how often it was handed out
//! keys PREFIX              what lies below it, without the prefix
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::io::{BufRead, Write};

use bryo_stories::{Bucket, DocThor, TOKEN};

fn main() {
    let (server, bucket) = (DocThor::start(), Bucket::start());
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = answer(&server, &bucket, &words);
        let mut out = std::io::stdout();
        writeln!(out, "{}", answer.replace('\n', " ")).unwrap();
        out.flush().unwrap();
    }
}

fn answer(server: &DocThor, bucket: &Bucket, words: &[&str]) -> String {
    let build = |id: &str| server.build(id.parse().unwrap());
    match words {
        ["server"] => server.url(),
        ["s3"] => bucket.endpoint(),
        ["token"] => TOKEN.to_owned(),
        ["bucket"] => Bucket::NAME.to_owned(),
        ["access-key"] => Bucket::ACCESS_KEY.to_owned(),
        ["secret-key"] => Bucket::SECRET_KEY.to_owned(),
        ["project", slug, source, image] => {
            server.project(slug, source, image);
            String::new()
        }
        ["trigger", slug, tag] => server.trigger(slug, "", tag).to_string(),
        ["status", id] => format!("{:?}", build(id).status).to_ascii_lowercase(),
        ["error", id] => build(id).error.unwrap_or_default(),
        ["claims", id] => build(id).claims.to_string(),
        ["keys", prefix] => {
            let keys: Vec<String> = bucket.below(prefix).into_keys().collect();
            keys.join(" ")
        }
        other => panic!("{other:?} is no command"),
    }
}
