//! Which names of a tree may be written to a disk.
//!
//! What is refused is what some file system or some later reader would take for something else: a way out, or a
//! repository's own `.git`. Names that differ only in case are no harm on this system, and honest repositories have them.

/// The longest name that Linux file systems take, in bytes.
const LONGEST_NAME: usize = 255;

/// Why an entry of this name is not written; `None` if it may be.
pub(crate) fn refusal(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("it has no name"),
        b"." | b".." => Some("it leads out of its directory"),
        _ if name.contains(&b'/') => Some("its name contains a slash"),
        _ if name.contains(&0) => Some("its name contains a NUL"),
        _ if name.len() > LONGEST_NAME => Some("its name is longer than 255 bytes"),
        _ if is_dot_git(name) => Some("it could be taken for the repository's own '.git'"),
        _ => None,
    }
}

/// `.git` for any file system: in any case, as NTFS shortens, extends and ends it, and with what HFS+ ignores.
fn is_dot_git(name: &[u8]) -> bool {
    name.split(|b| *b == b'\\').any(|part| {
        let stream = part.split(|b| *b == b':').next().unwrap_or(part);
        let end = stream
            .iter()
            .rposition(|b| !matches!(b, b' ' | b'.'))
            .map_or(0, |last| last + 1);
        let word = stream[..end].to_ascii_lowercase();
        word == b".git" || word == b"git~1" || is_dot_git_for_hfs(part)
    })
}

fn is_dot_git_for_hfs(name: &[u8]) -> bool {
    let ignored = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    str::from_utf8(name).is_ok_and(|text| {
        let seen: String = text.chars().filter(|c| !ignored(c)).collect();
        seen.eq_ignore_ascii_case(".git")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disguises_of_dot_git() {
        for bad in [
            ".git",
            ".GIT",
            ".Git",
            "git~1",
            "GIT~1",
            ".git ",
            ".git.",
            ".git . .",
            ".git::$INDEX_ALLOCATION",
            ".git:x",
            ".g\u{200c}it",
            "\u{feff}.GIT",
            "a\\.git",
            ".git\\config",
        ] {
            assert!(refusal(bad.as_bytes()).is_some(), "{bad:?}");
        }
        for good in [
            ".gitignore",
            ".gitmodules",
            "git",
            "git~2",
            ".gi\u{74}x",
            "x.git",
            "...",
            "a b",
            "-x",
            "a\\b",
        ] {
            assert_eq!(refusal(good.as_bytes()), None, "{good:?}");
        }
    }

    #[test]
    fn ways_out_and_names_that_no_disk_takes() {
        for bad in ["", ".", "..", "a/b", "/abs", "a\0b"] {
            assert!(refusal(bad.as_bytes()).is_some(), "{bad:?}");
        }
        assert_eq!(refusal(&[b'x'; 255]), None);
        assert!(refusal(&[b'x'; 256]).is_some());
    }
}
