//! How long everything took, told at the end.

use std::time::{Duration, Instant};

/// Rows in the order in which they were added.
#[derive(Default)]
pub struct Times {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    wall: Duration,
    /// Of both cores together, and of a program's children; unknown for a step.
    cpu: Option<Duration>,
    ok: bool,
}

impl Times {
    /// Does a step and notes its duration, however it ends.
    pub fn step<T>(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let began = Instant::now();
        let done = step();
        self.add(name, began.elapsed(), None, done.is_ok());
        done
    }

    pub fn add(&mut self, name: &str, wall: Duration, cpu: Option<Duration>, ok: bool) {
        self.rows.push(Row { name: name.to_owned(), wall, cpu, ok });
    }

    pub fn append(&mut self, mut others: Times) {
        self.rows.append(&mut others.rows);
    }

    /// The longest first.
    pub fn sort(&mut self) {
        self.rows.sort_by_key(|row| std::cmp::Reverse(row.wall));
    }

    pub fn print(&self) {
        eprintln!("\n    seconds        cpu");
        for Row { name, wall, cpu, ok } in &self.rows {
            let cpu = cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.1}", cpu.as_secs_f64()));
            let failed = if *ok { "" } else { "  FAILED" };
            eprintln!("{:>11.1} {cpu:>10}  {name}{failed}", wall.as_secs_f64());
        }
    }
}
