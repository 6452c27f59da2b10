//! Finds every problem of a section at once: each value is tried alone, then all together.

use serde::Deserialize as _;
use toml::{Table, Value};

use super::{Config, Problem};

/// Tables inside tables that are looked at; no section is deeper.
const DEPTH_MAX: usize = 4;

/// Every problem of the `[control]` section of a configuration file; `file` is the whole file's table. Empty: it is good, or
/// there is no such section.
pub fn check(file: &Table) -> Vec<Problem> {
    match file.get("control") {
        None => Vec::new(),
        Some(Value::Table(section)) => check_section(section),
        Some(_) => vec![Problem { key: String::new(), text: "must be a section, [control]".to_owned(), hint: None }],
    }
}

fn check_section(section: &Table) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut path = Vec::new();
    check_table(section, &mut path, &mut problems);
    let mut good = section.clone();
    for problem in &problems {
        remove(&mut good, &problem.key);
    }
    // What is left parses piece by piece; the values' relations are judged even if other pieces are bad.
    match Config::deserialize(Value::Table(good)) {
        Ok(config) => problems.extend(config.problems()),
        Err(error) if problems.is_empty() => {
            problems.push(Problem { key: String::new(), text: first_line(error.message()), hint: None });
        }
        Err(_) => {}
    }
    problems
}

fn check_table(table: &Table, path: &mut Vec<String>, problems: &mut Vec<Problem>) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) if path.len() < DEPTH_MAX && try_alone(path, Value::Table(Table::new())).is_ok() => {
                check_table(inner, path, problems);
            }
            Value::Array(items) if items.iter().any(Value::is_table) => {
                let bad = items.iter().find_map(|item| try_alone(path, Value::Array(vec![item.clone()])).err());
                problems.extend(bad.map(|error| problem(path, &error)));
            }
            other => problems.extend(try_alone(path, other.clone()).err().map(|error| problem(path, &error))),
        }
        path.pop();
    }
}

/// Parses a section in which only this one value is set.
fn try_alone(path: &[String], value: Value) -> Result<(), toml::de::Error> {
    let mut whole = value;
    for key in path.iter().rev() {
        whole = Value::Table(Table::from_iter([(key.clone(), whole)]));
    }
    Config::deserialize(whole).map(drop)
}

fn problem(path: &[String], error: &toml::de::Error) -> Problem {
    let text = first_line(error.message());
    // serde's message names the keys that exist: "unknown field `x`, expected one of `a`, `b`".
    let mut quoted = text.split('`').skip(1).step_by(2);
    let key = path.join(".");
    match quoted.next() {
        Some(unknown) if text.starts_with("unknown field") => {
            let hint = nearest(unknown, quoted).map(str::to_owned);
            let inside = if path.last().is_some_and(|last| last == unknown) { "" } else { unknown };
            let text = format!("unknown key {inside}").trim_end().to_owned();
            Problem { key, text, hint }
        }
        _ => Problem { key, text, hint: None },
    }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => drop(table.remove(path)),
        Some((head, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(head) {
                remove(inner, rest);
            }
        }
    }
}

/// The candidate with the fewest edits, if it is near enough to be what was meant.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = candidates.map(|c| (edits(word, c), c)).min_by_key(|(edits, _)| *edits)?;
    (near.0 <= near.1.len().div_ceil(3)).then_some(near.1)
}

/// Levenshtein distance.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[other.len()]
}
