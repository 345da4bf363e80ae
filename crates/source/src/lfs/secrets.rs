//! What servers were told, which none of their words may repeat to a reader.
//!
//! It is bounded, for strangers say what is in it: few words of each object, and those for as long as it is asked for.

use std::collections::VecDeque;

use bryo_model::Secret;
use reqwest::header::HeaderMap;

/// Characters of a stranger's text in a message.
const MOST: usize = 300;

/// Words of the headers of one object or repository; an honest server has one or two.
const MOST_WORDS: usize = 8;

/// Words of grants: one that is renewed for ever leaves no more.
const MOST_GRANTED: usize = 64;

/// Bytes. Shorter words may stand in any message, `Bearer` for instance.
const SHORTEST: usize = 8;

/// What may not be read.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// Of ours, whatever their length.
    passwords: Vec<Secret>,
    /// The latest is the last.
    granted: VecDeque<Secret>,
    lent: Vec<Secret>,
}

impl Secrets {
    pub(crate) fn keep_password(&mut self, password: &Secret) {
        if !password.is_empty() {
            self.passwords.push(password.clone());
        }
    }

    /// What the repository's server is told.
    pub(crate) fn keep(&mut self, headers: &HeaderMap) {
        self.granted.extend(words(headers));
        let over = self.granted.len().saturating_sub(MOST_GRANTED);
        self.granted.drain(..over);
    }

    /// What is told for one object.
    pub(crate) fn lend(&mut self, headers: &HeaderMap) {
        self.lent.extend(words(headers));
    }

    /// Nobody asks any more for what was lent for.
    pub(crate) fn end_of_loan(&mut self) {
        self.lent.clear();
    }

    /// A stranger's text for a message: one line of bounded length, without control characters and secrets.
    pub(crate) fn told(&self, text: &str) -> String {
        let mut line = String::new();
        let mut rest = text.trim_start();
        // Cut while it is masked: half a secret would be none that is known.
        for _ in 0..MOST {
            let Some(first) = rest.chars().next() else {
                break;
            };
            let secret = self.at(rest);
            match secret {
                Some(_) => line.push_str("***"),
                None => line.push(if first.is_control() { ' ' } else { first }),
            }
            rest = &rest[secret.unwrap_or(first.len_utf8())..];
        }
        line.trim_end().to_owned()
    }

    /// The bytes of the longest secret that a text begins with.
    fn at(&self, text: &str) -> Option<usize> {
        let all = self.passwords.iter().chain(&self.granted).chain(&self.lent);
        all.map(Secret::expose)
            .filter(|secret| text.starts_with(secret))
            .map(str::len)
            .max()
    }
}

/// `Bearer x` may be repeated as x.
fn words(headers: &HeaderMap) -> impl Iterator<Item = Secret> {
    let values = headers.values().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(' '))
        .filter(|word| word.len() >= SHORTEST)
        .take(MOST_WORDS)
        .map(|word| Secret::new(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn no_secret_is_told_not_even_its_beginning() {
        let mut secrets = Secrets::default();
        secrets.keep_password(&Secret::new("pw".to_owned()));
        secrets.keep_password(&Secret::new(String::new()));
        secrets.keep(&headers("Basic secret-7f3a9c"));
        secrets.lend(&headers("Bearer secret-7f3a9c-longer"));
        assert_eq!(
            secrets.told(" Basic secret-7f3a9c,\nBearer secret-7f3a9c-longer pw\t"),
            "Basic ***, Bearer *** ***"
        );
        for before in 280..=MOST {
            let text = format!("{}secret-7f3a9c!", "x".repeat(before));
            let told = secrets.told(&text);
            assert!(!told.contains("sec") && told.len() <= MOST + 2, "{told}");
        }
        secrets.end_of_loan();
        assert_eq!(secrets.told("secret-7f3a9c-longer"), "***-longer");
        for n in 0..MOST_GRANTED {
            secrets.keep(&headers(&format!("Bearer another-{n}")));
        }
        assert_eq!(secrets.told("secret-7f3a9c pw"), "secret-7f3a9c ***");
    }

    #[test]
    fn a_hostile_answer_leaves_few_words() {
        let mut secrets = Secrets::default();
        let many = headers(
            &(0..1000)
                .map(|n| format!("word-{n:04} "))
                .collect::<String>(),
        );
        for _ in 0..100 {
            secrets.lend(&many);
        }
        assert_eq!(secrets.lent.len(), 100 * MOST_WORDS);
        assert_eq!(secrets.told("word-0007"), "***");
        assert_eq!(secrets.told(&"word-0007".repeat(1 << 20)).len(), 3 * MOST);
    }
}
