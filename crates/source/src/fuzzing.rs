//! Invariants of what reads git's words, `.gitmodules`, and what the configuration says of hosts, for any bytes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bryo_model::fuzzing::Chance;
use bryo_model::{Amount, GitUrl};

use crate::git::Meter;
use crate::modules::declared;
use crate::tree::names;
use crate::{HostRule, Progress, UrlPrefix, git_failure, ssh};

/// Whatever git, ssh or a server writes becomes a cause and one line without secrets and without what moves a terminal's
/// cursor; progress is the same in whatever pieces it comes; rules of hosts and beginnings of addresses are as they are
/// shown.
///
/// # Panics
///
/// When an invariant is broken.
pub fn git_words(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let _ = git_failure::classify(text);
    let detail = git_failure::detail(text);
    assert!(
        !detail.is_empty() && !detail.contains(char::is_control),
        "{detail:?}"
    );
    for (at, _) in detail.match_indices("://") {
        let rest = &detail[at + 3..];
        let end = rest.find(|c: char| c == '/' || c == '\'' || c == '"' || c.is_whitespace());
        let authority = &rest[..end.unwrap_or(rest.len())];
        let shown = authority.rsplit_once('@').map(|(user, _)| user);
        assert!(shown.is_none_or(|user| user == "***"), "{detail:?}");
    }
    assert_eq!(progress([data]), progress(Chance::of(data).cut(data)));
    for (name, value) in ssh::parse(text) {
        assert!(
            !name.contains(' ') && !value.contains('\n'),
            "{name:?} {value:?}"
        );
    }
    if let Ok(rule) = text.parse::<HostRule>() {
        assert_eq!(rule.to_string(), text);
    }
    if let Ok(prefix) = text.parse::<UrlPrefix>() {
        assert_eq!(prefix.to_string().parse(), Ok(prefix.clone()));
        // Everything below it is its own, and what only begins with the same letters is not.
        let below = format!("{}/below/x", text.trim_end_matches('/'));
        if let Ok(url) = below.parse::<GitUrl>() {
            let suffix = text.trim_end_matches('/').ends_with(".git");
            assert!(suffix || prefix.is_for(&url), "{text:?}");
        }
    }
}

/// Whatever `.gitmodules` has: what is read of it leads to places in the tree, each to another one, and no name or address of
/// it can be taken for an option.
///
/// # Panics
///
/// When an invariant is broken.
pub fn gitmodules(data: &[u8]) {
    let Ok(all) = declared::parse(data) else {
        return;
    };
    let mut paths = BTreeSet::new();
    for one in all {
        for part in one.path.split('/') {
            assert_eq!(names::refusal(part.as_bytes()), None, "{one:?}");
        }
        assert!(paths.insert(one.path.to_lowercase()), "{one:?}");
        for text in [&one.name, &one.path, &one.url] {
            assert!(!text.is_empty() && !text.starts_with('-'), "{one:?}");
            assert!(!text.chars().any(char::is_control), "{one:?}");
        }
        assert!(
            one.name.split(['/', '\\']).all(|part| part != ".."),
            "{one:?}"
        );
    }
}

fn progress<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Amount> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let tell: Progress = Arc::new(move |amount| {
        let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(amount);
    });
    let mut meter = Meter::new(&tell);
    for piece in pieces {
        meter.feed(piece);
    }
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_words_hold_for_many_inputs() {
        bryo_model::fuzzing::check_many("git_words", git_words);
    }

    #[test]
    fn gitmodules_holds_for_many_inputs() {
        bryo_model::fuzzing::check_many("gitmodules", gitmodules);
    }
}
