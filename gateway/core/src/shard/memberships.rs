//! The streams that each connection is a member of, sorted by stream.
//!
//! Three stand in the connection's cold line: its inbox, the group of everybody, and one more. A longer list stands in a table
//! beside, and the line names its place.

use crate::hub::STREAMS_MAX;
use crate::ids::StreamIdx;

const SHORT_MAX: usize = 3;
/// Streams that do not exist: an empty place, and a list that stands elsewhere.
const NO_STREAM: StreamIdx = StreamIdx(u32::MAX);
const ELSEWHERE: StreamIdx = StreamIdx(u32::MAX - 1);
const _: () = assert!(STREAMS_MAX < ELSEWHERE.0 as usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub stream: StreamIdx,
    /// Index among the stream's members.
    pub position: u32,
}

const NOWHERE: Membership = Membership { stream: NO_STREAM, position: 0 };

/// What a cold line holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short([Membership; SHORT_MAX]);

/// The lists that are longer.
#[derive(Default)]
pub(super) struct Long {
    lists: Vec<Vec<Membership>>,
    free: Vec<u32>,
}

impl Short {
    pub(super) const EMPTY: Short = Short([NOWHERE; SHORT_MAX]);

    pub(super) fn as_slice<'a>(&'a self, long: &'a Long) -> &'a [Membership] {
        if self.0[0].stream == ELSEWHERE {
            return &long.lists[self.0[0].position as usize];
        }
        let len = self.0.iter().take_while(|membership| membership.stream != NO_STREAM).count();
        &self.0[..len]
    }

    pub(super) fn find(&self, long: &Long, stream: StreamIdx) -> Result<usize, usize> {
        self.as_slice(long).binary_search_by_key(&stream, |membership| membership.stream)
    }

    /// At most one of each stream is kept; a second one only changes the position.
    pub(super) fn add(&mut self, long: &mut Long, membership: Membership) {
        let at = match self.find(long, membership.stream) {
            Ok(at) => {
                self.as_mut_slice(long)[at].position = membership.position;
                return;
            }
            Err(at) => at,
        };
        if self.0[0].stream == ELSEWHERE {
            long.lists[self.0[0].position as usize].insert(at, membership);
        } else if self.0[SHORT_MAX - 1].stream == NO_STREAM {
            self.0[at..].rotate_right(1);
            self.0[at] = membership;
        } else {
            let mut list = self.0.to_vec();
            list.insert(at, membership);
            self.0 = [Membership { stream: ELSEWHERE, position: long.keep(list) }, NOWHERE, NOWHERE];
        }
    }

    pub(super) fn remove(&mut self, long: &mut Long, stream: StreamIdx) -> Option<Membership> {
        let at = self.find(long, stream).ok()?;
        if self.0[0].stream != ELSEWHERE {
            let removed = std::mem::replace(&mut self.0[at], NOWHERE);
            self.0[at..].rotate_left(1);
            return Some(removed);
        }
        let list = &mut long.lists[self.0[0].position as usize];
        let removed = list.remove(at);
        if list.len() <= SHORT_MAX {
            let list = long.give_up(self.0[0].position);
            *self = Short::EMPTY;
            self.0[..list.len()].copy_from_slice(&list);
        }
        Some(removed)
    }

    /// Empties the list.
    pub(super) fn take(&mut self, long: &mut Long) -> Vec<Membership> {
        let taken = match self.0[0].stream {
            ELSEWHERE => long.give_up(self.0[0].position),
            _ => self.as_slice(long).to_vec(),
        };
        *self = Short::EMPTY;
        taken
    }

    pub(super) fn set_position(&mut self, long: &mut Long, stream: StreamIdx, position: u32) {
        if let Ok(at) = self.find(long, stream) {
            self.as_mut_slice(long)[at].position = position;
        }
    }

    fn as_mut_slice<'a>(&'a mut self, long: &'a mut Long) -> &'a mut [Membership] {
        match self.0[0].stream {
            ELSEWHERE => &mut long.lists[self.0[0].position as usize],
            _ => &mut self.0,
        }
    }
}

impl Long {
    fn keep(&mut self, list: Vec<Membership>) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.lists[at as usize] = list;
                at
            }
            None => {
                self.lists.push(list);
                self.lists.len() as u32 - 1
            }
        }
    }

    fn give_up(&mut self, at: u32) -> Vec<Membership> {
        self.free.push(at);
        std::mem::take(&mut self.lists[at as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map, for two connections that share the table of long lists.
        #[test]
        fn lists_behave_as_maps(ops in prop::collection::vec((0..2usize, 0..6u32, 0..4u8, any::<u32>()), 0..300)) {
            let mut long = Long::default();
            let mut lists = [Short::EMPTY; 2];
            let mut maps: [BTreeMap<StreamIdx, u32>; 2] = Default::default();
            for (who, stream, op, position) in ops {
                let (list, map, stream) = (&mut lists[who], &mut maps[who], StreamIdx(stream));
                match op {
                    0 => {
                        let removed = list.remove(&mut long, stream).map(|membership| membership.position);
                        prop_assert_eq!(removed, map.remove(&stream));
                    }
                    1 => {
                        list.set_position(&mut long, stream, position);
                        map.entry(stream).and_modify(|of| *of = position);
                    }
                    _ => {
                        list.add(&mut long, Membership { stream, position });
                        map.insert(stream, position);
                    }
                }
                for (list, map) in lists.iter().zip(&maps) {
                    let listed = list.as_slice(&long).iter().map(|membership| (membership.stream, membership.position));
                    prop_assert!(listed.eq(map.iter().map(|(stream, position)| (*stream, *position))));
                }
            }
            for list in &mut lists {
                list.take(&mut long);
                prop_assert!(list.as_slice(&long).is_empty());
            }
            prop_assert_eq!(long.free.len(), long.lists.len());
        }
    }
}
