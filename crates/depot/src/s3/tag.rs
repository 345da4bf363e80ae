//! The entity tags of objects, as far as they say something of the bytes.
//!
//! The tag of an object that was put at once is the MD5 of its bytes; that of one put in parts is the MD5 of the parts' MD5
//! sums and their number. A bucket that is encrypted with keys of its own, or a store of another mind, has other tags:
//! then nothing is recognised, and everything is put again. One that looks like such a sum is kept as a sum: there may be
//! one for each of a million files.

/// A sum of 128 bits, and of how many parts; none: it was put at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    sum: [u8; 16],
    parts: Option<u16>,
}

impl Tag {
    /// A tag as stores write it, with or without quotes; `None`: it is no sum.
    pub(crate) fn read(tag: &str) -> Option<Self> {
        let tag = tag.trim_matches('"');
        let (sum, parts) = match tag.split_once('-') {
            Some((sum, parts)) => (sum, Some(parts.parse().ok()?)),
            None => (tag, None),
        };
        let is_sum = sum.len() == 32 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        let sum = u128::from_str_radix(sum, 16).ok().filter(|_| is_sum)?;
        Some(Self {
            sum: sum.to_be_bytes(),
            parts,
        })
    }

    /// That of bytes that were put at once.
    pub(crate) fn of(content: &[u8]) -> Self {
        Self {
            sum: md5::compute(content).0,
            parts: None,
        }
    }

    /// That of the parts with these MD5 sums.
    pub(crate) fn of_parts(sums: &[[u8; 16]]) -> Option<Self> {
        Some(Self {
            sum: md5::compute(sums.as_flattened()).0,
            parts: Some(sums.len().try_into().ok()?),
        })
    }

    /// Whether it was put in parts.
    pub(crate) fn is_of_parts(&self) -> bool {
        self.parts.is_some()
    }
}

/// Whether two tags cannot be of the same content.
pub(crate) fn contradict(one: Option<Tag>, other: Option<Tag>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.parts == other.parts && one != other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0cc175b9c0f1b6a831c399e269772661";
    const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";

    #[test]
    fn tags_are_those_of_stores() {
        assert_eq!(Tag::read(A), Some(Tag::of(b"a")));
        assert_eq!(Tag::read(&format!("\"{B}\"")), Some(Tag::of(b"b")));
        let parts = [md5::compute(b"a").0, md5::compute(b"b").0];
        let whole = format!("{:x}-2", md5::compute(parts.concat()));
        assert_eq!(Tag::read(&whole), Tag::of_parts(&parts));
        assert!(Tag::read(&whole).is_some_and(|tag| tag.is_of_parts()));
        let (signed, long) = (format!("+{}", &A[1..]), format!("{A}0"));
        let (cut, many) = (format!("{A}-"), format!("{A}-65536"));
        for odd in ["", "opaque", &signed, &long, &cut, &many, &A[1..]] {
            assert_eq!(Tag::read(odd), None, "{odd}");
        }
    }

    #[test]
    fn tags_of_two_kinds_say_nothing() {
        let differ = |one: &str, other: &str| contradict(Tag::read(one), Tag::read(other));
        assert!(differ(A, B) && !differ(A, A));
        let of = |sum: &str, parts| format!("{sum}-{parts}");
        assert!(differ(&of(A, 2), &of(B, 2)) && !differ(&of(A, 2), &of(A, 2)));
        for (one, other) in [
            (A, ""),
            (A, "opaque"),
            (A, &*of(B, 2)),
            (&*of(A, 2), &*of(B, 3)),
        ] {
            assert!(!differ(one, other), "{one} {other}");
        }
    }
}
