//! The stand-in held to what the real server was seen to do, at the wire.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::doc_thor::{DocThor, Endpoint, Fault, Status, TOKEN};
use crate::{Gate, wait_until};

/// Status, content type and body.
type Said = (u16, String, Vec<u8>);

fn say(server: &DocThor, request: &str, authorization: Option<&str>, body: &str) -> Said {
    let raw = raw(server, request, authorization, body);
    let text = String::from_utf8_lossy(&raw);
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Type: "));
    let body = raw[head.len() + 4..].to_vec();
    (status, kind.unwrap_or_default().to_owned(), body)
}

/// Everything that comes until the server closes.
fn raw(server: &DocThor, request: &str, authorization: Option<&str>, body: &str) -> Vec<u8> {
    let mut connection = TcpStream::connect(server.address()).unwrap();
    let authorization =
        authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = Vec::new();
    let _ = connection.read_to_end(&mut said);
    said
}

fn key() -> String {
    format!("Bearer {TOKEN}")
}

fn ask(server: &DocThor, request: &str, body: &str) -> (u16, Value) {
    let (status, kind, body) = say(server, request, Some(&key()), body);
    if status == 204 {
        assert!(body.is_empty() && kind.is_empty());
        return (status, Value::Null);
    }
    assert_eq!(kind, "application/json");
    (status, serde_json::from_slice(&body).unwrap())
}

fn with_builds(tags: &[&str]) -> DocThor {
    let server = DocThor::start();
    server.project("site", "https://git.example/site.git", "docs/mkdocs:9");
    for tag in tags {
        server.trigger("site", "main", tag);
    }
    server
}

#[test]
fn who_may() {
    let server = with_builds(&[]);
    for (authorization, status) in [
        (Some(key()), 204),
        (None, 401),
        (Some(format!("bearer {TOKEN}")), 401),
        (Some(format!("Bearer  {TOKEN}")), 401),
        (Some(format!("Bearer {}", TOKEN.to_uppercase())), 401),
        (Some(TOKEN.to_owned()), 401),
        (Some("Bearer ".to_owned()), 401),
    ] {
        let said = say(
            &server,
            "GET /api/v1/builds/pending",
            authorization.as_deref(),
            "",
        );
        assert_eq!(said.0, status, "{authorization:?}");
        if status == 401 {
            assert_eq!(said.2, br#"{"error":"unauthorized"}"#);
        }
    }
    assert_eq!(say(&server, "GET /health", None, "").0, 200);
    server.revoke();
    assert_eq!(ask(&server, "GET /api/v1/builds/pending", "").0, 401);
    server.restore();
    assert_eq!(ask(&server, "GET /api/v1/builds/pending", "").0, 204);
}

#[test]
fn a_claim_has_six_texts_and_takes_the_oldest() {
    let server = with_builds(&["v1", ""]);
    let (status, claim) = ask(&server, "GET /api/v1/builds/pending", "");
    let six = json!({"id": "1", "project_slug": "site", "version": "v1", "source_url": "https://git.example/site.git",
        "ref": "main", "docker_image": "docs/mkdocs:9"});
    assert_eq!((status, claim), (200, six));
    assert_eq!(server.build(1).status, Status::Running);
    let (.., body) = say(&server, "GET /api/v1/builds/pending", Some(&key()), "");
    assert!(body.starts_with(br#"{"id":"2","project_slug":"site","version":"","source_url":"#));
    server.trigger("site", "", "");
    let (_, claim) = ask(&server, "GET /api/v1/builds/pending", "");
    assert_eq!((&claim["id"], &claim["version"]), (&json!("3"), &json!("")));
    assert_eq!(
        ask(&server, "GET /api/v1/builds/pending", ""),
        (204, Value::Null)
    );
    assert_eq!((server.build(1).claims, server.build(2).claims), (1, 1));
}

#[test]
fn every_claim_is_handed_out_once() {
    let server = with_builds(&["v"; 40]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| while ask(&server, "GET /api/v1/builds/pending", "").0 == 200 {});
        }
    });
    assert!(server.look(|h| h.builds().iter().all(|build| build.claims == 1)));
}

#[test]
fn what_becomes_of_reports() {
    let server = with_builds(&["v1", "", "v1", "v2"]);
    for _ in 0..3 {
        ask(&server, "GET /api/v1/builds/pending", "");
    }
    let refused = |status: u16, text: &str| {
        (
            status,
            Some(text.to_owned()),
            None::<(Status, Option<&str>)>,
        )
    };
    // (build, body) -> status, error text, what the build is then
    for (id, body, (status, error, stored)) in [
        (
            "x",
            r#"{"status":"success"}"#,
            refused(400, "invalid build id"),
        ),
        (
            "-1",
            r#"{"status":"success"}"#,
            refused(400, "invalid build id"),
        ),
        ("1", "{", refused(400, "invalid request body")),
        ("1", r#"{"status":7}"#, refused(400, "invalid request body")),
        (
            "1",
            r#"{"status":"failed","logs":[]}"#,
            refused(400, "invalid request body"),
        ),
        ("1", "{}", refused(400, "status must be success or failed")),
        (
            "1",
            r#"{"status":"running"}"#,
            refused(400, "status must be success or failed"),
        ),
        (
            "9",
            r#"{"status":"success"}"#,
            refused(404, "build not found"),
        ),
        // Nobody has claimed it.
        (
            "4",
            r#"{"status":"success"}"#,
            refused(409, "build is not in running state"),
        ),
        (
            "1",
            r#"{"job_id":"1","status":"success","duration":"1m2.5s","logs":"a"}"#,
            (200, None, Some((Status::Success, Some("a")))),
        ),
        (
            "1",
            r#"{"status":"success"}"#,
            refused(409, "build is not in running state"),
        ),
        (
            "2",
            r#"{"status":"failed","error":"run: x"}"#,
            (200, None, Some((Status::Failed, None))),
        ),
        // The version exists: it took effect, and says that it did not; then it says that for ever.
        (
            "3",
            r#"{"status":"success","logs":"late"}"#,
            (
                500,
                Some("database error".to_owned()),
                Some((Status::Success, Some("late"))),
            ),
        ),
        (
            "3",
            r#"{"status":"success"}"#,
            refused(409, "build is not in running state"),
        ),
        (
            "3",
            r#"{"status":"failed"}"#,
            refused(409, "build is not in running state"),
        ),
    ] {
        let (told, said) = ask(&server, &format!("POST /api/v1/builds/{id}/result"), body);
        assert_eq!(
            (told, said["error"].as_str().filter(|_| told != 200)),
            (status, error.as_deref()),
            "{id} {body}"
        );
        if let Some((expected, logs)) = stored {
            let build = server.build(id.parse().unwrap());
            assert_eq!((build.status, build.logs.as_deref()), (expected, logs));
        }
    }
    assert_eq!(server.build(3).reports, [500, 409, 409]);
    assert_eq!(server.build(2).error.as_deref(), Some("run: x"));
}

#[test]
fn a_report_is_answered_with_the_whole_build() {
    let server = with_builds(&["v1"]);
    ask(&server, "GET /api/v1/builds/pending", "");
    let (_, build) = ask(
        &server,
        "POST /api/v1/builds/1/result",
        r#"{"status":"failed","error":"e","logs":"l"}"#,
    );
    let mut members: Vec<_> = build.as_object().unwrap().keys().cloned().collect();
    members.sort();
    let expected =
        "created_at error finished_at id logs project_id ref started_at status tag updated_at";
    assert_eq!(members.join(" "), expected);
    // A number here, a text in the claim.
    assert_eq!(build["id"], 1);
}

#[test]
fn twenty_megabytes_of_logs_come_back_whole() {
    let server = with_builds(&["v1"]);
    ask(&server, "GET /api/v1/builds/pending", "");
    let body = json!({"status": "success", "logs": "x".repeat(20_000_000)}).to_string();
    assert_eq!(ask(&server, "POST /api/v1/builds/1/result", &body).0, 200);
    let (_, builds) = ask(&server, "GET /api/v1/projects/site/builds", "");
    assert_eq!(builds[0]["logs"].as_str().unwrap().len(), 20_000_000);
}

#[test]
fn a_deleted_project_takes_its_builds_along() {
    let server = with_builds(&["v1"]);
    ask(&server, "GET /api/v1/builds/pending", "");
    assert_eq!(ask(&server, "DELETE /api/v1/projects/site", "").0, 204);
    let told = ask(
        &server,
        "POST /api/v1/builds/1/result",
        r#"{"status":"success"}"#,
    );
    assert_eq!(told, (404, json!({"error": "build not found"})));
}

#[test]
fn projects_builds_and_versions() {
    let server = DocThor::start();
    let project = r#"{"slug":"a","name":"A","source_url":"https://x/y"}"#;
    for (request, body, status) in [
        ("POST /api/v1/projects", project, 201),
        ("POST /api/v1/projects", project, 409),
        ("POST /api/v1/projects", r#"{"slug":"b","name":"B"}"#, 400),
        ("POST /api/v1/projects/a/builds", "", 201),
        (
            "POST /api/v1/projects/a/builds",
            r#"{"ref":"main","tag":"v1"}"#,
            201,
        ),
        ("POST /api/v1/projects/none/builds", "", 404),
        ("GET /api/v1/projects/a/builds/2", "", 200),
        ("GET /api/v1/nothing", "", 404),
    ] {
        assert_eq!(ask(&server, request, body).0, status, "{request} {body}");
    }
    for _ in 0..20 {
        server.trigger("a", "", "");
    }
    let ids = |query: &str| -> Vec<u64> {
        let (_, builds) = ask(
            &server,
            &format!("GET /api/v1/projects/a/builds{query}"),
            "",
        );
        let builds = builds.as_array().unwrap();
        builds
            .iter()
            .map(|build| build["id"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(ids(""), (3..=22).rev().collect::<Vec<_>>());
    assert_eq!(ids("?limit=2&offset=20"), [2, 1]);
    ask(&server, "GET /api/v1/builds/pending", "");
    ask(&server, "GET /api/v1/builds/pending", "");
    for id in [1, 2] {
        let path = format!("POST /api/v1/builds/{id}/result");
        assert_eq!(ask(&server, &path, r#"{"status":"success"}"#).0, 200);
    }
    // A build without a tag makes no version.
    let (_, versions) = ask(&server, "GET /api/v1/projects/a/versions", "");
    assert_eq!(versions.as_array().unwrap().len(), 1);
    assert_eq!(
        (&versions[0]["version"], &versions[0]["build_id"]),
        (&json!("v1"), &json!(2))
    );
    let (_, projects) = ask(&server, "GET /api/v1/projects", "");
    assert_eq!(projects[0]["versions"], json!(["v1"]));
}

#[test]
fn faults_come_in_order_and_say_whether_they_took_effect() {
    let pending = "GET /api/v1/builds/pending";
    let server = with_builds(&["v1", "v2"]);
    server.fault(Endpoint::Claim, Fault::Says(503, "busy".to_owned()), 2);
    server.fault(Endpoint::Claim, Fault::LostBefore, 1);
    server.fault(
        Endpoint::Claim,
        Fault::Redirect(307, "http://elsewhere/".to_owned()),
        1,
    );
    server.fault(Endpoint::Claim, Fault::Garbage, 1);
    for _ in 0..2 {
        assert_eq!(say(&server, pending, Some(&key()), "").0, 503);
    }
    assert!(raw(&server, pending, Some(&key()), "").is_empty());
    assert_eq!(say(&server, pending, Some(&key()), "").0, 307);
    assert!(raw(&server, pending, Some(&key()), "").starts_with(b"\x16"));
    assert_eq!(server.build(1).claims, 0);
    server.fault(Endpoint::Claim, Fault::CutInBody, 1);
    server.fault(Endpoint::Claim, Fault::Lost, 1);
    let cut = raw(&server, pending, Some(&key()), "");
    assert!(cut.starts_with(b"HTTP/1.1 200") && !cut.ends_with(b"}"));
    assert!(raw(&server, pending, Some(&key()), "").is_empty());
    assert_eq!((server.build(1).claims, server.build(2).claims), (1, 1));
    assert_eq!(ask(&server, pending, "").0, 204);
}

#[test]
fn what_hangs_goes_on_when_its_gate_opens() {
    let server = with_builds(&["v1"]);
    let gate = Gate::new();
    server.fault(Endpoint::Claim, Fault::Hangs(gate.clone()), 1);
    let told = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&server, "GET /api/v1/builds/pending", ""));
        wait_until("the request hangs", || gate.waiting() == 1);
        assert_eq!(server.build(1).status, Status::Running);
        gate.open();
        asking.join().unwrap()
    });
    assert_eq!(told.0, 200);
}

#[test]
fn away_is_refused_and_back_is_the_same_server() {
    let mut server = with_builds(&["v1"]);
    let mut open = TcpStream::connect(server.address()).unwrap();
    server.wait("it is connected", |h| h.accepted() == 1);
    server.away();
    assert!(TcpStream::connect(server.address()).is_err());
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
    server.back();
    assert_eq!(ask(&server, "GET /api/v1/builds/pending", "").0, 200);
}
