//! The user's subordinate ids, from `/etc/subuid` and `/etc/subgid` (subuid(5)).
//!
//! Only the files are read: hosts that serve subordinate ids through NSS need lines there too. The ids are counted in the
//! order of the files and divided into slots of equal size ([`IdSlot`]); a rest that makes no whole slot is not used.

use bryo_model::IdSlot;

use crate::{Missing, SandboxError};

/// A map of the kernel has 340 lines (user_namespaces(7)); one is the agent's.
const MOST_RANGES: usize = 339;

/// The first id that useradd(8) gives by default.
const USUAL_FIRST: u64 = 100_000;

/// How many slots more are proposed to who has too few.
const PROPOSED: u64 = 4;

/// A range of subordinate ids on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u32,
    count: u32,
}

impl Range {
    /// The first id after it.
    const fn end(self) -> u32 {
        self.first.saturating_add(self.count)
    }

    const fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// What the user may map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubordinateIds {
    name: String,
    uid: u32,
    gid: u32,
    uids: Vec<Range>,
    gids: Vec<Range>,
    /// The first id after all those that are given to anybody.
    free: u64,
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
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let files = [read("/etc/subuid"), read("/etc/subgid")];
        let gid = nix::unistd::Gid::effective().as_raw();
        let ids = Self::read(name, uid.as_raw(), gid, [&files[0], &files[1]]);
        if ids.slots() == 0 {
            let (name, needed) = (&ids.name, IdSlot::IDS);
            return Err(SandboxError::Host(vec![Missing::new(
                format!("user {name} has fewer than {needed} subordinate user and group ids"),
                ids.more(1),
            )]));
        }
        Ok(ids)
    }

    fn read(name: String, uid: u32, gid: u32, [subuid, subgid]: [&str; 2]) -> Self {
        Self {
            uids: ranges(subuid, &name, uid),
            gids: ranges(subgid, &name, uid),
            free: end_of_all(subuid).max(end_of_all(subgid)),
            name,
            uid,
            gid,
        }
    }

    /// How many whole slots there are, the shared one included.
    #[must_use]
    pub fn slots(&self) -> u32 {
        let ids = total(&self.uids).min(total(&self.gids));
        let whole = u32::try_from(ids / u64::from(IdSlot::IDS)).unwrap_or(u32::MAX);
        whole.min(IdSlot::MOST)
    }

    /// The slots that a job can have alone.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] when there is none, or when podman could count the user's ids in another order.
    pub(crate) fn own_slots(&self) -> Result<Vec<IdSlot>, SandboxError> {
        let ascending = |ranges: &[Range]| ranges.is_sorted_by_key(|range| range.first);
        if !ascending(&self.uids) || !ascending(&self.gids) {
            return Err(SandboxError::Host(vec![Missing::new(
                format!(
                    "the ranges of user {} do not ascend in /etc/subuid and /etc/subgid, so that not everybody counts \
                     the ids in the same order, and a job cannot have ids of its own",
                    self.name
                ),
                "sort the user's lines there by their first id, and remove Bryo's cache",
            )]));
        }
        match self.slots() {
            ..=1 => Err(SandboxError::Host(vec![Missing::new(
                format!(
                    "a job cannot have ids of its own: user {} has no more than the first {} subordinate user and \
                     group ids, which jobs share",
                    self.name,
                    IdSlot::IDS
                ),
                self.more(PROPOSED),
            )])),
            slots => Ok((1..slots).filter_map(IdSlot::new).collect()),
        }
    }

    /// How the user gets the ids of so many slots more: a range that nobody has.
    pub(crate) fn more(&self, slots: u64) -> String {
        let (first, name) = (self.free, &self.name);
        let last = first + slots * u64::from(IdSlot::IDS) - 1;
        format!(
            "sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name} (a range that no other user \
             has), then podman system migrate if there is podman"
        )
    }

    /// The same, for who has some.
    pub(crate) fn some_more(&self) -> String {
        self.more(PROPOSED)
    }

    /// Arguments of newuidmap(1) after the process id.
    pub(crate) fn uid_map(&self) -> Vec<String> {
        map(self.uid, &self.uids, self.slots())
    }

    /// Arguments of newgidmap(1) after the process id.
    pub(crate) fn gid_map(&self) -> Vec<String> {
        map(self.gid, &self.gids, self.slots())
    }
}

/// Id 0 is the agent; 1 and up are the subordinate ids in the order of the file, as many as make whole slots.
pub(crate) fn map(own: u32, ranges: &[Range], slots: u32) -> Vec<String> {
    let mut args = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let (mut inside, end) = (1_u32, 1 + slots.min(IdSlot::MOST) * IdSlot::IDS);
    for range in ranges.iter().take(MOST_RANGES) {
        let count = range.count.min(end.saturating_sub(inside));
        if count == 0 {
            break;
        }
        args.extend([inside, range.first, count].map(|n| n.to_string()));
        inside += count;
    }
    args
}

fn total(ranges: &[Range]) -> u64 {
    let mapped = ranges.iter().take(MOST_RANGES);
    mapped.map(|range| u64::from(range.count)).sum()
}

/// The user's ranges, none twice: the kernel refuses a map in which two lines overlap.
pub(crate) fn ranges(file: &str, name: &str, uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    let mut found: Vec<Range> = Vec::new();
    for (owner, range) in lines(file) {
        let ours = owner == name || owner == uid;
        if ours && !found.iter().any(|known| known.overlaps(range)) {
            found.push(range);
        }
    }
    found
}

fn end_of_all(file: &str) -> u64 {
    let ends = lines(file).map(|(_, range)| u64::from(range.end()));
    ends.fold(USUAL_FIRST, u64::max)
}

fn lines(file: &str) -> impl Iterator<Item = (&str, Range)> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first: u32 = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        let usable = first > 0 && count > 0 && first.checked_add(count).is_some();
        usable.then_some((owner, Range { first, count }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of user `ana`, with the same ranges for both kinds.
    fn of(file: &str) -> SubordinateIds {
        SubordinateIds::read("ana".to_owned(), 1000, 1000, [file, file])
    }

    #[test]
    fn lines_of_this_user_by_name_and_number() {
        let file = "other:1:5\nana:100000:65536\n# x\n1000:300000:10\nana:x:1\nana:0:9\n";
        let found = ranges(file, "ana", 1000);
        assert_eq!(found.len(), 2);
        assert_eq!(total(&found), 65_546);
    }

    #[test]
    fn a_range_that_is_there_twice_counts_once() {
        let ids = of("ana:100000:65536\n1000:100000:65536\nana:165535:2\nana:165536:65536\n");
        assert_eq!(ids.slots(), 2);
        assert_eq!(
            ids.uid_map().join(" "),
            "0 1000 1 1 100000 65536 65537 165536 65536"
        );
    }

    #[test]
    fn the_agent_is_zero_and_the_first_subordinate_id_is_one() {
        let ids = of("ana:100000:1000\nana:300000:100000\n");
        assert_eq!(
            ids.uid_map().join(" "),
            "0 1000 1 1 100000 1000 1001 300000 64536"
        );
    }

    #[test]
    fn whole_slots_are_mapped_and_no_more() {
        for (count, slots) in [
            (65_535, 0),
            (65_536, 1),
            (131_071, 1),
            (200_000, 3),
            (9_000_000, 64),
        ] {
            let ids = of(&format!("ana:100000:{count}\n"));
            assert_eq!(ids.slots(), slots, "{count}");
            let mapped = (slots * IdSlot::IDS).to_string();
            let last = ids.uid_map().pop().unwrap();
            assert_eq!(last, if slots == 0 { "1" } else { mapped.as_str() });
        }
        // What either kind lacks, the other cannot make up for.
        let few = "ana:100000:65536\n";
        let many = "ana:100000:200000\n";
        let ids = SubordinateIds::read("ana".to_owned(), 1000, 1000, [many, few]);
        assert_eq!((ids.slots(), ids.uid_map().len()), (1, 6));
    }

    #[test]
    fn ids_of_its_own_need_a_second_slot() {
        let ids = of("ana:100000:65536\nben:165536:65536\n");
        let error = ids.own_slots().unwrap_err().to_string();
        let fix = "usermod --add-subuids 231072-493215 --add-subgids 231072-493215 ana";
        assert!(error.contains(fix), "{error}");
        let numbers = |ids: &SubordinateIds| -> Vec<u32> {
            ids.own_slots()
                .unwrap()
                .iter()
                .map(|slot| slot.number())
                .collect()
        };
        assert_eq!(numbers(&of("ana:100000:131072\n")), [1]);
        assert_eq!(
            numbers(&of("ana:100000:65536\nana:231072:150000\n")),
            [1, 2]
        );
        // Podman sorts the ranges.
        let error = of("ana:231072:150000\nana:100000:65536\n").own_slots();
        assert!(error.unwrap_err().to_string().contains("sort"));
    }
}
