//! A value that cannot print itself.
//!
//! There is no `Display`, `Debug` shows nothing of it, it is not serialised, and its memory is overwritten when it is
//! dropped. Whoever needs the value says so with [`Secret::expose`], which can be searched for.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A token, a key or a password.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The value is secret from here on.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value.into())
    }

    /// The value itself: for a header or a signature, never for a message.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

/// For settings that are read anew; not for what a stranger sends, who could time it.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_nothing() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "… Some(…)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
