//! Reads the tables of a scenario file and gathers everything that is wrong with them, each with its key.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use toml::{Table, Value};

/// One thing that is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `publish[0].phases[1].for_s`; empty: the file as a whole.
    pub key: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.text) } else { write!(f, "{}: {}", self.key, self.text) }
    }
}

/// The problems found so far, shared by all sections.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub fn add(&self, key: impl Into<String>, text: impl Into<String>) {
        self.0.borrow_mut().push(Problem { key: key.into(), text: text.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// One table of the file. Every key that is asked for is known; [`Section::end`] refuses the others.
#[derive(Debug)]
pub struct Section<'a> {
    path: String,
    table: &'a Table,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub fn root(table: &'a Table, problems: &'a Problems) -> Section<'a> {
        Section::at(String::new(), table, problems)
    }

    fn at(path: String, table: &'a Table, problems: &'a Problems) -> Section<'a> {
        Section { path, table, known: Vec::new(), problems }
    }

    /// The whole path of a key of this section.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn problem(&self, key: &str, text: impl Into<String>) {
        self.problems.add(self.key(key), text);
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Must be there; `value` is what reading it gave.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Option<T> {
        // What is there and unusable has been named already.
        if value.is_none() && !self.has(key) {
            self.problem(key, "is missing");
        }
        value
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.take(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.take(key, "true or false", Value::as_bool)
    }

    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key, "a whole number", Value::as_integer)?;
        let fits = u64::try_from(value).ok().filter(|value| range.contains(value));
        if fits.is_none() {
            self.problem(key, format!("must be {} to {}, is {value}", range.start(), range.end()));
        }
        fits
    }

    pub fn number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let number = |value: &Value| value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
        let value = self.take(key, "a number", number)?;
        let fits = range.contains(&value);
        if !fits {
            self.problem(key, format!("must be {} to {}, is {value}", range.start(), range.end()));
        }
        fits.then_some(value)
    }

    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let word = self.text(key)?;
        let chosen = choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.problem(key, format!("must be {}, is \"{word}\"", names.join(" or ")));
        }
        chosen
    }

    pub fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        let path = self.key(key);
        match value {
            Value::Table(table) => Some(Section::at(path, table, self.problems)),
            other => {
                self.problem(key, format!("must be a table ([{path}]), is {}", other.type_str()));
                None
            }
        }
    }

    /// An array of tables: `[[key]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        self.known.push(key);
        let path = self.key(key);
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let tables = value.as_array().and_then(|items| items.iter().map(Value::as_table).collect::<Option<Vec<_>>>());
        let Some(tables) = tables else {
            self.problem(key, format!("must be an array of tables ([[{path}]]), is {}", value.type_str()));
            return Vec::new();
        };
        tables.iter().enumerate().map(|(n, table)| Section::at(format!("{path}[{n}]"), table, self.problems)).collect()
    }

    /// The tables of this section, by keys that the file chose.
    pub fn children(&mut self) -> Vec<(&'a str, Section<'a>)> {
        let mut children = Vec::new();
        for (name, value) in self.table {
            match value {
                Value::Table(table) => {
                    children.push((name.as_str(), Section::at(self.key(name), table, self.problems)))
                }
                other => self.problem(name, format!("must be a table, is {}", other.type_str())),
            }
        }
        children
    }

    /// Refuses every key that nobody asked for.
    pub fn end(self) {
        for key in self.table.keys().filter(|key| !self.known.contains(&key.as_str())) {
            match nearest(key, self.known.iter().copied()) {
                Some(meant) => self.problem(key, format!("is no key of a scenario; did you mean `{meant}`?")),
                None => self.problem(key, "is no key of a scenario"),
            }
        }
    }

    fn take<T>(&mut self, key: &'static str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        self.known.push(key);
        let value = self.table.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.problem(key, format!("must be {kind}, is {}", value.type_str()));
        }
        read
    }
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (far, nearest) = candidates.map(|candidate| (distance(word, candidate), candidate)).min()?;
    let near = far <= 2.max(word.len() / 3) || nearest.starts_with(word) || word.starts_with(nearest);
    (near && !word.is_empty()).then_some(nearest)
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
