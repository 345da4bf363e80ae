//! What is in an output tree but is not published.

use std::fmt;
use std::path::{Path, PathBuf};

/// How many names are kept of each kind.
const EXAMPLES: usize = 3;

/// Entries of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedKind {
    /// How many there are.
    pub count: u64,
    /// The first few, relative to the output root. The names are the job's: print them quoted.
    pub examples: Vec<PathBuf>,
}

impl SkippedKind {
    pub(crate) fn add(&mut self, path: &Path) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(path.to_owned());
        }
    }
}

/// The entries that are left out because they are no regular files. Directories are not among them.
///
/// As text: `2 symbolic links ("a", "b"), 1 fifo ("c")`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Symbolic links, to whatever.
    pub symlinks: SkippedKind,
    /// Named pipes.
    pub fifos: SkippedKind,
    /// Sockets.
    pub sockets: SkippedKind,
    /// Device nodes, and whatever else a file system may have.
    pub devices: SkippedKind,
}

impl Skipped {
    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|(kind, ..)| kind.count).sum()
    }

    fn kinds(&self) -> [(&SkippedKind, &'static str, &'static str); 4] {
        [
            (&self.symlinks, "symbolic link", "symbolic links"),
            (&self.fifos, "fifo", "fifos"),
            (&self.sockets, "socket", "sockets"),
            (&self.devices, "device", "devices"),
        ]
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (kind, one, many) in self.kinds() {
            if kind.count == 0 {
                continue;
            }
            let word = if kind.count == 1 { one } else { many };
            write!(f, "{separator}{} {word} (", kind.count)?;
            for (i, example) in kind.examples.iter().enumerate() {
                write!(f, "{}{example:?}", if i == 0 { "" } else { ", " })?;
            }
            let rest = kind.count > kind.examples.len() as u64;
            f.write_str(if rest { ", …)" } else { ")" })?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_a_sentence_and_quotes_names() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.to_string(), "");
        for name in ["a", "b\n", "c", "d"] {
            skipped.symlinks.add(Path::new(name));
        }
        skipped.fifos.add(Path::new("p"));
        let text = r#"4 symbolic links ("a", "b\n", "c", …), 1 fifo ("p")"#;
        assert_eq!(skipped.to_string(), text);
        assert_eq!(skipped.total(), 5);
    }
}
