use bryo_test_s3::{Fault, Seen, Server};

use super::*;
use crate::s3::settings::{Retry, S3Credentials, S3Settings, S3Tuning};
use crate::{StoreFault, s3::headers::Rules};

/// The object that no answer of a store may have us delete.
const VICTIM: &str = "guide/2/index.html";
/// What a URL makes of it is the key of the object above.
const DOTS: &str = "guide/1/../2/index.html";

fn client(server: &Server) -> Client {
    let settings = S3Settings {
        endpoint: server.endpoint.clone(),
        region: server.region.clone(),
        bucket: server.bucket.clone(),
        path_style: true,
        credentials: S3Credentials {
            access_key: server.access_key.clone(),
            secret_key: bryo_model::Secret::new(server.secret_key.clone()),
            session_token: None,
        },
        ca_bundle: None,
        parallel: 2,
    };
    let pause = std::time::Duration::from_millis(1);
    let retry = Retry {
        attempts: 2,
        first: pause,
        longest: pause,
    };
    let tuning = S3Tuning {
        retry,
        ..S3Tuning::default()
    };
    Client::new(&settings, &tuning).unwrap()
}

fn wait<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

/// To a request to delete several, what is wrong with one of them.
fn complains_of(key: &str) -> impl FnMut(&Seen) -> Option<Fault> + Send + use<> {
    let answer = format!(
        "<DeleteResult><Error><Key>{key}</Key><Code>InternalError</Code><Message>no</Message></Error></DeleteResult>"
    );
    move |seen| (seen.method == "POST").then(|| Fault::Answer(200, answer.clone()))
}

fn deletes(server: &Server) -> usize {
    let seen = server.seen();
    seen.iter().filter(|seen| seen.method == "DELETE").count()
}

#[test]
fn a_key_that_a_url_folds_is_kept_and_told() {
    let server = Server::start();
    let client = client(&server);
    for has_batches in [true, false] {
        for key in [VICTIM, "guide/1/a"] {
            server.put(key, b"1");
        }
        server.seen();
        if has_batches {
            server.faults(complains_of(DOTS));
        } else {
            let none = Fault::Status(501, "NotImplemented");
            server.faults(move |seen| (seen.method == "POST").then(|| none.clone()));
        }
        let keys = [DOTS, "guide/1/a", "guide/1/..\u{7}/../../2/index.html"].map(str::to_owned);
        let kept = wait(client.delete(&keys)).unwrap();
        server.no_faults();
        let left: Vec<_> = kept.iter().map(|kept| &*kept.key).collect();
        assert_eq!(left, [&*keys[0], &*keys[2]], "{has_batches}");
        assert!(kept[0].why.contains("a URL"), "{}", kept[0].why);
        assert!(kept[0].why.contains("\"..\""), "{}", kept[0].why);
        assert_eq!(deletes(&server), usize::from(!has_batches));
        assert!(server.object(VICTIM).is_some());
    }
}

#[test]
fn nothing_is_asked_with_a_key_that_a_url_folds() {
    let server = Server::start();
    server.put(VICTIM, b"1");
    server.seen();
    let client = client(&server);
    let headers = Rules::new(Vec::new()).headers("a.html");
    let content = Bytes::from_static(b"another");
    wait(async {
        for failed in [
            client.get(DOTS).await.map(drop),
            client.put(DOTS, &headers, &content).await.map(drop),
            client
                .put_if(DOTS, &headers, &content, Condition::Any)
                .await
                .map(drop),
            client.remove(DOTS).await,
            client.begin(DOTS, &headers).await.map(drop),
            client.abort(DOTS, "1").await,
            client.put_part(DOTS, "1", 1, &content).await.map(drop),
            client.complete(DOTS, "1", Vec::new()).await.map(drop),
        ] {
            let fault = StoreFault::Unnameable;
            assert!(matches!(failed, Err(DepotError::Store { fault: f, .. }) if f == fault));
        }
    });
    assert_eq!(server.seen(), []);
    assert_eq!(server.object(VICTIM).unwrap().bytes, b"1");
}

#[test]
fn a_stores_word_for_a_key_is_not_believed() {
    let server = Server::start();
    server.put(VICTIM, b"1");
    server.faults(complains_of(VICTIM));
    server.seen();
    let error = wait(client(&server).delete(&["guide/1/a".to_owned()])).unwrap_err();
    let fault = StoreFault::NotUnderstood;
    assert!(matches!(error, DepotError::Store { fault: f, .. } if f == fault));
    server.no_faults();
    assert_eq!(deletes(&server), 0);
    assert!(server.object(VICTIM).is_some());
}

#[test]
fn what_only_looks_like_a_probe_is_left_alone() {
    let server = Server::start();
    let left = ".bryo/probe-0123456789abcdef";
    let theirs = ".bryo/probe-of-somebody";
    for key in [left, theirs] {
        server.put(key, b"1");
    }
    wait(client(&server).probe()).unwrap();
    assert_eq!(server.keys(".bryo/"), [theirs]);
}

/// A page of a list after which there is more.
fn page(token: &str) -> String {
    format!(
        "<ListBucketResult><Name>docs</Name><Prefix></Prefix><MaxKeys>1</MaxKeys><IsTruncated>true</IsTruncated>{token}</ListBucketResult>"
    )
}

#[test]
fn a_list_without_an_end_is_no_list() {
    for (token, why, pages) in [
        ("", "says not where", 1),
        (
            "<NextContinuationToken>a</NextContinuationToken>",
            "goes on where it was",
            2,
        ),
    ] {
        let server = Server::start();
        server.faults(move |_| Some(Fault::Answer(200, page(token))));
        let error = wait(client(&server).list("", |_| {})).unwrap_err();
        let DepotError::Store { source, .. } = &error else {
            panic!("{error}");
        };
        assert!(source.to_string().contains(why), "{source}");
        assert_eq!(server.seen().len(), pages);
    }
}

#[test]
fn an_answer_without_an_end_is_not_read_to_it() {
    let server = Server::start();
    server.faults(|_| Some(Fault::Answer(200, " ".repeat(17 << 20))));
    let error = wait(client(&server).list("", |_| {})).unwrap_err();
    let DepotError::Store { source, .. } = &error else {
        panic!("{error}");
    };
    assert!(source.to_string().contains("longer than any"), "{source}");
    assert_eq!(server.seen().len(), 1, "it is not asked again");
}
