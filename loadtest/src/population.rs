//! Who follows what: known before the first message is published.
//!
//! Connections are numbered from 0; connection n is user `{run}-{n}` and follows its inbox and one group of each class.
//! Streams are numbered too: first the groups, class by class, then the inboxes, then streams that nobody follows.

use std::ops::Range;

/// Number of a connection, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNo(pub u32);

/// Number of a stream, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNo(pub u32);

/// Groups of one kind: `count` groups of `members` members each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupClass {
    pub name: String,
    pub count: u32,
    /// Members of each group: connections `k·members .. (k+1)·members`, round and round if there are more seats than
    /// connections are needed for.
    pub members: u32,
}

#[derive(Clone, Debug)]
pub struct Population {
    run: String,
    connections: u32,
    classes: Vec<GroupClass>,
    /// First stream of each class.
    firsts: Vec<u32>,
    inboxes: u32,
    unfollowed: u32,
}

impl Population {
    /// `run` makes the names of this run unique. `unfollowed`: streams that are published to and followed by nobody.
    pub fn new(run: &str, connections: u32, classes: Vec<GroupClass>, unfollowed: u32) -> Population {
        let mut firsts = Vec::with_capacity(classes.len());
        let mut next = 0;
        for class in &classes {
            firsts.push(next);
            next += class.count;
        }
        Population { run: run.to_owned(), connections, classes, firsts, inboxes: next, unfollowed }
    }

    pub fn run(&self) -> &str {
        &self.run
    }

    pub fn connections(&self) -> u32 {
        self.connections
    }

    pub fn streams(&self) -> u32 {
        self.inboxes + self.connections + self.unfollowed
    }

    pub fn uid(&self, client: ClientNo) -> String {
        format!("{}-{}", self.run, client.0)
    }

    /// `u:…` or `g:…`.
    pub fn name(&self, stream: StreamNo) -> String {
        let Range { start, end } = self.inbox_range();
        match stream.0 {
            group if group < start => {
                let class = self.class_of(group);
                format!("g:{}-{}-{}", self.run, self.classes[class].name, group - self.firsts[class])
            }
            inbox if inbox < end => format!("u:{}-{}", self.run, inbox - start),
            unfollowed => format!("g:{}-s{}", self.run, unfollowed - end),
        }
    }

    /// The stream of that name, if it is one of this run.
    pub fn find(&self, name: &str) -> Option<StreamNo> {
        let (kind, id) = name.split_once(':')?;
        let rest = id.strip_prefix(self.run.as_str())?.strip_prefix('-')?;
        let Range { start, end } = self.inbox_range();
        let number = match (kind, rest.rsplit_once('-')) {
            ("u", None) => start + rest.parse::<u32>().ok().filter(|n| *n < self.connections)?,
            ("g", None) => end + rest.strip_prefix('s')?.parse::<u32>().ok().filter(|n| *n < self.unfollowed)?,
            ("g", Some((class, number))) => {
                let class = self.classes.iter().position(|c| c.name == class)?;
                self.firsts[class] + number.parse::<u32>().ok().filter(|n| *n < self.classes[class].count)?
            }
            _ => return None,
        };
        Some(StreamNo(number))
    }

    /// The groups of a class, by its name.
    pub fn class(&self, name: &str) -> Option<Range<u32>> {
        let class = self.classes.iter().position(|c| c.name == name)?;
        Some(self.firsts[class]..self.firsts[class] + self.classes[class].count)
    }

    pub fn inbox_range(&self) -> Range<u32> {
        self.inboxes..self.inboxes + self.connections
    }

    pub fn unfollowed_range(&self) -> Range<u32> {
        self.inboxes + self.connections..self.streams()
    }

    pub fn inbox(&self, client: ClientNo) -> StreamNo {
        StreamNo(self.inboxes + client.0)
    }

    /// The groups that a client joins.
    pub fn groups_of(&self, client: ClientNo) -> impl Iterator<Item = StreamNo> {
        self.classes.iter().zip(&self.firsts).filter_map(move |(class, first)| {
            let group = client.0 / class.members.max(1);
            (group < class.count).then_some(StreamNo(first + group))
        })
    }

    /// How many connections follow a stream.
    pub fn audience(&self, stream: StreamNo) -> u32 {
        let Range { start, end } = self.inbox_range();
        match stream.0 {
            group if group < start => {
                let class = self.class_of(group);
                let members = self.classes[class].members;
                let before = (group - self.firsts[class]).saturating_mul(members);
                self.connections.saturating_sub(before).min(members)
            }
            inbox if inbox < end => 1,
            _ => 0,
        }
    }

    fn class_of(&self, group: u32) -> usize {
        self.firsts.partition_point(|first| *first <= group).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn population() -> Population {
        let class = |name: &str, count, members| GroupClass { name: name.into(), count, members };
        Population::new("lt1", 10, vec![class("all", 1, 10), class("room", 3, 4)], 2)
    }

    #[test]
    fn names_and_numbers_belong_together() {
        let population = population();
        assert_eq!(population.streams(), 4 + 10 + 2);
        for number in 0..population.streams() {
            let name = population.name(StreamNo(number));
            assert_eq!(population.find(&name), Some(StreamNo(number)), "{name}");
        }
        for foreign in ["g:lt1-room-3", "u:lt1-10", "u:lt2-1", "g:lt1-s2", "c:lt1-1:lt1-2", "x"] {
            assert_eq!(population.find(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_audience_is_who_joins() {
        let population = population();
        let mut counted = vec![0; population.streams() as usize];
        for client in (0..10).map(ClientNo) {
            counted[population.inbox(client).0 as usize] += 1;
            population.groups_of(client).for_each(|group| counted[group.0 as usize] += 1);
        }
        for (number, count) in counted.iter().enumerate() {
            assert_eq!(population.audience(StreamNo(number as u32)), *count, "stream {number}");
        }
        assert_eq!(counted[1..4], [4, 4, 2]);
    }
}
