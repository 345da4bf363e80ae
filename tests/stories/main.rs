//! The stories: one list, told to each runtime.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code"
)]

/// Agents between a server and a bucket.
mod agents;
/// Bounds on time and disk.
mod bounds;
/// Stopping an attempt in each of its stages.
mod cancelling;
/// What is kept between jobs, and removed.
mod collecting;
/// What does not depend on a runtime: the command line.
mod command_line;
/// Files, variables and options.
mod configuration;
/// What a job can see.
mod confined;
/// Bryo killed, or not listened to.
mod crashing;
/// How jobs end.
mod ends;
/// Trying to get out.
mod escape;
/// What the agent's own process gives up.
mod hardened;
/// Where a job comes from and what it runs in.
mod inputs;
/// What of a job's output is shown.
mod logs;
/// What a job can reach, and what it is given for that.
mod network;
/// What a job prints.
mod output;
/// Jobs with subordinate ids of their own.
mod own_ids;
/// Sources that not everybody may read, and those that nobody may.
mod private;
/// Repositories in jobs: what git finds in them, and those that mean harm.
mod repositories;
/// What a job leaves, and what is published of it.
mod results;

/// Declares stories: each is told to `crun` and to `podman`.
macro_rules! stories {
    ($($(#[$meta:meta])* fn $name:ident($world:ident) $body:block)+) => {
        $($(#[$meta])* fn $name($world: &mut bryo_stories::World) $body)+

        mod crun {
            $(#[test] fn $name() {
                if let Some(mut world) = bryo_stories::World::new(bryo_stories::Runtime::Crun) {
                    super::$name(&mut world);
                    world.nothing_is_left();
                }
            })+
        }

        mod podman {
            $(#[test] fn $name() {
                if let Some(mut world) = bryo_stories::World::new(bryo_stories::Runtime::Podman) {
                    super::$name(&mut world);
                    world.nothing_is_left();
                }
            })+
        }
    };
}
use stories;
