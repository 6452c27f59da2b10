//! Text that arrives in pieces, checked as UTF-8 byte by byte across their borders.
//!
//! Invariant: everything in `text` is checked, and `tail` is the beginning of one character that may still become valid.

use std::str::from_utf8;

use crate::ws::decoder::room;

/// The bytes can never become valid UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidUtf8;

#[derive(Debug, Default)]
pub(super) struct TextBuffer {
    text: String,
    tail: [u8; 4],
    tail_len: u8,
}

impl TextBuffer {
    /// Appends; fails at the first byte after which no continuation could be valid. `ceiling` is the declared size of
    /// the whole text: capacity grows towards it, never past it.
    pub(super) fn push(&mut self, bytes: &[u8], ceiling: usize) -> Result<(), InvalidUtf8> {
        let bytes = self.complete_tail(bytes)?;
        self.text.reserve_exact(room(self.text.len(), self.text.capacity(), bytes.len(), ceiling));
        match from_utf8(bytes) {
            Ok(text) => self.text.push_str(text),
            Err(error) if error.error_len().is_none() => {
                let (valid, tail) = bytes.split_at(error.valid_up_to());
                self.text.push_str(from_utf8(valid).map_err(|_| InvalidUtf8)?);
                self.tail[..tail.len()].copy_from_slice(tail);
                self.tail_len = tail.len() as u8;
            }
            Err(_) => return Err(InvalidUtf8),
        }
        Ok(())
    }

    /// The whole text; an unfinished character is an error now.
    pub(super) fn finish(self) -> Result<String, InvalidUtf8> {
        if self.tail_len == 0 { Ok(self.text) } else { Err(InvalidUtf8) }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.text.capacity()
    }

    fn complete_tail<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], InvalidUtf8> {
        while self.tail_len > 0 {
            let Some((&next, rest)) = bytes.split_first() else { break };
            bytes = rest;
            self.tail[usize::from(self.tail_len)] = next;
            self.tail_len += 1;
            match from_utf8(&self.tail[..usize::from(self.tail_len)]) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.tail_len = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(InvalidUtf8),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pushed(bytes: &[u8], cuts: &[usize]) -> Result<String, InvalidUtf8> {
        let mut buffer = TextBuffer::default();
        let mut from = 0;
        for cut in cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]) {
            if cut > from {
                buffer.push(&bytes[from..cut], bytes.len())?;
                from = cut;
            }
        }
        buffer.finish()
    }

    /// Bytes that are often, but not always, near valid UTF-8.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            prop::sample::select(vec![
                vec![0xc0],
                vec![0xe0, 0x80],
                vec![0xed, 0xa0, 0x80],
                vec![0xf4, 0x90],
                vec![0xff]
            ]),
            any::<u8>().prop_map(|b| vec![b]),
        ];
        prop_oneof![
            prop::collection::vec(any::<char>(), 0..12).prop_map(|c| c.into_iter().collect::<String>().into_bytes()),
            prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat()),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_std_however_it_is_cut(bytes in nearly_text(), mut cuts in prop::collection::vec(any::<usize>(), 0..8)) {
            cuts.iter_mut().for_each(|cut| *cut %= bytes.len() + 1);
            cuts.sort_unstable();
            let expected = String::from_utf8(bytes.clone()).map_err(|_| InvalidUtf8);
            prop_assert_eq!(pushed(&bytes, &cuts), expected);
        }

        #[test]
        fn fails_at_the_first_hopeless_byte(bytes in nearly_text()) {
            let mut buffer = TextBuffer::default();
            for (i, byte) in bytes.iter().enumerate() {
                let hopeless = from_utf8(&bytes[..=i]).is_err_and(|e| e.error_len().is_some());
                let result = buffer.push(&[*byte], bytes.len());
                prop_assert_eq!(result.is_err(), hopeless);
                if hopeless {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_character_cut_off_at_the_end_is_an_error() {
        assert_eq!(pushed("é".as_bytes(), &[1]), Ok("é".to_owned()));
        assert_eq!(pushed(&"é".as_bytes()[..1], &[]), Err(InvalidUtf8));
    }
}
