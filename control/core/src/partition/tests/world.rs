//! A partition, its callers and its gateways, with oracles that judge everything that leaves it by what the disk holds.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::{Lsn, OwnerEpoch, Record};
use crate::ports::memory::Fault;

/// A message at a place.
type At = (StreamKey, u64, u64);

pub(super) struct World {
    rig: Rig,
    gateways: Vec<Gateway>,
    asked: BTreeMap<Token, Asked>,
    next_gateway: u64,
    pub answered: usize,
}

/// What the oracle needs of a command that waits for its answer.
enum Asked {
    Push { text: String, key: Option<Key> },
    Other,
}

/// Sender (empty: a backend), target as the caller named it, and the caller's key.
type Key = (String, String, String);

struct Gateway {
    id: GatewayId,
    interest: Vec<StreamKey>,
    /// The furthest place that it was told is complete.
    cursor: Option<(OwnerEpoch, Lsn)>,
    /// Everything it got, over all attachments.
    got: BTreeSet<At>,
    /// Where each stream stands on this attachment.
    tails: BTreeMap<StreamKey, (u64, u64)>,
}

impl World {
    pub fn new(interests: &[&[&str]]) -> World {
        let mut world =
            World { rig: Rig::new(), gateways: Vec::new(), asked: BTreeMap::new(), next_gateway: 0, answered: 0 };
        for interest in interests {
            world.gateways.push(Gateway {
                id: GatewayId(0),
                interest: interest.iter().map(|name| stream(name)).collect(),
                cursor: None,
                got: BTreeSet::new(),
                tails: BTreeMap::new(),
            });
        }
        world.attach_all();
        world
    }

    /// One call of the partition with these commands, while the disk does this.
    pub fn batch(&mut self, commands: Vec<Command>, fault: Fault) {
        self.rig.now += 37;
        self.rig.disk.plant(fault);
        let mut inputs = vec![Input::Tick];
        for command in commands {
            let asked = match &command {
                Command::Push(push) => Asked::Push { text: text_of(&push.content), key: key_of(push) },
                _ => Asked::Other,
            };
            inputs.push(self.rig.command(command));
            self.asked.insert(Token(self.rig.token), asked);
        }
        self.handle(inputs);
        self.rig.disk.heal();
    }

    pub fn jump_clock(&mut self, ms: i64) {
        self.rig.now += ms;
    }

    /// The process dies; its unanswered callers never hear of it, and the gateways come back.
    pub fn crash(&mut self) {
        self.asked.clear();
        self.rig.restart();
        self.attach_all();
    }

    /// The link of one gateway breaks and comes back.
    pub fn break_link(&mut self, gateway: usize) {
        let gateway = gateway % self.gateways.len();
        self.handle(vec![Input::LinkDown { gateway: self.gateways[gateway].id }]);
        self.attach(gateway);
    }

    pub fn credit(&mut self, gateway: usize, bytes: u64) {
        let gateway = self.gateways[gateway % self.gateways.len()].id;
        self.handle(vec![Input::Credit { gateway, bytes }]);
    }

    /// A connection on a gateway opens one of the streams that the gateway already follows.
    pub fn open(&mut self, gateway: usize, which: usize) {
        let gateway = &self.gateways[gateway % self.gateways.len()];
        let name = &gateway.interest[which % gateway.interest.len()];
        let who = name.uid().unwrap_or_else(|| uid("ann"));
        let streams = vec![LinkOpenStream { stream: name.clone(), cursor: None, auto: false }];
        let open = LinkOpen { corr: 7, uid: who, device: "d".into(), streams, auto_join: false };
        self.handle(vec![Input::Open { gateway: gateway.id, open }]);
    }

    /// The store works and credit flows until everyone is up to date; then everything must be where it belongs.
    pub fn settle(&mut self) {
        for _ in 0..2_000 {
            for gateway in 0..self.gateways.len() {
                self.credit(gateway, 10_000);
            }
            // Long enough for positions to be due.
            self.rig.now += 2_000;
            self.batch(Vec::new(), Fault::None);
            let last = self.rig.disk.records().last().map_or(Lsn(0), |(lsn, _)| *lsn);
            if self.asked.is_empty() && self.gateways.iter().all(|g| g.cursor.is_some_and(|(_, lsn)| lsn == last)) {
                break;
            }
        }
        assert!(self.asked.is_empty(), "every command gets its answer");
        let records = self.rig.disk.records();
        check_log(&records);
        let last = records.last().map_or(Lsn(0), |(lsn, _)| *lsn);
        for gateway in &self.gateways {
            assert_eq!(gateway.cursor.map(|(_, lsn)| lsn), Some(last), "each gateway knows that it has everything");
            assert_eq!(gateway.got, selected(&records, gateway, last), "replay and live give what was committed");
        }
    }

    fn attach_all(&mut self) {
        (0..self.gateways.len()).for_each(|gateway| self.attach(gateway));
    }

    fn attach(&mut self, gateway: usize) {
        self.next_gateway += 1;
        let gateway = &mut self.gateways[gateway];
        gateway.id = GatewayId(self.next_gateway);
        gateway.tails.clear();
        let (id, add, cursor) = (gateway.id, gateway.interest.clone(), gateway.cursor);
        // A small window, so that links fall behind all the time.
        let mut inputs = vec![
            Input::LinkUp { gateway: id, credit_bytes: 300 },
            Input::Interest { gateway: id, add, remove: Vec::new() },
            Input::InterestEnd { gateway: id, cursor },
        ];
        if cursor.is_none() {
            // It comes for the first time, and then wants something.
            inputs.swap(1, 2);
        }
        self.handle(inputs);
    }

    fn handle(&mut self, mut inputs: Vec<Input>) {
        let mut out = Vec::new();
        match self.rig.partition.handle(Timestamp(self.rig.now), &mut inputs, &mut out) {
            Ok(()) => self.absorb(out),
            Err(StoreError::Unavailable(_)) => {
                self.absorb(out);
                self.rig.disk.heal();
                // Waiting callers put their inputs before what comes later.
                self.handle(inputs);
            }
            Err(_) => {
                assert!(out.is_empty(), "a failed batch says nothing");
                self.crash();
            }
        }
    }

    fn absorb(&mut self, out: Vec<Output>) {
        let owner = self.rig.partition.origin().owner_epoch;
        let records = self.rig.disk.records();
        for output in out {
            match output {
                Output::Reply { token, result } => {
                    let asked = self.asked.remove(&token).expect("one answer to one command");
                    self.answered += 1;
                    check_answer(&asked, &result, &records);
                }
                Output::Link { gateway: id, item } => {
                    let gateway = self.gateways.iter_mut().find(|gateway| gateway.id == id).expect("attached");
                    gateway.take(item, owner, &records);
                }
                Output::Detach { why, .. } => panic!("detached: {why}"),
                Output::Errand { .. } => panic!("one partition owes nothing"),
            }
        }
    }
}

impl Gateway {
    fn take(&mut self, item: LinkItem, owner: OwnerEpoch, records: &[(Lsn, Record)]) {
        let complete = match item {
            LinkItem::Deliver { lsn, stream, epoch, after, upto, messages } => {
                assert!(self.interest.contains(&stream), "{stream} was not asked for");
                assert_eq!(seqs(&messages), (after.0 + 1..=upto.0).collect::<Vec<_>>());
                if let Some((before, tail)) = self.tails.insert(stream.clone(), (epoch.0, upto.0)) {
                    let expected = if before == epoch.0 { tail } else { 0 };
                    assert_eq!(after.0, expected, "no hole and no twin on one attachment");
                }
                self.got.extend(messages.iter().map(|m| (stream.clone(), epoch.0, m.seq.0)));
                Some(lsn)
            }
            LinkItem::Membership { lsn, stream, epoch, seq, .. } => {
                if self.interest.contains(&stream) {
                    assert!(self.got.contains(&(stream, epoch.0, seq.0)), "the message of a change comes before it");
                }
                Some(lsn)
            }
            LinkItem::Position { lsn } => Some(lsn),
            LinkItem::Reset { .. } => panic!("nothing was trimmed"),
            LinkItem::Opened(opened) => {
                if let Ok(stream) = &opened.result {
                    let same = |(name, epoch, _): &&At| *name == opened.stream && *epoch == stream.head.epoch.0;
                    let reached = self.got.iter().filter(same).map(|(.., seq)| *seq).max().unwrap_or(0);
                    assert_eq!(stream.head.head.0, reached, "an open stands where its stream stands");
                }
                None
            }
            LinkItem::OpenEnd { .. } | LinkItem::Also(_) | LinkItem::Ephemeral { .. } => None,
        };
        if let Some(lsn) = complete {
            assert!(self.cursor.is_none_or(|(_, before)| before <= lsn), "places only move forward");
            self.cursor = Some((owner, lsn));
            let missing: Vec<_> = selected(records, self, lsn).difference(&self.got).cloned().collect();
            assert!(missing.is_empty(), "told that {lsn} is complete without {missing:?}");
        }
    }
}

/// What the log up to `upto` holds of a gateway's interest.
fn selected(records: &[(Lsn, Record)], gateway: &Gateway, upto: Lsn) -> BTreeSet<At> {
    let appends = records.iter().filter(|(lsn, _)| *lsn <= upto).filter_map(|(_, record)| match record {
        Record::Append(append) => Some(&append.places),
        _ => None,
    });
    let wanted = appends.flatten().filter(|place| gateway.interest.contains(&place.stream));
    wanted.map(|place| (place.stream.clone(), place.epoch.0, place.seq.0)).collect()
}

/// Seqs are contiguous, keys are used once, ids and times only rise, and writers of a members' group are members.
fn check_log(records: &[(Lsn, Record)]) {
    let mut tails: BTreeMap<StreamKey, (u64, u64)> = BTreeMap::new();
    let mut epochs: BTreeSet<(StreamKey, u64)> = BTreeSet::new();
    let mut keys = BTreeSet::new();
    let mut closed: BTreeMap<StreamKey, BTreeSet<String>> = BTreeMap::new();
    let mut last = (0, 0);
    for (_, record) in records {
        let Record::Append(append) = record else {
            if let Record::Group(change) = record {
                closed.remove(&change.gid.stream());
                if !change.open && !change.dismissed {
                    closed.insert(change.gid.stream(), BTreeSet::new());
                }
            }
            continue;
        };
        assert!(append.body.id.0 > last.0 && append.body.ts.0 >= last.1, "ids and times only rise");
        last = (append.body.id.0, append.body.ts.0);
        for place in &append.places {
            let tail = tails.entry(place.stream.clone()).or_insert((place.epoch.0, 0));
            if tail.0 != place.epoch.0 {
                *tail = (place.epoch.0, 0);
            }
            if tail.1 == 0 {
                assert!(epochs.insert((place.stream.clone(), place.epoch.0)), "an epoch is never used again");
            }
            tail.1 += 1;
            assert_eq!(place.seq.0, tail.1, "{} has a hole or a twin", place.stream);
        }
        if let Some(dedup) = append.dedup {
            assert!(keys.insert(dedup.key), "one key, one message");
        }
        if let Some(members) = closed.get_mut(&append.places[0].stream) {
            match &append.membership {
                Some(change) if change.role.is_some() => drop(members.insert(change.uid.as_str().into())),
                Some(change) => drop(members.remove(change.uid.as_str())),
                None => {
                    let from = append.body.from.to_string();
                    let by_user = USERS.contains(&&*from) && &*append.body.kind != SYSTEM_GROUP;
                    assert!(!by_user || members.contains(&from), "{from} was not a member");
                }
            }
        }
    }
}

/// The users that a test's commands speak of.
pub(super) const USERS: [&str; 3] = ["ann", "bob", "cat"];

fn check_answer(asked: &Asked, result: &Result<Reply, Refusal>, records: &[(Lsn, Record)]) {
    match (asked, result) {
        (Asked::Push { text, key }, Ok(Reply::Pushed { stream, epoch, seq: Some(seq), id, duplicate, .. })) => {
            let place = |append: &&crate::domain::Append| {
                let first = &append.places[0];
                first.stream == *stream && first.epoch == *epoch && first.seq == *seq
            };
            let appends = records.iter().filter_map(|(_, record)| match record {
                Record::Append(append) => Some(append),
                _ => None,
            });
            let mut there = appends.filter(place);
            let append = there.next().expect("what is answered is on the disk");
            assert!(there.next().is_none(), "one message at one place");
            assert_eq!((append.body.id, text_of(&append.body.content)), (*id, text.clone()));
            assert!(!duplicate || key.is_some(), "only keys make duplicates");
            assert_eq!(append.dedup.is_some(), key.is_some());
        }
        (_, Ok(Reply::Page { stream, page, head })) => {
            let expected: Vec<_> = records
                .iter()
                .filter_map(|(_, record)| match record {
                    Record::Append(append) => Some(append),
                    _ => None,
                })
                .flat_map(|append| append.places.iter().map(move |place| (place, append.body.id)))
                .filter(|(place, _)| place.stream == *stream && place.epoch == head.epoch)
                .filter(|(place, _)| place.seq > page.after && place.seq <= page.upto && place.seq >= head.first)
                .map(|(place, id)| (place.seq, id))
                .collect();
            let got: Vec<_> = page.messages.iter().map(|m| (m.seq, m.body.id)).collect();
            assert!(page.upto <= head.head);
            assert_eq!(got, expected, "a page holds what it covers, from the first that this reader may see");
        }
        _ => {}
    }
}

fn text_of(content: &Content) -> String {
    match content {
        Content::Text(text) => text.to_string(),
        Content::Binary(bytes) => format!("{bytes:?}"),
    }
}

fn key_of(push: &Push) -> Option<Key> {
    let (sender, key) = match &push.sender {
        Some(sender) => (sender.as_str(), Some(&push.client_msg_id).filter(|key| !key.is_empty())),
        None => ("", push.message_id.as_ref()),
    };
    key.map(|key| (sender.to_owned(), push.to.to_string(), key.to_string()))
}
