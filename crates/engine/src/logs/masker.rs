//! Masking a stream that comes in chunks.
//!
//! The result is what masking the whole stream at once would give: of the matches the leftmost, and of those that begin
//! at one place the longest, whatever the chunks are. Only what may still become a match is held back, which is less than
//! the longest pattern. Without secrets nothing is held back.

use std::sync::Arc;

use super::secrets::{MASK, Patterns, Secrets};

/// The masker of one stream.
pub(crate) struct Masker {
    patterns: Option<Arc<Patterns>>,
    held: Vec<u8>,
    /// Bytes that masking took away so far: those of secrets without those of the masks.
    shrunk: i64,
}

impl Masker {
    pub(crate) fn new(secrets: &Secrets) -> Self {
        Self {
            patterns: secrets.patterns(),
            held: Vec::new(),
            shrunk: 0,
        }
    }

    /// Takes the next chunk, and gives what is settled.
    pub(crate) fn push(&mut self, chunk: Vec<u8>) -> Vec<u8> {
        let Some(patterns) = self.patterns.clone() else {
            return chunk;
        };
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend(chunk);
        self.take(&patterns, &bytes, |from| patterns.pending(&bytes, from))
    }

    /// Gives what was held back: nothing more comes.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let Some(patterns) = self.patterns.clone() else {
            return Vec::new();
        };
        let bytes = std::mem::take(&mut self.held);
        self.take(&patterns, &bytes, |_| bytes.len())
    }

    /// Bytes that came in and did not go out yet.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// How many bytes less went out than came in, for masks; negative when masks are longer than what they hide.
    pub(crate) const fn shrunk(&self) -> i64 {
        self.shrunk
    }

    /// Masks up to the first place at which `pending` says that a match may still grow, and holds back what is behind it.
    /// A match that begins before that place is final: nothing that begins before it can become a match any more, and it
    /// cannot become longer.
    fn take(
        &mut self,
        patterns: &Patterns,
        bytes: &[u8],
        pending: impl Fn(usize) -> usize,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let (mut at, mut settled) = (0, pending(0));
        loop {
            match patterns.find(bytes, at) {
                Some((start, end)) if start < settled => {
                    out.extend_from_slice(&bytes[at..start]);
                    out.extend_from_slice(MASK.as_bytes());
                    self.shrunk += (end - start) as i64 - MASK.len() as i64;
                    at = end;
                    if settled < at {
                        settled = pending(at);
                    }
                }
                _ => {
                    out.extend_from_slice(&bytes[at..settled]);
                    self.held = bytes[settled..].to_vec();
                    return out;
                }
            }
        }
    }
}

impl Secrets {
    /// The text without secrets.
    pub(crate) fn mask(&self, text: &str) -> String {
        let mut masker = Masker::new(self);
        let mut out = masker.push(text.as_bytes().to_vec());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(patterns: &[&str]) -> Secrets {
        Secrets::new(patterns.iter().map(|p| p.as_bytes().to_vec())).unwrap()
    }

    fn masked(patterns: &[&str], chunks: &[&str]) -> String {
        let mut masker = Masker::new(&secrets(patterns));
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend(masker.push(chunk.as_bytes().to_vec()));
        }
        out.extend(masker.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn leftmost_and_longest_across_chunks() {
        let overlapping = &["abc", "abcdef", "bcd"][..];
        for (chunks, wanted) in [
            (&["abcdef"][..], "***"),
            (&["abc", "def"], "***"),
            (&["abcde", "x"], "***dex"),
            (&["abcde"], "***de"),
            (&["ab", "cabcdef"], "******"),
            (&["xbc", "d"], "x***"),
            (&["a", "b", "c"], "***"),
            (&["ab"], "ab"),
            (&["", ""], ""),
        ] {
            assert_eq!(masked(overlapping, chunks), wanted, "{chunks:?}");
        }
    }

    #[test]
    fn a_match_that_was_held_back_ends_before_one_that_begins_in_it() {
        // "bcdx" begins inside "abcd" and is never finished.
        assert_eq!(masked(&["abcd", "bcdx"], &["abcd", "y"]), "***y");
        assert_eq!(masked(&["abcd", "bcdx"], &["abcd", "x"]), "***x");
        assert_eq!(masked(&["abcde", "bcd"], &["abcd", "x"]), "a***x");
    }

    #[test]
    fn only_what_may_become_a_match_is_held_back() {
        let mut masker = Masker::new(&secrets(&["secret"]));
        assert_eq!(masker.push(b"no se".to_vec()), b"no ");
        assert_eq!(masker.held(), b"se");
        assert_eq!(masker.push(b"crets".to_vec()), b"***");
        assert_eq!((masker.held(), masker.shrunk()), (&b"s"[..], 3));
        assert_eq!(masker.finish(), b"s");
        // What is a match already, and cannot grow, is settled.
        let mut two = Masker::new(&secrets(&["abcd", "wxyzw"]));
        assert_eq!(two.push(b"abcd".to_vec()), b"***");
        let mut plain = Masker::new(&Secrets::default());
        assert_eq!(plain.push(b"s".to_vec()), b"s");
    }
}
