//! The forms in which programs like to print a value, and by which it is known.
//!
//! Each is what a usual library makes of the whole value. Those that come out alike are one to whoever looks for them.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// Shorter pieces are in too many innocent words.
const SHORTEST: usize = 4;

/// What percent-encodings leave as it is, beside letters and digits.
const KEPT: [&str; 5] = [
    // The unreserved characters of RFC 3986.
    "-._~",
    // Python's `quote`: a path stays one.
    "-._~/",
    // JavaScript's `encodeURIComponent`.
    "-._~!'()*",
    // Forms of Python and Go, and those of the URL standard: a plus sign stands for a space.
    "-._~ ",
    "-._* ",
];

const UPPER: &[u8; 16] = b"0123456789ABCDEF";
const LOWER: &[u8; 16] = b"0123456789abcdef";

/// The forms of one value.
pub(super) fn forms(value: &str) -> Vec<Vec<u8>> {
    let lines = value.lines().map(str::trim);
    let pieces: Vec<&str> = lines.filter(|line| line.len() >= SHORTEST).collect();
    // What it ends with may be added or taken away by whoever encodes it.
    let whole = value.trim_end_matches(['\r', '\n']);

    let mut all = vec![value.to_owned(), whole.to_owned()];
    for kept in KEPT {
        all.extend([UPPER, LOWER].map(|digits| percent_encoded(whole, kept, digits)));
    }
    for text in pieces.iter().copied().chain([whole]) {
        all.extend([Json::Plain, Json::Ascii, Json::Html].map(|kind| kind.body(text)));
    }
    // `echo` adds a line feed before anything is encoded.
    for text in [whole, value, &format!("{value}\n")] {
        for code in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
            all.push(code.encode(text));
        }
    }
    all.extend(pieces.into_iter().map(str::to_owned));
    all.retain(|form| form.len() >= SHORTEST);
    all.into_iter().map(String::into_bytes).collect()
}

fn percent_encoded(value: &str, kept: &str, digits: &[u8; 16]) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        let char = char::from(byte);
        if char == ' ' && kept.contains(' ') {
            out.push('+');
        } else if char.is_ascii_alphanumeric() || kept.contains(char) {
            out.push(char);
        } else {
            let digits = [byte >> 4, byte & 15].map(|digit| digits[usize::from(digit)]);
            out.push('%');
            out.extend(digits.map(char::from));
        }
    }
    out
}

/// What encoders of JSON escape beyond what RFC 8259 asks for.
#[derive(Clone, Copy)]
enum Json {
    /// Nothing.
    Plain,
    /// What is not ASCII, as Python does.
    Ascii,
    /// What HTML has a meaning for, as Go does.
    Html,
}

impl Json {
    /// A string without its quotation marks.
    fn body(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for char in text.chars() {
            match char {
                '"' | '\\' => out.extend(['\\', char]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if char < ' ' || self.escapes(char) => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(char),
            }
        }
        out
    }

    fn escapes(self, char: char) -> bool {
        match self {
            Self::Plain => false,
            Self::Ascii => !char.is_ascii(),
            Self::Html => matches!(char, '<' | '>' | '&' | '\u{2028}' | '\u{2029}'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn has(value: &str, wanted: &[&str]) {
        let forms = forms(value);
        for form in wanted {
            assert!(forms.contains(&form.as_bytes().to_vec()), "{form}");
        }
    }

    #[test]
    fn percent_encodings() {
        has(
            "a/b c!*~'\u{f6}?",
            &[
                "a%2Fb%20c%21%2A~%27%C3%B6%3F",
                "a%2fb%20c%21%2a~%27%c3%b6%3f",
                "a/b%20c%21%2A~%27%C3%B6%3F",
                "a/b%20c%21%2a~%27%c3%b6%3f",
                "a%2Fb%20c!*~'%C3%B6%3F",
                "a%2fb%20c!*~'%c3%b6%3f",
                "a%2Fb+c%21%2A~%27%C3%B6%3F",
                "a%2fb+c%21%2a~%27%c3%b6%3f",
                "a%2Fb+c%21*%7E%27%C3%B6%3F",
                "a%2fb+c%21*%7e%27%c3%b6%3f",
            ],
        );
        has("a+b c", &["a%2Bb+c"]);
    }

    #[test]
    fn bodies_of_json() {
        has(
            "\"a\\b\tc\u{1b}\u{f6}\u{1f511}<&\r",
            &[
                "\\\"a\\\\b\\tc\\u001b\u{f6}\u{1f511}<&",
                "\\\"a\\\\b\\tc\\u001b\\u00f6\\ud83d\\udd11<&",
                "\\\"a\\\\b\\tc\\u001b\u{f6}\u{1f511}\\u003c\\u0026",
            ],
        );
        // The whole, and what is printed line by line.
        has(
            "first \"1\"\n second\n",
            &["first \\\"1\\\"\\n second", "first \\\"1\\\"", "second"],
        );
    }

    #[test]
    fn what_a_value_ends_with_may_be_taken_away() {
        has(
            "p@ss\n",
            &["p@ss", "p%40ss", "cEBzcw==", "cEBzcwo=", "cEBzcwoK"],
        );
        has("p@ss", &["p@ss", "cEBzcw==", "cEBzcwo="]);
    }

    #[test]
    fn short_pieces_have_no_forms() {
        let forms = forms("long enough\n\"\n\"a\"\n{ }\n");
        for short in ["\\\"a\\\"", "\"a\"", "{ }", "\\\""] {
            assert!(!forms.contains(&short.as_bytes().to_vec()), "{short}");
        }
        assert!(forms.iter().all(|form| form.len() >= SHORTEST));
    }

    #[test]
    fn a_plain_value_has_few_forms() {
        let mut forms = forms("ghs0123456789");
        forms.sort();
        forms.dedup();
        // Itself, and base64 with and without padding, with and without a line feed.
        assert!(forms.len() <= 5, "{}", forms.len());
    }
}
