//! The merged configuration for people and for programs. Secrets are masked.

use serde_json::{Map, json};

use super::effective::Effective;
use super::fragment::{Entry, bare_or_quoted, quoted};
use super::keys::{self, Usual};
use super::kind::{Kind, Value};

/// What stands for a secret.
const MASK: &str = "***";

/// TOML that says what holds, and beside each value where it was said. What holds nothing is not there; what is found
/// out on the host is, as a comment.
pub(crate) fn toml(effective: Effective<'_>) -> String {
    let mut out = String::new();
    let mut table = String::new();
    for entry in effective.all() {
        let here = table_of(&entry);
        if here != table {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&format!("[{here}]\n"));
            for key in keys::ALL
                .iter()
                .filter(|key| key.table() == entry.key.table())
            {
                if let (Usual::Found(how), None) = (key.default, effective.entry(key, &entry.name))
                {
                    out.push_str(&format!("# {}: {how}\n", key.word()));
                }
            }
            table = here;
        }
        let word = match entry.key.word() {
            "*" => bare_or_quoted(&entry.name),
            word => word.to_owned(),
        };
        out.push_str(&format!(
            "{word} = {}  # {}\n",
            text_of(&entry),
            entry.origin
        ));
    }
    out
}

/// One object: the path of each key with its value and its origin.
pub(crate) fn json(effective: Effective<'_>) -> serde_json::Value {
    let mut out = Map::new();
    for entry in effective.all() {
        let value = match &entry.value {
            _ if entry.key.kind == Kind::Secret => json!(MASK),
            Value::Flag(flag) => json!(flag),
            Value::Number(number) => json!(number),
            Value::Text(text) => json!(text),
            Value::List(items) => json!(items),
        };
        out.insert(
            entry.path(),
            json!({ "value": value, "origin": entry.origin.to_string() }),
        );
    }
    out.into()
}

fn table_of(entry: &Entry) -> String {
    entry
        .key
        .table()
        .replacen('*', &bare_or_quoted(&entry.name), 1)
}

fn text_of(entry: &Entry) -> String {
    match &entry.value {
        _ if entry.key.kind == Kind::Secret => quoted(MASK),
        Value::Flag(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => quoted(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}
