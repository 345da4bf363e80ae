//! Who an image's `User` is, by the image's own account files.

use crate::error::ImageError;
use crate::layer::Account;
use crate::unpack::Layers;

/// Container ids are below this: as many are mapped.
pub const MAX_CONTAINER_ID: u32 = 65_535;

/// A user as the kernel and the environment need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUser {
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// The other groups that the user is in.
    pub additional_gids: Vec<u32>,
    /// Where it is at home.
    pub home: String,
}

impl Layers {
    /// Looks up a user in one of the forms that an image's configuration allows: nothing (root), `name`, `uid`,
    /// `name:group`, `uid:gid`.
    ///
    /// # Errors
    ///
    /// [`Fault::Unusable`](crate::Fault::Unusable) when the image knows no such user or group, or when an id is not one
    /// that a container has.
    pub fn user(&self, user: &str) -> Result<ContainerUser, ImageError> {
        let passwd = topmost(self.metas().map(|meta| &meta.passwd));
        let group = topmost(self.metas().map(|meta| &meta.group));
        look_up(user, passwd, group)
    }
}

fn topmost<'a>(accounts: impl Iterator<Item = &'a Account>) -> &'a str {
    for account in accounts {
        match account {
            Account::Beneath => {}
            Account::None => break,
            Account::Text(text) => return text,
        }
    }
    ""
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn look_up(spec: &str, passwd: &str, group: &str) -> Result<ContainerUser, ImageError> {
    let (user, named_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name of digits is a name first: that is how Docker reads it.
    let known = users(passwd).find(|entry| entry.name == user).or_else(|| {
        let uid: u32 = user.parse().ok()?;
        users(passwd).find(|entry| entry.uid == uid)
    });
    let uid = match &known {
        Some(entry) => entry.uid,
        None => user.parse().map_err(|_| {
            ImageError::unusable(format!("its user {user} is not in its /etc/passwd"))
        })?,
    };
    let (gid, additional_gids) = match named_group {
        Some(name) => (group_id(name, group)?, Vec::new()),
        None => {
            let gid = known.as_ref().map_or(0, |entry| entry.gid);
            let others = match &known {
                Some(entry) => memberships(entry.name, gid, group),
                None => Vec::new(),
            };
            (gid, others)
        }
    };
    for id in [uid, gid] {
        if id >= MAX_CONTAINER_ID {
            return Err(ImageError::unusable(format!(
                "its user {spec} has id {id}, and a container has ids below {MAX_CONTAINER_ID}"
            )));
        }
    }
    let home = known.map_or("", |entry| entry.home);
    Ok(ContainerUser {
        uid,
        gid,
        additional_gids,
        home: if home.starts_with('/') { home } else { "/" }.to_owned(),
    })
}

fn users(passwd: &str) -> impl Iterator<Item = Passwd<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let (_, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Passwd {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: fields.nth(1).unwrap_or("/"),
        })
    })
}

/// Name, id and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

fn group_id(name: &str, group: &str) -> Result<u32, ImageError> {
    let known = groups(group).find(|(known, ..)| *known == name);
    match known {
        Some((_, gid, _)) => Ok(gid),
        None => name.parse().map_err(|_| {
            ImageError::unusable(format!("its group {name} is not in its /etc/group"))
        }),
    }
}

fn memberships(user: &str, primary: u32, group: &str) -> Vec<u32> {
    let mut gids: Vec<_> = groups(group)
        .filter(|(_, gid, members)| {
            *gid != primary && *gid < MAX_CONTAINER_ID && members.split(',').any(|m| m == user)
        })
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nbuild:x:1000:100::/home/build:\n\
                          huge:x:99999:0::/:\n77:x:5:6::/digits:\n";
    const GROUP: &str =
        "root:x:0:\nusers:x:100:\naudio:x:29:build,other\nvideo:x:44:other,build\nx\n";

    fn user(spec: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        look_up(spec, PASSWD, GROUP)
            .map(|u| (u.uid, u.gid, u.additional_gids, u.home))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn every_form_of_user_is_found() {
        for (spec, uid, gid, others, home) in [
            ("", 0, 0, vec![], "/root"),
            ("root", 0, 0, vec![], "/root"),
            ("build", 1000, 100, vec![29, 44], "/home/build"),
            ("1000", 1000, 100, vec![29, 44], "/home/build"),
            ("build:audio", 1000, 29, vec![], "/home/build"),
            ("build:7", 1000, 7, vec![], "/home/build"),
            ("1234", 1234, 0, vec![], "/"),
            ("1234:5678", 1234, 5678, vec![], "/"),
            ("77", 5, 6, vec![], "/digits"),
            (":audio", 0, 29, vec![], "/root"),
        ] {
            assert_eq!(
                user(spec),
                Ok((uid, gid, others, home.to_owned())),
                "{spec}"
            );
        }
    }

    #[test]
    fn who_is_not_there_is_refused() {
        for spec in [
            "nobody",
            "build:wheel",
            "huge",
            "65535",
            "0:65535",
            "-1",
            "4294967296",
        ] {
            assert!(user(spec).is_err(), "{spec}");
        }
        assert!(user("65534:65534").is_ok());
        assert!(look_up("0:0", "", "").is_ok());
    }

    #[test]
    fn the_topmost_layer_that_says_something_is_right() {
        let text = |t: &str| Account::Text(t.to_owned());
        for (accounts, expected) in [
            (vec![Account::Beneath, text("a"), text("b")], "a"),
            (vec![Account::Beneath, Account::None, text("b")], ""),
            (vec![], ""),
        ] {
            assert_eq!(topmost(accounts.iter()), expected);
        }
    }
}
