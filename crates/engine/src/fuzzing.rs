//! Invariants of what sees a job's bytes, for any input. See `bryo_model::fuzzing`.

use bryo_model::fuzzing::Chance;

use crate::logs::{Masker, Secrets};

/// Patterns hide in a stream however it is cut.
///
/// The input is: how many patterns (the high bit: in a small alphabet), each with its length, then the stream.
///
/// # Panics
///
/// When the result depends on the cuts or differs from that of the plain definition, when a pattern shows, when
/// something is held back that is not the beginning of a pattern, or when the count is wrong.
pub fn masker(data: &[u8]) {
    let (patterns, stream) = patterns_and_stream(data);
    let Ok(secrets) = Secrets::new(patterns.iter().cloned()) else {
        return;
    };
    let wanted = by_definition(&patterns, &stream);
    let mut chance = Chance::of(data);
    let mut ways: Vec<Vec<&[u8]>> = vec![vec![&stream], stream.chunks(1).collect()];
    ways.extend((0..4).map(|_| chance.cut(&stream)));
    for way in ways {
        let mut masker = Masker::new(&secrets);
        let mut out = Vec::new();
        for chunk in &way {
            out.extend(masker.push(chunk.to_vec()));
            let held = masker.held();
            let begins =
                |pattern: &Vec<u8>| pattern.starts_with(held) && pattern.len() > held.len();
            assert!(
                held.is_empty() || patterns.iter().any(begins),
                "{patterns:?} {way:?}"
            );
        }
        out.extend(masker.finish());
        assert_eq!(out, wanted, "{patterns:?} {way:?}");
        assert_eq!(stream.len() as i64 - out.len() as i64, masker.shrunk());
        // A secret with the mask's own sign in it can be put together from a mask and what stands beside it.
        for pattern in patterns.iter().filter(|pattern| !pattern.contains(&b'*')) {
            assert!(
                !out.windows(pattern.len()).any(|part| part == pattern),
                "{pattern:?} {way:?}"
            );
        }
    }
}

fn patterns_and_stream(data: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (kind, mut rest) = data
        .split_first()
        .map_or((0, data), |(kind, rest)| (*kind, rest));
    let letters = |bytes: &[u8]| -> Vec<u8> {
        let small = |byte: &u8| b'a' + byte % 3;
        if kind & 128 == 0 {
            bytes.to_vec()
        } else {
            bytes.iter().map(small).collect()
        }
    };
    let mut patterns = Vec::new();
    for _ in 0..kind % 8 {
        let Some((length, after)) = rest.split_first() else {
            break;
        };
        let (pattern, after) = after.split_at(usize::from(length % 12).min(after.len()));
        patterns.push(letters(pattern));
        rest = after;
    }
    patterns.retain(|pattern| !pattern.is_empty());
    (patterns, letters(rest))
}

/// At each place the longest pattern that is there, from the left.
fn by_definition(patterns: &[Vec<u8>], stream: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < stream.len() {
        let here = patterns
            .iter()
            .filter(|pattern| stream[at..].starts_with(pattern));
        match here.map(Vec::len).max() {
            Some(length) => {
                out.extend(b"***");
                at += length;
            }
            None => {
                out.push(stream[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bryo_model::fuzzing::check_many;

    #[test]
    fn the_masker_holds_for_many_inputs() {
        check_many("masker", masker);
    }
}
