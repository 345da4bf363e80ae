//! Contexts of SELinux as text: `user:role:type` and, in most policies, `:level`.
//!
//! A level is a sensitivity with categories, or a range of two: `s0`, `s0:c1,c2`, `s0-s0:c0.c1023`. Only categories are
//! of interest here: two processes of one type reach each other's files when the one has all categories of the other's.

use std::fmt;
use std::str::FromStr;

/// The label of a process or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

impl Context {
    /// Its type: of a process, the domain.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// Its level, where the policy has any.
    pub(crate) fn level(&self) -> Option<&str> {
        self.level.as_deref()
    }

    /// The same with another type.
    pub(super) fn with_kind(self, kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            ..self
        }
    }

    /// The same with these two categories instead of its own; as it is, where the policy has no levels.
    pub(super) fn with_categories(self, (low, high): (u32, u32)) -> Self {
        let sensitivity = |level: String| {
            let end = level.find([':', '-']).unwrap_or(level.len());
            level.get(..end).unwrap_or_default().to_owned()
        };
        Self {
            level: self
                .level
                .map(|level| format!("{}:c{low},c{high}", sensitivity(level))),
            ..self
        }
    }

    /// All categories that it may have, in order: those of the upper end of its range.
    pub(super) fn categories(&self) -> Vec<u32> {
        let level = self.level().unwrap_or_default();
        let upper = level.split_once('-').map_or(level, |(_, upper)| upper);
        let Some((_, set)) = upper.split_once(':') else {
            return Vec::new();
        };
        let number = |text: &str| text.strip_prefix('c')?.parse::<u32>().ok();
        let part = |part: &str| match part.split_once('.') {
            Some((from, to)) => Some(number(from)?..=number(to)?),
            None => number(part).map(|one| one..=one),
        };
        set.split(',').filter_map(part).flatten().collect()
    }
}

impl FromStr for Context {
    type Err = ();

    /// The kernel ends what it writes with a zero byte or a line feed, or with nothing.
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim_end_matches(['\0', '\n']);
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(());
        Ok(Self {
            user: part()?,
            role: part()?,
            kind: part()?,
            level: part().ok(),
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        match &self.level {
            Some(level) => write!(f, ":{level}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_come_back_as_they_were() {
        for text in [
            "system_u:system_r:container_t:s0",
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
            "user_u:user_r:user_t",
        ] {
            let context: Context = text.parse().unwrap();
            assert_eq!(context.to_string(), text);
            assert_eq!(format!("{text}\0").parse(), Ok(context));
        }
        // What the kernel says without a policy, or of another security module.
        for bad in [
            "",
            "kernel",
            "unconfined",
            "a:b",
            "a::c:s0",
            "bryo-bed (enforce)\n",
        ] {
            assert_eq!(bad.parse::<Context>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn the_categories_of_a_range() {
        for (level, count) in [
            ("s0", 0),
            ("s0-s0:c0.c1023", 1024),
            ("s0:c1,c7", 2),
            ("s0:c1-s0:c0.c3,c9", 5),
            ("s0:x,c2.cx", 0),
        ] {
            let context: Context = format!("u:r:t:{level}").parse().unwrap();
            assert_eq!(context.categories().len(), count, "{level}");
        }
        let none: Context = "u:r:t".parse().unwrap();
        assert!(none.categories().is_empty());
    }

    #[test]
    fn one_with_categories_of_its_own() {
        for (from, to) in [
            ("u:r:t:s0", "u:r:t:s0:c1,c2"),
            ("u:r:t:s0-s0:c0.c1023", "u:r:t:s0:c1,c2"),
            ("u:r:t:s3:c9", "u:r:t:s3:c1,c2"),
            ("u:r:t", "u:r:t"),
        ] {
            let context: Context = from.parse().unwrap();
            assert_eq!(context.with_categories((1, 2)).to_string(), to);
        }
    }
}
