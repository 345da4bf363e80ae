//! What the agent's own process gives up, looked at while a job runs.

use std::fs;

use crate::stories;

fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    found
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
}

stories! {
    fn the_agent_has_no_privileges_and_leaves_no_core(world) {
        let mut going = world.start_build("never-ends", &[]);
        going.until("started");
        let pid = going.id();
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let status = read("status").unwrap();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(&status, set), "0000000000000000", "{set}");
        }
        let limits = read("limits").unwrap();
        let core: Vec<_> = line(&limits, "Max core file size").split_whitespace().collect();
        assert_eq!(core[..2], ["0", "0"]);
        // Who may not be looked into keeps its environment from its own user, too.
        assert!(read("environ").is_err(), "its environment can be read");
        going.signal(nix::sys::signal::SIGTERM);
        going.end().ended(130, "cancelled");
    }
}
