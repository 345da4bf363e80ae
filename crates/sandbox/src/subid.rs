//! The user's subordinate ids, from `/etc/subuid` and `/etc/subgid` (subuid(5)).
//!
//! Only the files are read: hosts that serve subordinate ids through NSS need lines there too.

use std::path::Path;

use crate::{Missing, SandboxError};

/// Ids that an image may use: 0 to 65535. A smaller allotment would make files of `nobody` unmappable.
pub(crate) const JOB_IDS: u32 = 65_536;

/// A range of subordinate ids on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u32,
    count: u32,
}

/// What the user may map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubordinateIds {
    uid: u32,
    gid: u32,
    uids: Vec<Range>,
    gids: Vec<Range>,
}

impl SubordinateIds {
    /// Those of the user that runs this process.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] when there are fewer than 65 536 of either kind, or the process runs as root: root's
    /// "subordinate" ids would be the host's own.
    pub fn of_this_user() -> Result<Self, SandboxError> {
        let uid = nix::unistd::Uid::effective();
        if uid.is_root() {
            return Err(SandboxError::Host(vec![Missing::new(
                "Bryo is running as root",
                "run it as an ordinary user: it is rootless by design",
            )]));
        }
        let name = nix::unistd::User::from_uid(uid)
            .ok()
            .flatten()
            .map_or_else(|| uid.to_string(), |user| user.name);
        let read = |file: &str| std::fs::read_to_string(Path::new(file)).unwrap_or_default();
        let ids = Self {
            uid: uid.as_raw(),
            gid: nix::unistd::Gid::effective().as_raw(),
            uids: ranges(&read("/etc/subuid"), &name, uid.as_raw()),
            gids: ranges(&read("/etc/subgid"), &name, uid.as_raw()),
        };
        if total(&ids.uids) < u64::from(JOB_IDS) || total(&ids.gids) < u64::from(JOB_IDS) {
            return Err(SandboxError::Host(vec![Missing::new(
                format!("user {name} has fewer than {JOB_IDS} subordinate user and group ids"),
                format!(
                    "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name} \
                     (a range that no other user has)"
                ),
            )]));
        }
        Ok(ids)
    }

    /// Arguments of newuidmap(1) after the process id.
    pub(crate) fn uid_map(&self) -> Vec<String> {
        map(self.uid, &self.uids)
    }

    /// Arguments of newgidmap(1) after the process id.
    pub(crate) fn gid_map(&self) -> Vec<String> {
        map(self.gid, &self.gids)
    }
}

/// Id 0 is the agent; 1 and up are the subordinate ids in the order of the file.
pub(crate) fn map(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut args = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside = 1_u32;
    for range in ranges {
        let left = (JOB_IDS + 1).saturating_sub(inside);
        let count = range.count.min(left);
        if count == 0 {
            break;
        }
        args.extend([inside, range.first, count].map(|n| n.to_string()));
        inside += count;
    }
    args
}

fn total(ranges: &[Range]) -> u64 {
    ranges.iter().map(|r| u64::from(r.count)).sum()
}

pub(crate) fn ranges(file: &str, name: &str, uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    file.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let first: u32 = fields.next()?.parse().ok()?;
            let count: u32 = fields.next()?.parse().ok()?;
            let ours = owner == name || owner == uid;
            let usable = first > 0 && first.checked_add(count).is_some();
            (ours && usable).then_some(Range { first, count })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_this_user_by_name_and_number() {
        let file = "other:1:5\nana:100000:65536\n# x\n1000:300000:10\nana:x:1\nana:0:9\n";
        let found = ranges(file, "ana", 1000);
        assert_eq!(found.len(), 2);
        assert_eq!(total(&found), 65_546);
    }

    #[test]
    fn the_agent_is_zero_and_the_first_subordinate_id_is_one() {
        let ranges = [
            Range {
                first: 100_000,
                count: 1000,
            },
            Range {
                first: 300_000,
                count: 200_000,
            },
        ];
        let args = map(1000, &ranges).join(" ");
        assert_eq!(args, "0 1000 1 1 100000 1000 1001 300000 64536");
    }
}
