//! Several places that do the same: one is used until it fails, then the next.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Turn<T> {
    places: Vec<T>,
    at: AtomicUsize,
}

impl<T> Turn<T> {
    /// Loads begin at different places.
    pub fn new(places: Vec<T>, load: usize) -> Turn<T> {
        Turn { at: AtomicUsize::new(load), places }
    }

    pub fn each(addresses: &[String], load: usize, make: impl Fn(&str) -> T) -> Turn<T> {
        Turn::new(addresses.iter().map(|address| make(address)).collect(), load)
    }

    /// The place to use now and its turn. `None`: there are none.
    pub fn now(&self) -> Option<(usize, &T)> {
        let at = self.at.load(Ordering::Relaxed);
        Some((at, self.places.get(at % self.places.len().max(1))?))
    }

    /// The place of this turn failed. Of many who tell it, the first is heard.
    pub fn failed(&self, turn: usize) {
        // Lost: somebody else moved on already.
        let _ = self.at.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_fail_at_one_place_move_on_by_one() {
        let turn = Turn::new(vec!["a", "b", "c"], 1);
        let (first, place) = turn.now().expect("a place");
        assert_eq!(*place, "b");
        (0..5).for_each(|_| turn.failed(first));
        let (second, place) = turn.now().expect("a place");
        assert_eq!(*place, "c");
        turn.failed(second);
        assert_eq!(turn.now().map(|(_, place)| *place), Some("a"));
        assert!(Turn::<u8>::new(Vec::new(), 3).now().is_none());
    }
}
