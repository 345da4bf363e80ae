//! Invariants of the parsers for any input, and the means to try many inputs without a fuzzer.
//!
//! `fuzz/` feeds these functions with what libFuzzer invents; ordinary tests feed them with the committed corpus and with
//! inputs made from it by chance, from a fixed seed. A broken invariant is a failed assertion.

use std::fmt::{Debug, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::{
    ByteSize, Ceiling, Cpus, Destination, GitRef, GitUrl, Limits, Scheme, StageLimit, StopSignal,
    SubDir, Weight, parse_duration,
};

/// Inputs that a test tries beside the corpus.
const INPUTS: u32 = 4000;

/// Xorshift (Marsaglia 2003): the same numbers on every machine.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// The numbers that belong to these bytes.
    #[must_use]
    pub fn of(seed: &[u8]) -> Self {
        let fold = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(seed.iter().fold(0xcbf2_9ce4_8422_2325, fold) | 1)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let number = usize::try_from(self.0 >> 16).unwrap_or(0);
        number.checked_rem(end).unwrap_or(0)
    }

    /// The bytes, cut into pieces at random places.
    pub fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let (mut rest, mut pieces) = (bytes, Vec::new());
        let most = 1 + self.below(bytes.len().min(40));
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.below(most + 1).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// Checks the target's corpus, and inputs made from it.
///
/// # Panics
///
/// When an invariant is broken, or there is no corpus.
pub fn check_many(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().filter_map(|f| fs::read(f).ok()).collect();
    assert!(!corpus.is_empty(), "no corpus in {}", dir.display());
    for input in &corpus {
        check(input);
    }
    let mut chance = Chance::of(target.as_bytes());
    for _ in 0..INPUTS {
        let start = &corpus[chance.below(corpus.len())];
        check(&changed(start, &corpus, &mut chance));
    }
}

/// A few bytes other, more or fewer; parts doubled or taken from other inputs.
fn changed(input: &[u8], corpus: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=chance.below(6) {
        let at = chance.below(out.len() + 1);
        let other = &corpus[chance.below(corpus.len())];
        match chance.below(5) {
            0 => out.truncate(at),
            1 => out.insert(at, u8::try_from(chance.below(256)).unwrap_or(0)),
            2 if at < out.len() => out[at] ^= 1 << chance.below(8),
            3 if at < out.len() => drop(out.remove(at)),
            _ => {
                let from = chance.below(other.len() + 1);
                let length = chance.below(other.len() - from + 1);
                out.splice(at..at, other[from..from + length].iter().copied());
            }
        }
    }
    out
}

/// A destination that is accepted is the same when it comes back from its text.
///
/// # Panics
///
/// When it is not.
pub fn destinations(data: &[u8]) {
    comes_back::<Destination>(&String::from_utf8_lossy(data));
}

/// A limit that is accepted is in its documented range, and a ceiling is one.
///
/// # Panics
///
/// When it is not.
pub fn limits(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    comes_back::<Cpus>(text);
    if let Ok(cpus) = text.parse::<Cpus>() {
        assert!((10..=4_096_000).contains(&cpus.millis()), "{text:?}");
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert!(size.bytes() > 0, "{text:?}");
    }
    if let Ok(weight) = text.parse::<Weight>() {
        assert!((1..=10_000).contains(&weight.get()), "{text:?}");
    }
    if let Ok(signal) = text.parse::<StopSignal>() {
        assert!((1..32).contains(&signal.number()), "{text:?}");
    }
    if let Ok(time) = parse_duration(text) {
        let year = Duration::from_secs(366 * 24 * 3600);
        assert!(!time.is_zero() && time <= year, "{text:?}");
        let of_stage = format!("run={text}").parse::<StageLimit>();
        assert_eq!(of_stage.map(|limit| limit.most), Ok(time), "{text:?}");
    }
    if let Ok(ceiling) = text.parse::<Ceiling>() {
        let (limits, lowered) = ceiling.over(&Limits::default());
        assert!(ceiling.timeout.is_none_or(|most| limits.timeout <= most));
        assert!(
            lowered
                .iter()
                .all(|name| ["timeout", "grace"].contains(name))
        );
        assert_eq!(ceiling.over(&limits), (limits, Vec::new()), "{text:?}");
    }
}

/// An address of a repository that is accepted says what it is the same way twice, hides nothing, and leads nowhere but where
/// its host and its path say; and so does what it is joined with. The same for references and sub-directories.
///
/// # Panics
///
/// When it does not.
pub fn sources(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    comes_back::<GitUrl>(text);
    comes_back::<GitRef>(text);
    comes_back::<SubDir>(text);
    let (first, second) = text.split_once(' ').unwrap_or((text, "../x"));
    if let Ok(url) = first.parse::<GitUrl>() {
        address(&url);
        if let Ok(joined) = url.join(second) {
            address(&joined);
            if second.starts_with('.') {
                let of = |url: &GitUrl| {
                    (
                        url.scheme(),
                        url.host(),
                        url.port(),
                        url.user().map(str::to_owned),
                    )
                };
                assert_eq!(of(&url), of(&joined), "{text:?}");
            }
        }
    }
    if let Ok(reference) = text.parse::<GitRef>() {
        let shown = reference.to_string();
        let refused = [':', '*', '?', '[', '\\', '^', '~', ' '];
        assert!(!shown.starts_with(['-', '/']), "{text:?}");
        assert!(
            !shown.contains("..") && !shown.contains(refused),
            "{text:?}"
        );
        assert!(!shown.contains(char::is_control), "{text:?}");
    }
    if let Ok(dir) = text.parse::<SubDir>() {
        let mut parts = dir.as_path().components();
        assert!(
            parts.all(|part| matches!(part, std::path::Component::Normal(_))),
            "{text:?}"
        );
    }
    // A password is not repeated, whatever else is wrong.
    let user = text.replace(['/', '@', '?', '#'], "");
    for scheme in ["https", "ssh", "x"] {
        let told = format!("{scheme}://{user}:hunter2@host/{user}").parse::<GitUrl>();
        let told = told.map_or_else(|e| format!("{e} {e:?}"), |url| format!("{url} accepted"));
        assert!(!told.contains("hunter2"), "{told}");
    }
}

fn address(url: &GitUrl) {
    let text = url.as_str();
    assert!(
        !text.starts_with('-') && !text.contains(char::is_control),
        "{text:?}"
    );
    assert!(!text.contains(char::is_whitespace), "{text:?}");
    assert!(!url.path().split('/').any(|part| part == ".."), "{text:?}");
    assert!(
        text.ends_with(url.path()) && !url.path().is_empty(),
        "{text:?}"
    );
    if url.scheme() != Scheme::Ssh {
        assert!(url.user().is_none(), "{text:?}");
    }
    match (url.host(), url.port(), url.authority()) {
        (None, None, None) => assert_eq!(url.scheme(), Scheme::File, "{text:?}"),
        (Some(host), Some(port), Some(authority)) => {
            assert!(
                port > 0 && !host.is_empty() && !host.starts_with('-'),
                "{text:?}"
            );
            assert!(!host.contains(['/', '@', '%', '[', ']']), "{text:?}");
            assert_eq!(host, host.to_ascii_lowercase(), "{text:?}");
            assert!(
                !authority.contains('@') && text.contains(authority),
                "{text:?}"
            );
        }
        other => assert_eq!(other, (None, None, None), "{text:?}"),
    }
    let normalised = url.normalised();
    assert!(
        !normalised.ends_with('/') && !normalised.contains('\0'),
        "{text:?}"
    );
    let again: Result<GitUrl, _> = normalised.parse();
    assert_eq!(
        again.map(|url| url.host()),
        Ok(url.host()),
        "{text:?} {normalised:?}"
    );
}

fn comes_back<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string();
        assert_eq!(
            again.parse::<T>().ok().as_ref(),
            Some(&value),
            "{text:?} is {again:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_hold_for_many_inputs() {
        check_many("destinations", destinations);
    }

    #[test]
    fn sources_hold_for_many_inputs() {
        check_many("sources", sources);
    }

    #[test]
    fn limits_hold_for_many_inputs() {
        check_many("limits", limits);
    }
}
