//! What happened, line by line, if anybody wants to know.

use std::cell::RefCell;
use std::rc::Rc;

/// A run's events; clones are the same trace, so that it outlives a panic. Off, it costs nothing but a branch.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    lines: Option<Rc<RefCell<Vec<String>>>>,
}

impl Trace {
    pub fn on() -> Trace {
        Trace { lines: Some(Rc::default()) }
    }

    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// `now` in nanoseconds.
    pub fn note(&self, now: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let line = format!("{:>12.6} ms  {}", now as f64 / 1e6, line());
            lines.borrow_mut().push(line);
        }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default()
    }
}
