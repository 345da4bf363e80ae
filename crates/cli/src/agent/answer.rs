//! An agent's answer: as JSON for programs, as aligned lines for people.
//!
//! Both are made of the same object, so that neither has what the other lacks.

use std::io::Write;

use bryo_agent::control::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::terminal::printable;

/// Prints the answer on standard output.
pub(super) fn print(response: &Response, json: bool) -> anyhow::Result<()> {
    let value = match response {
        Response::Done | Response::Refused { .. } => json!({}),
        Response::Status(status) => serde_json::to_value(status)?,
        Response::Jobs { jobs } => serde_json::to_value(jobs)?,
    };
    let text = if json {
        format!("{value}\n")
    } else {
        lines(&value)
    };
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// An object is a line for each member, a list of objects a table.
fn lines(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let width = members.keys().map(String::len).max().unwrap_or(0);
            let line = |(name, value): (&String, &Value)| match value {
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    let table = lines(value);
                    let table: Vec<String> =
                        table.lines().map(|line| format!("  {line}\n")).collect();
                    format!("{name}\n{}", table.concat())
                }
                other => format!("{name:width$}  {}\n", named(name, other)),
            };
            members.iter().map(line).collect()
        }
        Value::Array(items) => table(items),
        other => format!("{}\n", cell(other)),
    }
}

fn table(items: &[Value]) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for name in items
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|item| item.keys())
    {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    if columns.is_empty() {
        return items
            .iter()
            .map(|item| format!("{}\n", cell(item)))
            .collect();
    }
    let head: Vec<String> = columns.iter().map(|name| (*name).clone()).collect();
    let body = items.iter().map(|item| {
        columns
            .iter()
            .map(|name| {
                item.get(*name)
                    .map_or_else(|| "-".to_owned(), |value| named(name, value))
            })
            .collect()
    });
    let rows: Vec<Vec<String>> = [head].into_iter().chain(body).collect();
    let width = |n: usize| {
        rows.iter()
            .map(|row| row[n].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Times are numbers for programs: milliseconds since 1970, and lengths in seconds.
fn named(name: &str, value: &Value) -> String {
    let time = || Timestamp::from_millisecond(value.as_i64()?).ok();
    match value.as_f64() {
        Some(_) if name.ends_with("_ms") => {
            time().map_or_else(|| cell(value), |at| format!("{at:.0}"))
        }
        Some(seconds) if name.contains("seconds") => format!("{seconds:.1}"),
        _ => cell(value),
    }
}

/// Names of jobs and words of servers are from outside.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(cell).collect();
            items.join("; ")
        }
        other => printable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_lines_and_tables() {
        let status = json!({
            "state": "paused",
            "outbox": 0,
            "alarms": [],
            "feeds": [{ "name": "docs", "state": "ok" }, { "name": "b", "state": "401\u{1b}[2J" }],
        });
        let mut told: Vec<String> = lines(&status).lines().map(str::to_owned).collect();
        told.sort();
        let mut wanted = vec![
            "state   paused",
            "outbox  0",
            "alarms  -",
            "feeds",
            "  name  state",
            "  docs  ok",
            "  b     401\u{fffd}[2J",
        ];
        wanted.sort_unstable();
        assert_eq!(told, wanted);
        let jobs = json!([{ "job": "01J", "taken_ms": 1_763_726_400_007_i64, "ended_ms": null, "seconds": 1.25 }]);
        let told = lines(&jobs);
        assert!(
            told.contains("2025-11-21T12:00:00Z") && told.contains("1.2") && !told.contains("1.25"),
            "{told}"
        );
        assert_eq!(lines(&json!([])), "");
        assert_eq!(lines(&json!({})), "");
    }
}
