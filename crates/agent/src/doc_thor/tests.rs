use std::time::Duration;

use bryo_model::{Failure, OutOfMemory, Stage, TimeLimit, Verdict};

use super::claim::salvage;
use super::result::{ResultText, go_duration};
use super::*;

#[test]
fn a_claim_is_read() {
    let body = br#"{"id":"17","project_slug":"docs","version":"1.0","source_url":"https://h/x","ref":"main","docker_image":"i"}"#;
    let claim = Claim::parse(body).unwrap();
    assert_eq!(claim.id.to_string(), "17");
    assert_eq!(claim.wishes.reference, "main");
    assert_eq!(claim.wishes.title(), "docs 1.0");
    let again = Claim::from_record("17", &claim.to_json()).unwrap();
    assert_eq!(again, claim);
    // A later server may say more; an earlier one less.
    let more = br#"{"id":"0","project_slug":"docs","priority":7}"#;
    assert_eq!(Claim::parse(more).unwrap().wishes.version, "");
}

#[test]
fn what_is_no_claim_keeps_its_id_where_it_has_one() {
    for (body, id) in [
        (&br#"{"id":"17","project_slug":"do"#[..], Some("17")),
        (br#"{ "id" : "17", "version": 3}"#, Some("17")),
        (br#"{"id":"17""#, Some("17")),
        (br#"{"id":"17"#, None),
        (br#"{"id":"1/../2","project_slug":"x"}"#, None),
        (br#"{"id":"-1"}"#, None),
        (br#"{"id":"007"}"#, None),
        (br#"{"id":""}"#, None),
        (br#"{"id":17}"#, None),
        (br#"{"id":"99999999999999999999999999"}"#, None),
        (b"<html>", None),
        (b"", None),
        (b"null", None),
    ] {
        let fault = Claim::parse(body).unwrap_err();
        let found = fault.id.map(|id| id.to_string());
        assert_eq!(found.as_deref(), id, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(salvage(br#"{"x":"id","id":"1"}"#), None);
}

#[test]
fn durations_are_those_of_go() {
    for (ms, text) in [
        (0, "0s"),
        (1, "1ms"),
        (350, "350ms"),
        (1000, "1s"),
        (2500, "2.5s"),
        (62_500, "1m2.5s"),
        (300_000, "5m0s"),
        (3_723_004, "1h2m3.004s"),
    ] {
        assert_eq!(go_duration(Duration::from_millis(ms)), text);
    }
}

#[test]
fn errors_have_the_words_of_doc_thor() {
    let text = |verdict: Verdict, stage| {
        ResultText::of(&verdict, stage, Duration::from_secs(300)).map(|text| text.0)
    };
    assert_eq!(text(Verdict::Succeeded, Stage::Publish), None);
    for (verdict, stage, wanted) in [
        (
            Verdict::Failed(Failure::ExitCode(3)),
            Stage::Run,
            "run: container exited with code 3",
        ),
        (
            Verdict::Failed(Failure::OutputEmpty),
            Stage::Collect,
            "collect: output directory is empty",
        ),
        (
            Verdict::Failed(Failure::RefMissing("no such branch".to_owned())),
            Stage::Fetch,
            "pull: no such branch",
        ),
        (
            Verdict::Failed(Failure::ImageMissing("no such image".to_owned())),
            Stage::Prepare,
            "run: no such image",
        ),
        (
            Verdict::TimedOut(TimeLimit::Stage, Stage::Run),
            Stage::Run,
            "run: container exceeded timeout of 5m0s",
        ),
        (
            Verdict::OutOfMemory(OutOfMemory::Job),
            Stage::Run,
            "run: the job used more memory",
        ),
        (
            Verdict::Infrastructure("the bucket is gone".to_owned()),
            Stage::Publish,
            "upload: the bucket is gone",
        ),
        (
            Verdict::Cancelled(Stage::Run),
            Stage::Run,
            "run: the agent was stopped",
        ),
    ] {
        let found = text(verdict, stage).unwrap();
        assert!(found.starts_with(wanted), "{found}");
    }
}

#[test]
fn a_result_is_what_the_server_reads() {
    let id: BuildId = "17".parse().unwrap();
    let good = BuildResult::new(id, true, None).took(Duration::from_millis(62_500));
    assert_eq!(
        good.to_body(),
        r#"{"job_id":"17","status":"success","duration":"1m2.5s"}"#
    );
    let bad = BuildResult::new(id, false, Some(ResultText::refused(Stage::Fetch, "no")))
        .with_logs("é\n".to_owned());
    assert_eq!(
        bad.to_body(),
        r#"{"job_id":"17","status":"failed","duration":"0s","error":"pull: no","logs":"é\n"}"#
    );
}

#[test]
fn a_log_that_is_too_long_becomes_shorter_until_there_is_none() {
    let id: BuildId = "17".parse().unwrap();
    let mut body = BuildResult::new(id, true, None)
        .with_logs("é".repeat(100_000))
        .to_body();
    let mut times = 0;
    while let Some(less) = BuildResult::with_less_log(&body) {
        assert!(less.len() < body.len());
        body = less;
        times += 1;
    }
    assert!((5..20).contains(&times), "{times}");
    assert!(!body.contains("logs"), "{body}");
}
