//! What a run of `bryo` said.

use serde_json::Value;

/// The end of a run.
#[derive(Debug)]
pub struct Told {
    /// The exit code.
    pub code: i32,
    /// Standard output, as it came.
    pub stdout: Vec<u8>,
    /// Standard error, as it came.
    pub stderr: Vec<u8>,
}

impl Told {
    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The report: standard output is exactly one JSON object.
    #[must_use]
    pub fn report(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("no report: {e}\n{}\n{}", self.out(), self.err()))
    }

    /// Checks exit code and verdict.
    #[track_caller]
    pub fn ended(&self, code: i32, verdict: &str) -> Value {
        let report = self.report();
        assert_eq!(
            (self.code, report["verdict"].as_str().unwrap()),
            (code, verdict),
            "{report:#}\n{}",
            self.err()
        );
        assert_eq!(report["leftovers"], serde_json::json!([]), "{report:#}");
        report
    }

    /// Checks that the reason contains these words.
    #[track_caller]
    pub fn because(&self, words: &str) {
        let report = self.report();
        let reason = report["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(words), "{words:?} is not in {reason:?}");
    }
}
