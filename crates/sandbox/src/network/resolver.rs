//! `/etc/resolv.conf` of an isolated job.

use std::fs;

/// Lines of the host's file that a job gets too; resolv.conf(5).
const TAKEN: [&str; 2] = ["search", "options"];

/// The file: the network program's name server, and how the host looks up short names.
pub(crate) fn resolver(server: &str) -> String {
    of(
        server,
        &fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    )
}

/// Only words that can stand in such a line are taken from the host's.
fn of(server: &str, host: &str) -> String {
    let mut text = format!("nameserver {server}\n");
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| TAKEN.contains(name)) else {
            continue;
        };
        let words: Vec<&str> = words.filter(|word| is_plain(word)).collect();
        if !words.is_empty() {
            text.push_str(&format!("{name} {}\n", words.join(" ")));
        }
    }
    text
}

fn is_plain(word: &str) -> bool {
    word.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_host_looks_up_names_without_its_servers() {
        let host = "# made by hand\nnameserver 127.0.0.53\nnameserver fd00::1\n\
             search  corp.example lab.example bad/name\noptions ndots:2 edns0\nsortlist 10.0.0.0\nsearch\n";
        assert_eq!(
            of("10.0.2.3", host),
            "nameserver 10.0.2.3\nsearch corp.example lab.example\noptions ndots:2 edns0\n"
        );
        assert_eq!(of("10.0.2.3", ""), "nameserver 10.0.2.3\n");
    }
}
