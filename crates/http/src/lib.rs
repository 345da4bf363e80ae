//! What all HTTP clients of Bryo share: whom they believe, and how their errors read.
//!
//! The system's certificates are a tenth of a megabyte and some milliseconds of reading, so clients that are made one after
//! another have the same ones. Who uses reqwest's own builder has no certificates at all: a client that was forgotten here
//! trusts nobody.

mod roots;

pub use roots::{Roots, RootsError, client};

use std::error::Error;

/// An error and its causes in one line of words. What only repeats what is around it is said once, as hyper and its friends
/// have their cause in their own text.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let own = error.to_string();
        if !text.contains(&own) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&own);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{says}")]
    struct Says {
        says: &'static str,
        source: Option<Box<Says>>,
    }

    #[test]
    fn what_is_repeated_is_said_once() {
        let says = |says, source| Says { says, source };
        let inner = says("refused", None);
        let middle = says("connecting: refused", Some(Box::new(inner)));
        let outer = says("no answer", Some(Box::new(middle)));
        assert_eq!(chain(&outer), "no answer: connecting: refused");
    }
}
