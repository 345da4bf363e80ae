//! What a browser and a cache are told of a file: its type, and how long it may be kept.
//!
//! A file's headers depend on its path and on the rules alone. [`Rules::digest`] stands for all of that: two publishes with
//! the same digest give every file the same headers, and only then may an object that is there already be left alone.

use std::fmt::Write as _;
use std::path::Path;

use glob::{MatchOptions, Pattern};
use mime_guess::mime;
use sha2::{Digest, Sha256};

/// Of a file whose extension tells nothing.
const FALLBACK: &str = "application/octet-stream";

/// Counted up when the types of files change by a change of ours; those of the library are in the digest by samples.
const GENERATION: u32 = 1;

const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Which files get which `Cache-Control` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRule {
    pattern: Pattern,
    any_depth: bool,
    value: String,
}

/// Why a cache rule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCacheRule {
    /// The pattern cannot be read.
    #[error("the pattern {0:?} cannot be read ({1}); write one like \"*.css\" or \"assets/**\"")]
    Pattern(String, String),
    /// The value cannot stand in a header.
    #[error("{0:?} is no value for Cache-Control; write one like \"max-age=3600\"")]
    Value(String),
}

impl CacheRule {
    /// Files whose path within the output matches `pattern` get `value`. `*` and `?` do not match a slash, `**` does; a
    /// pattern without a slash is compared with the file's name, at any depth.
    ///
    /// # Errors
    ///
    /// [`InvalidCacheRule`] with an example.
    pub fn new(pattern: &str, value: &str) -> Result<Self, InvalidCacheRule> {
        let compiled = Pattern::new(pattern)
            .map_err(|e| InvalidCacheRule::Pattern(pattern.to_owned(), e.to_string()))?;
        let printable = |c: char| c.is_ascii_graphic() || c == ' ';
        if value.trim().is_empty() || !value.chars().all(printable) {
            return Err(InvalidCacheRule::Value(value.to_owned()));
        }
        Ok(Self {
            any_depth: !pattern.contains('/'),
            pattern: compiled,
            value: value.trim().to_owned(),
        })
    }

    fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        let compared = if self.any_depth { name } else { path };
        self.pattern.matches_with(compared, MATCHING)
    }
}

/// The headers of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) content_type: String,
    pub(crate) cache_control: Option<String>,
}

/// How files get their headers.
#[derive(Clone, Debug)]
pub(crate) struct Rules(Vec<CacheRule>);

impl Rules {
    pub(crate) fn new(rules: Vec<CacheRule>) -> Self {
        Self(rules)
    }

    /// Those of the file at `path` within the output.
    pub(crate) fn headers(&self, path: &str) -> Headers {
        let rule = self.0.iter().find(|rule| rule.matches(path));
        Headers {
            content_type: content_type(path),
            cache_control: rule.map(|rule| rule.value.clone()),
        }
    }

    /// The same for the same rules, and another for others.
    pub(crate) fn digest(&self) -> String {
        let mut text = format!("{GENERATION}\n");
        for extension in [
            "html", "js", "css", "json", "svg", "woff2", "xml", "wasm", "md",
        ] {
            let _ = writeln!(text, "{}", content_type(&format!("x.{extension}")));
        }
        for rule in &self.0 {
            let _ = writeln!(text, "{}\n{}", rule.pattern, rule.value);
        }
        let mut hex = String::with_capacity(32);
        for byte in &Sha256::digest(text)[..16] {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

fn content_type(path: &str) -> String {
    match mime_guess::from_path(Path::new(path)).first() {
        Some(kind) if kind.type_() == mime::TEXT && kind.get_param(mime::CHARSET).is_none() => {
            format!("{kind}; charset=utf-8")
        }
        Some(kind) => kind.to_string(),
        None => FALLBACK.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_by_the_extension() {
        for (path, wanted) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/INDEX.HTML", "text/html; charset=utf-8"),
            ("a.htm", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "application/javascript"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("sitemap.xml", "text/xml; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.png", "image/png"),
            ("a.woff2", "font/woff2"),
            ("a.wasm", "application/wasm"),
            ("a.pdf", "application/pdf"),
            ("sitemap.xml.gz", "application/gzip"),
            ("CNAME", FALLBACK),
            (".nojekyll", FALLBACK),
            ("a.b/c", FALLBACK),
            ("a.unknown-thing", FALLBACK),
        ] {
            assert_eq!(content_type(path), wanted, "{path}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |pattern, value| CacheRule::new(pattern, value).unwrap();
        let rules = Rules::new(vec![
            rule("*.html", "no-cache"),
            rule("assets/**", "max-age=31536000, immutable"),
            rule("img/*", "max-age=60"),
        ]);
        for (path, wanted) in [
            ("index.html", Some("no-cache")),
            ("a/b/c.html", Some("no-cache")),
            ("assets/x.html", Some("no-cache")),
            ("assets/js/x.js", Some("max-age=31536000, immutable")),
            ("my/assets/x.js", None),
            ("img/x.png", Some("max-age=60")),
            ("img/deep/x.png", None),
            ("x.js", None),
        ] {
            assert_eq!(
                rules.headers(path).cache_control.as_deref(),
                wanted,
                "{path}"
            );
        }
        assert!(CacheRule::new("a[", "x").is_err());
        assert!(CacheRule::new("*", "x\r\nEvil: y").is_err());
        assert!(CacheRule::new("*", " ").is_err());
    }

    #[test]
    fn other_rules_have_another_digest() {
        let rule = |pattern, value| CacheRule::new(pattern, value).unwrap();
        let digests = [
            Rules::new(vec![]),
            Rules::new(vec![rule("*", "a")]),
            Rules::new(vec![rule("*", "b")]),
            Rules::new(vec![rule("*", "a"), rule("*.css", "b")]),
            Rules::new(vec![rule("*.css", "b"), rule("*", "a")]),
        ]
        .map(|rules| rules.digest());
        for (i, digest) in digests.iter().enumerate() {
            assert_eq!(digest.len(), 32);
            assert!(!digests[..i].contains(digest));
        }
    }
}
