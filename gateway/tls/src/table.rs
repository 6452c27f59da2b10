//! The connections of a shard that speak TLS, by index, side by side in pieces: in a box of its own each of them would leave
//! a tenth of the allocator's next size class empty, and there may be a hundred thousand.

/// A piece is what allocators hand out without a remainder.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Table<T> {
    pieces: Vec<Option<Piece<T>>>,
}

#[derive(Debug)]
struct Piece<T> {
    slots: Box<[Option<T>]>,
    used: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { pieces: Vec::new() }
    }
}

impl<T> Table<T> {
    const SLOTS: usize = PIECE_BYTES / size_of::<Option<T>>();

    /// What was there is dropped.
    pub fn insert(&mut self, index: usize, value: T) {
        let (piece, slot) = (index / Self::SLOTS, index % Self::SLOTS);
        if self.pieces.len() <= piece {
            self.pieces.resize_with(piece + 1, || None);
        }
        let piece = self.pieces[piece]
            .get_or_insert_with(|| Piece { slots: (0..Self::SLOTS).map(|_| None).collect(), used: 0 });
        piece.used += usize::from(piece.slots[slot].replace(value).is_none());
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pieces.get_mut(index / Self::SLOTS)?.as_mut()?.slots[index % Self::SLOTS].as_mut()
    }

    /// A piece in which nobody is left is given back.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        let place = self.pieces.get_mut(index / Self::SLOTS)?;
        let piece = place.as_mut()?;
        let removed = piece.slots[index % Self::SLOTS].take()?;
        piece.used -= 1;
        if piece.used == 0 {
            *place = None;
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_somewhere_is_there_until_it_is_taken() {
        let mut table = Table::<[u8; 1000]>::default();
        let far = 3 * Table::<[u8; 1000]>::SLOTS + 5;
        for index in [0, 1, far] {
            assert!(table.get_mut(index).is_none());
            table.insert(index, [index as u8; 1000]);
        }
        table.insert(1, [9; 1000]);
        assert_eq!(table.get_mut(1).map(|value| value[0]), Some(9));
        assert_eq!(table.remove(far).map(|value| value[0]), Some(far as u8));
        assert!(table.remove(far).is_none() && table.get_mut(far).is_none() && table.remove(100 * far).is_none());
        assert!(table.get_mut(0).is_some());
    }

    #[test]
    fn empty_pieces_are_given_back() {
        let mut table = Table::<[u8; 1000]>::default();
        for index in 0..200 {
            table.insert(index, [1; 1000]);
        }
        for index in 0..200 {
            assert!(table.remove(index).is_some());
        }
        assert!(table.pieces.iter().all(Option::is_none));
    }
}
