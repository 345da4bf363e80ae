//! The one way to start, watch and stop a program.
//!
//! Every program that Bryo starts on the host starts here. A [`Program`] is a recipe: plain, cloneable, with an empty
//! environment, no standard input and a process group of its own. A [`Running`] is the living thing; dropping it kills
//! its whole group, so that no path out of a function leaves a program behind.
//!
//! Invariants:
//! - the environment is what the recipe names and nothing else; its values are never printed;
//! - a program that is not waited for is killed, with everything in its process group;
//! - what a program wrote to standard error is in the error of whoever ran it, bounded to its tail;
//! - the `unsafe` calls of the workspace are here, two: [`fork`], which refuses whenever it would not be safe, and the
//!   commands of a [`Lease`].
//!
//! It refuses to run a shell: arguments are arguments.

mod error;
mod fork;
mod lease;
mod program;
mod running;

pub use error::ProcessError;
pub use fork::{Fork, fork};
pub use lease::Lease;
pub use program::{Finished, Program, find_program};
pub use running::{Running, Stdio};
