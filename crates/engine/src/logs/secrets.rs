//! What must not show: the values of a job's secrets, and the forms in which programs like to print them.

use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, Input, MatchKind};
use bryo_model::EnvVar;

use super::forms::forms;

/// What stands in the place of a secret.
pub(crate) const MASK: &str = "***";

/// All that must not show of one job. Cloning it is cheap.
///
/// A secret hides as it is, line by line, and in the [`forms`] of the usual encoders. What a job makes of it beyond that (its
/// letters reversed, base64 that is wrapped into lines or begins in its middle) cannot be known and shows.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Option<Arc<Patterns>>);

pub(super) struct Patterns {
    finder: AhoCorasick,
    /// In order, for [`Patterns::begins`].
    sorted: Vec<Vec<u8>>,
    longest: usize,
    /// Whether a pattern begins with this byte.
    first: [bool; 256],
}

impl Secrets {
    /// Those of these variables.
    ///
    /// # Errors
    ///
    /// When they are too large to be looked for.
    pub(crate) fn of(secrets: &[EnvVar]) -> Result<Self, BuildError> {
        Self::new(secrets.iter().flat_map(|var| forms(var.value())))
    }

    /// Exactly these, whatever they are; an empty one is none.
    pub(crate) fn new(patterns: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, BuildError> {
        let mut sorted: Vec<Vec<u8>> = patterns.into_iter().filter(|p| !p.is_empty()).collect();
        sorted.sort();
        sorted.dedup();
        if sorted.is_empty() {
            return Ok(Self::default());
        }
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // The form whose memory grows with the patterns and not with the alphabet.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&sorted)?;
        let mut first = [false; 256];
        for pattern in &sorted {
            first[usize::from(pattern[0])] = true;
        }
        Ok(Self(Some(Arc::new(Patterns {
            finder,
            longest: sorted.iter().map(Vec::len).max().unwrap_or(0),
            sorted,
            first,
        }))))
    }

    pub(super) fn patterns(&self) -> Option<Arc<Patterns>> {
        self.0.clone()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Patterns {
    /// The leftmost match from a place on, and of those that begin there the longest.
    pub(super) fn find(&self, bytes: &[u8], from: usize) -> Option<(usize, usize)> {
        let found = self.finder.find(Input::new(bytes).range(from..))?;
        Some((found.start(), found.end()))
    }

    /// The first place from this one on where what is left is the beginning of a longer pattern; the end if there is
    /// none.
    pub(super) fn pending(&self, bytes: &[u8], from: usize) -> usize {
        let from = from.max(bytes.len().saturating_sub(self.longest - 1));
        (from..bytes.len())
            .find(|at| self.first[usize::from(bytes[*at])] && self.begins(&bytes[*at..]))
            .unwrap_or(bytes.len())
    }

    /// Whether a pattern begins with these bytes and goes on.
    fn begins(&self, bytes: &[u8]) -> bool {
        let after = self.sorted.partition_point(|p| p.as_slice() <= bytes);
        self.sorted
            .get(after)
            .is_some_and(|next| next.starts_with(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let vars: Vec<EnvVar> = values
            .iter()
            .map(|value| EnvVar::new("TOKEN", value).unwrap())
            .collect();
        Secrets::of(&vars).unwrap()
    }

    #[test]
    fn the_forms_of_a_secret() {
        let secrets = secrets(&["p@ss w\u{f6}rd"]);
        for (text, masked) in [
            ("it is p@ss w\u{f6}rd.", "it is ***."),
            ("cEBzcyB3w7ZyZA==", "***"),
            ("cEBzcyB3w7ZyZA", "***"),
            ("cEBzcyB3w7ZyZAo=", "***"),
            ("?q=p%40ss%20w%C3%B6rd&x", "?q=***&x"),
            ("?q=p%40ss+w%c3%b6rd&x", "?q=***&x"),
            ("{\"q\":\"p@ss w\\u00f6rd\"}", "{\"q\":\"***\"}"),
            ("p@ss w\u{f6}r", "p@ss w\u{f6}r"),
        ] {
            assert_eq!(secrets.mask(text), masked, "{text}");
        }
    }

    #[test]
    fn each_line_of_a_secret_but_not_its_braces() {
        let secrets = secrets(&["{\n    \"key\": \"abcd\"\n    }\n"]);
        assert_eq!(secrets.mask("got \"key\": \"abcd\" {"), "got *** {");
        assert_eq!(secrets.mask("    fn x() { }"), "    fn x() { }");
    }

    #[test]
    fn without_secrets_nothing_is_masked() {
        assert_eq!(Secrets::default().mask("***"), "***");
        assert_eq!(secrets(&[""]).mask("a text"), "a text");
        assert!(secrets(&[]).patterns().is_none());
    }

    #[test]
    fn debug_does_not_tell() {
        assert_eq!(format!("{:?}", secrets(&["value"])), "Secrets(…)");
    }
}
