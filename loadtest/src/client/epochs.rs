//! Epochs as numbers: a client keeps four bytes instead of a text.

use std::sync::Arc;

use hashbrown::HashMap;

/// Number of an epoch's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochNo(u32);

impl EpochNo {
    /// Not told yet.
    pub const NONE: EpochNo = EpochNo(0);
}

#[derive(Debug)]
pub struct Epochs {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, EpochNo>,
}

impl Default for Epochs {
    fn default() -> Self {
        let none: Arc<str> = "".into();
        Epochs { texts: vec![none.clone()], numbers: HashMap::from([(none, EpochNo::NONE)]) }
    }
}

impl Epochs {
    pub fn number(&mut self, text: &str) -> EpochNo {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = EpochNo(self.texts.len() as u32);
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    pub fn text(&self, epoch: EpochNo) -> &str {
        &self.texts[epoch.0 as usize]
    }
}
