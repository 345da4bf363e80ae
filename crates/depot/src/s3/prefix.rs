//! Where one version of one project lives in a bucket, and which keys its files get.
//!
//! ```text
//! <slug>/<version>/<path>                        a file
//! <slug>//<path>                                 a file of the empty version
//! .bryo/publications/<slug>/<version>.json       what is known of the publication; see `record`
//! .bryo/files/<slug>/<version>.keys/<attempt>    what it has put; see `ours`
//! ```
//!
//! It refuses what a URL or another program would read as another place: dot segments, empty segments, control
//! characters, back-slashes. A slug is one segment and begins with no dot, so that no project lives in `.bryo`. Every
//! prefix ends with a slash: `1` and `10` never meet. A version may hold slashes and then lies inside another one's
//! prefix; what belongs to whom is `record`'s to know.

use std::fmt;
use std::path::Path;

/// The longest key of an object, in bytes.
const LONGEST_KEY: usize = 1024;

/// The longest slug and the longest version, in bytes: half of a key is left for a file's own path.
const LONGEST_PART: usize = 255;

/// Where the publication records are.
const RECORDS: &str = ".bryo/publications/";

/// Where the lists are of what was put.
const LISTS: &str = ".bryo/files/";

/// A key prefix below which one version of one project lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    slug: String,
    version: String,
}

/// Why a slug or a version names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// The project has no name.
    #[error("the project's name is empty")]
    EmptySlug,
    /// The slug is not a single name.
    #[error(
        "the project's name {0:?} is no single name: it may hold no slash and begin with no dot"
    )]
    Slug(String),
    /// The version has a segment that is empty, `.` or `..`.
    #[error(
        "the version {0:?} has an empty or a dot segment; name it without a slash at either end, without \"//\", \".\" and \"..\""
    )]
    Segment(String),
    /// One of them holds a control character or a back-slash.
    #[error(
        "{0:?} holds a control character or a back-slash, which no name of a project or a version may"
    )]
    Character(String),
    /// One of them is too long.
    #[error(
        "the name of a project or a version has {0} bytes; at most {LONGEST_PART} are possible"
    )]
    TooLong(usize),
}

/// Why a file of the output has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKey {
    /// Its name is not UTF-8.
    NotUtf8,
    /// Its name holds a control character.
    Control,
    /// Its key would have this many bytes.
    TooLong(usize),
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("its name is not UTF-8; rename it"),
            Self::Control => f.write_str("its name holds a control character; rename it"),
            Self::TooLong(bytes) => write!(
                f,
                "its key would have {bytes} bytes and at most {LONGEST_KEY} are possible; shorten its path"
            ),
        }
    }
}

impl Prefix {
    /// The place of `version` of the project `slug`. An empty version is one of its own, as upstream's protocol has it.
    ///
    /// # Errors
    ///
    /// [`InvalidPrefix`] with what to do.
    pub fn of(slug: &str, version: &str) -> Result<Self, InvalidPrefix> {
        if slug.is_empty() {
            return Err(InvalidPrefix::EmptySlug);
        }
        for part in [slug, version] {
            if part.len() > LONGEST_PART {
                return Err(InvalidPrefix::TooLong(part.len()));
            }
            if part.chars().any(|c| c.is_control() || c == '\\') {
                return Err(InvalidPrefix::Character(part.to_owned()));
            }
        }
        if slug.starts_with('.') || slug.contains('/') {
            return Err(InvalidPrefix::Slug(slug.to_owned()));
        }
        let bad = |segment: &str| matches!(segment, "" | "." | "..");
        if !version.is_empty() && version.split('/').any(bad) {
            return Err(InvalidPrefix::Segment(version.to_owned()));
        }
        Ok(Self {
            slug: slug.to_owned(),
            version: version.to_owned(),
        })
    }

    /// The project.
    #[must_use]
    pub fn slug(&self) -> &str {
        &self.slug
    }

    /// The version; may be empty.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What all keys of the version begin with.
    pub(crate) fn keys(&self) -> String {
        format!("{}/{}/", self.slug, self.version)
    }

    /// The key of the file at `path` within the output.
    pub(crate) fn key(&self, path: &Path) -> Result<String, BadKey> {
        let inside = path.to_str().ok_or(BadKey::NotUtf8)?;
        if inside.chars().any(char::is_control) {
            return Err(BadKey::Control);
        }
        let key = self.keys() + inside;
        if key.len() > LONGEST_KEY {
            return Err(BadKey::TooLong(key.len()));
        }
        Ok(key)
    }

    /// The key of the version's publication record.
    pub(crate) fn record(&self) -> String {
        format!("{RECORDS}{}/{}.json", self.slug, self.version)
    }

    /// What the keys of the lists of what was put begin with.
    pub(crate) fn lists(&self) -> String {
        format!("{LISTS}{}/{}.keys/", self.slug, self.version)
    }

    /// What the keys of the records of all versions inside this one's prefix begin with. None can lie inside the empty
    /// version: a version has no empty segment.
    pub(crate) fn records_inside(&self) -> Option<String> {
        (!self.version.is_empty()).then(|| format!("{RECORDS}{}/{}/", self.slug, self.version))
    }

    /// The version inside this one's prefix whose record has this key.
    pub(crate) fn of_record(&self, key: &str) -> Option<Self> {
        let version = key
            .strip_prefix(RECORDS)?
            .strip_prefix(&self.slug)?
            .strip_prefix('/')?
            .strip_suffix(".json")?;
        Self::of(&self.slug, version).ok()
    }

    /// The versions inside whose prefix this one lies, if they exist.
    pub(crate) fn around(&self) -> impl Iterator<Item = Self> {
        self.version.match_indices('/').map(|(end, _)| Self {
            slug: self.slug.clone(),
            version: self.version[..end].to_owned(),
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.slug, self.version)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn names_are_places_or_refused() {
        for (slug, version, keys) in [
            ("guide", "1", "guide/1/"),
            ("guide", "10", "guide/10/"),
            ("guide", "", "guide//"),
            ("guide", "release/2.0", "guide/release/2.0/"),
            ("guide", ".hidden", "guide/.hidden/"),
            ("guide", "v1..2", "guide/v1..2/"),
            ("grüße", "a b%+?#", "grüße/a b%+?#/"),
        ] {
            let prefix = Prefix::of(slug, version).unwrap();
            assert_eq!(prefix.keys(), keys);
            assert_eq!(prefix.to_string(), keys);
            assert_eq!((prefix.slug(), prefix.version()), (slug, version));
        }
        let long = "x".repeat(256);
        for (slug, version, why) in [
            ("", "1", InvalidPrefix::EmptySlug),
            (".bryo", "1", InvalidPrefix::Slug(".bryo".into())),
            ("..", "1", InvalidPrefix::Slug("..".into())),
            ("a/b", "1", InvalidPrefix::Slug("a/b".into())),
            ("/a", "1", InvalidPrefix::Slug("/a".into())),
            ("a", "/1", InvalidPrefix::Segment("/1".into())),
            ("a", "1/", InvalidPrefix::Segment("1/".into())),
            ("a", "/", InvalidPrefix::Segment("/".into())),
            ("a", "1//2", InvalidPrefix::Segment("1//2".into())),
            ("a", "..", InvalidPrefix::Segment("..".into())),
            ("a", "1/../../b", InvalidPrefix::Segment("1/../../b".into())),
            ("a", "./1", InvalidPrefix::Segment("./1".into())),
            ("a", "1\n", InvalidPrefix::Character("1\n".into())),
            ("a\0", "1", InvalidPrefix::Character("a\0".into())),
            ("a", "..\\b", InvalidPrefix::Character("..\\b".into())),
            ("a", &long, InvalidPrefix::TooLong(256)),
            (&long, "", InvalidPrefix::TooLong(256)),
        ] {
            assert_eq!(Prefix::of(slug, version), Err(why), "{slug:?} {version:?}");
        }
    }

    #[test]
    fn files_have_keys_or_are_refused() {
        let prefix = Prefix::of("guide", "1").unwrap();
        let key = |path: &[u8]| prefix.key(Path::new(OsStr::from_bytes(path)));
        assert_eq!(key(b"a/b.css").unwrap(), "guide/1/a/b.css");
        assert_eq!(key("ü+%.html".as_bytes()).unwrap(), "guide/1/ü+%.html");
        assert_eq!(key(b"a\xff"), Err(BadKey::NotUtf8));
        assert_eq!(key(b"a\nb"), Err(BadKey::Control));
        assert_eq!(key(&[b'x'; 1016]).unwrap().len(), 1024);
        assert_eq!(key(&[b'x'; 1017]), Err(BadKey::TooLong(1025)));
    }

    #[test]
    fn records_lie_outside_and_name_their_version() {
        let of = |version| Prefix::of("guide", version).unwrap();
        for (version, record) in [
            ("1", ".bryo/publications/guide/1.json"),
            ("", ".bryo/publications/guide/.json"),
            ("release/2.0", ".bryo/publications/guide/release/2.0.json"),
            ("1.json", ".bryo/publications/guide/1.json.json"),
        ] {
            assert_eq!(of(version).record(), record);
            assert_eq!(of("1").of_record(record), Some(of(version)));
        }
        assert_eq!(of("1").of_record("guide/1/x.json"), None);
        assert_eq!(of("").records_inside(), None);
        let inside = of("release").records_inside().unwrap();
        assert!(of("release/2.0").record().starts_with(&inside));
        assert!(!of("release").record().starts_with(&inside));
        assert!(!of("release2").record().starts_with(&inside));
        let around: Vec<_> = of("a/b/c").around().collect();
        assert_eq!(around, [of("a"), of("a/b")]);
        assert_eq!(of("").around().count(), 0);
    }
}
