//! `bryo config`: what is wrong with the configuration, and what holds.

use std::io::Write;
use std::path::Path;

use crate::args::{ConfigArgs, ConfigCommand, ShowArgs};
use crate::config::{self, About, Flags, Loaded, Surroundings};
use crate::exit_code::Exit;
use crate::{directories, terminal};

/// Looks, and prints what is found.
pub(crate) fn main(args: &ConfigArgs) -> Exit {
    let around = match directories::surroundings() {
        Ok(around) => around,
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            return Exit::Usage;
        }
    };
    match &args.command {
        ConfigCommand::Check { config } => check(&around, config.as_deref()),
        ConfigCommand::Show(args) => show(&around, args),
    }
}

fn load(around: &Surroundings, named: Option<&Path>) -> Loaded {
    config::load(About::Agent, around, named, Flags::default())
}

fn check(around: &Surroundings, named: Option<&Path>) -> Exit {
    let loaded = load(around, named);
    // From a shell: credentials and variables of the service are not here, and that is no mistake.
    let secrets = around.secrets(false);
    let mut reader = around.reader(&loaded, &secrets);
    if loaded.has_agent() {
        let _ = reader.agent(&around.places, &around.file_to_write(named));
    } else {
        reader
            .notes
            .push("nothing is said about an agent; only the host's part was checked".to_owned());
        let _ = reader.host(&around.places, About::Agent);
    }
    for note in &reader.notes {
        terminal::complain(&format!("note: {note}"));
    }
    let mut text = String::new();
    for file in &loaded.read {
        text.push_str(&format!("read {}\n", file.display()));
    }
    let problems = reader.problems;
    for problem in &problems {
        terminal::complain(&problem.to_string());
    }
    if problems.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    match (print(&text), problems.is_empty()) {
        (Exit::Succeeded, false) => Exit::Usage,
        (exit, _) => exit,
    }
}

fn show(around: &Surroundings, args: &ShowArgs) -> Exit {
    if args.defaults {
        return print(config::DOCUMENTED);
    }
    let loaded = load(around, args.config.as_deref());
    for problem in &loaded.problems {
        terminal::complain(&problem.to_string());
    }
    let text = if args.json {
        format!("{}\n", loaded.show_json(&around.places))
    } else {
        loaded.show(&around.places)
    };
    match (print(&text), loaded.problems.is_empty()) {
        (Exit::Succeeded, false) => Exit::Usage,
        (exit, _) => exit,
    }
}

fn print(text: &str) -> Exit {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Succeeded,
        Err(error) => {
            terminal::complain(&format!("could not print: {error}"));
            Exit::OurFailure
        }
    }
}
