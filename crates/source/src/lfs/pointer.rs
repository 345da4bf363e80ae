//! What stands in a repository for a file in Git LFS:
//! <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
//!
//! It is the text of a stranger, so only the one form that git-lfs writes is a pointer. What merely begins like one is told
//! and stays as it is.

/// The specification's bound: what is as large is content.
pub(crate) const LARGEST: usize = 1024;

const VERSION: &str = "version https://git-lfs.github.com/spec/v1\n";

/// An object in Git LFS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pointer {
    /// 64 lower-case hexadecimal digits, and so a safe name of a file.
    oid: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl Pointer {
    pub(crate) fn oid(&self) -> &str {
        &self.oid
    }
}

/// What a file of a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Pointer(Pointer),
    /// It begins like one.
    Malformed,
    Content,
}

/// Reads a file of fewer than [`LARGEST`] bytes.
pub(crate) fn read(blob: &[u8]) -> Reading {
    let Some(rest) = blob.strip_prefix(VERSION.as_bytes()) else {
        return if blob.starts_with(b"version https://git-lfs.github.com/spec/") {
            Reading::Malformed
        } else {
            Reading::Content
        };
    };
    match str::from_utf8(rest).ok().and_then(fields) {
        Some(pointer) if blob.len() < LARGEST => Reading::Pointer(pointer),
        _ => Reading::Malformed,
    }
}

fn fields(rest: &str) -> Option<Pointer> {
    let (oid, rest) = rest.strip_prefix("oid sha256:")?.split_once('\n')?;
    let size = rest.strip_prefix("size ")?.strip_suffix('\n')?;
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let honest = oid.len() == 64
        && oid.bytes().all(digit)
        && size.bytes().all(|b| b.is_ascii_digit())
        && (size == "0" || !size.starts_with('0'));
    // Git-lfs keeps sizes with a sign.
    let size: u64 = size.parse().ok().filter(|n| i64::try_from(*n).is_ok())?;
    honest.then(|| Pointer {
        oid: oid.to_owned(),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_form_is_a_pointer() {
        let oid = "4d7a".repeat(16);
        let good = format!("{VERSION}oid sha256:{oid}\nsize 12345\n");
        let expected = Pointer {
            oid: oid.clone(),
            size: 12345,
        };
        assert_eq!(read(good.as_bytes()), Reading::Pointer(expected));
        let path = format!("../../{}", &oid[6..]);
        for rest in [
            format!("oid sha256:{path}\nsize 1\n"),
            format!("oid sha256:{}\nsize 1\n", oid.to_uppercase()),
            format!("oid sha256:{oid}0\nsize 1\n"),
            format!("oid sha256:{oid}\nsize -1\n"),
            format!("oid sha256:{oid}\nsize +1\n"),
            format!("oid sha256:{oid}\nsize 01\n"),
            format!("oid sha256:{oid}\nsize 9223372036854775808\n"),
            format!("oid sha256:{oid}\nsize 99999999999999999999\n"),
            format!("oid sha256:{oid}\nsize 1"),
            format!("oid sha256:{oid}\nsize 1\nx 1\n"),
            format!("oid sha256:{oid}\r\nsize 1\r\n"),
            format!("ext-0-x sha256:{oid}\noid sha256:{oid}\nsize 1\n"),
            String::new(),
        ] {
            let text = format!("{VERSION}{rest}");
            assert_eq!(read(text.as_bytes()), Reading::Malformed, "{text}");
        }
        assert_eq!(read(b"# Hello\n"), Reading::Content);
        assert_eq!(read(b""), Reading::Content);
    }
}
