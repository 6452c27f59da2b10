//! Keeps the bytes of queued SENDs alive while the kernel may read them: from the push of the entry until the
//! `io_uring_enter` that consumed it has returned. Frames sent to many sockets in a row are pinned once.
//!
//! It is bounded by the submission queue: everything pinned belongs to an entry that is still queued.

use bytes::Bytes;

#[derive(Debug, Default)]
pub(crate) struct Pins {
    held: Vec<Bytes>,
}

impl Pins {
    pub fn hold(&mut self, frame: &Bytes) {
        // The last pin keeps its memory alive, so equal address and length mean the very same bytes.
        let same = |last: &Bytes| last.as_ptr() == frame.as_ptr() && last.len() == frame.len();
        if !self.held.last().is_some_and(same) {
            self.held.push(frame.clone());
        }
    }

    /// The queue is empty: the kernel has copied all that was pinned.
    pub fn release_all(&mut self) {
        self.held.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_to_many_sockets_is_pinned_once_and_freed_when_the_queue_is_empty() {
        let frame = Bytes::from(vec![1; 100]);
        let other = Bytes::from(vec![2; 100]);
        let mut pins = Pins::default();
        for _ in 0..50 {
            pins.hold(&frame);
        }
        assert_eq!(pins.len(), 1);
        pins.hold(&other);
        pins.hold(&frame.slice(1..));
        assert_eq!(pins.len(), 3);
        assert!(!other.is_unique());
        pins.release_all();
        assert!(other.is_unique() && frame.is_unique());
    }
}
