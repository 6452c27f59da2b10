//! The client rule (R-SEQ-2): what a client does with batches, gaps, pulled pages and answers, and what it holds against the
//! server while it does.

use std::sync::Arc;
use std::time::Duration;

use tidegate_proto::v1::{self, PullOp, ServerFrame, StreamState, client_frame, ok, server_frame};

use super::batch::{Batch, Decoded, Item, ItemState, Page};
use super::epochs::EpochNo;
use super::track::{Arrival, Behind};
use super::{CONNECT_ID, Client, Context, Ending, JOIN_ID, put};
use crate::judge::{Kind, Odd, Seen};
use crate::ws;

/// Before a refused request is sent again, if the server does not say when, and before a pull that brought nothing.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

impl Client {
    /// A whole message in a WebSocket frame.
    pub(super) fn message(&mut self, head: ws::Head, frame: &[u8], cx: &mut Context<'_>) -> Result<(), Ending> {
        if let Some(entry) = cx.shared.memo.find(frame) {
            let batch = entry.batch.as_ref().expect("only bare frames have none");
            let track = self.tracks.iter_mut().find(|track| batch.stream == Some(track.stream));
            // Nearly every frame of a busy run ends here.
            if let Some(track) = track
                && !cx.is_slow
                && track.takes_plainly(batch)
            {
                (track.last, track.live) = (batch.upto, batch.upto);
                cx.shared.tally.frames += 1;
                cx.shared.tally.received += batch.items.len() as u64;
                entry.show(cx.now_us, &mut cx.shared.tally);
                return Ok(());
            }
            let batch = batch.clone();
            self.batch(&batch, cx);
            return Ok(());
        }
        match cx.shared.decode(head, frame).map_err(|error| self.broken(cx, &error.to_string()))? {
            Decoded::Batch(batch) => {
                cx.shared.memo.insert(frame, Some(batch.clone()), &mut cx.shared.tally);
                self.batch(&batch, cx);
                Ok(())
            }
            Decoded::Other(frame) => self.other(*frame, cx),
        }
    }

    fn other(&mut self, frame: ServerFrame, cx: &mut Context<'_>) -> Result<(), Ending> {
        match frame.body {
            Some(server_frame::Body::Ok(answer)) => match answer.result {
                Some(ok::Result::Connect(session)) if frame.id == CONNECT_ID && !self.is_connected => {
                    self.is_connected = true;
                    session.streams.iter().for_each(|state| self.begin(state, cx));
                }
                Some(ok::Result::Join(state)) => {
                    match self.joined(frame.id) {
                        Some(_) => self.joins_left = self.joins_left.saturating_sub(1),
                        None => self.complain(cx, None, 0, &format!("a join that was not asked for, id {}", frame.id)),
                    }
                    self.begin(&state, cx);
                }
                _ => self.complain(cx, None, 0, &format!("an answer that was not asked for, id {}", frame.id)),
            },
            Some(server_frame::Body::Error(error)) => return self.refused(frame.id, &error, cx),
            Some(server_frame::Body::Gap(gap)) => self.gap(&gap, cx),
            Some(server_frame::Body::Bye(bye)) => self.come_back_after_ms = bye.reconnect_after_ms.unwrap_or(0),
            Some(server_frame::Body::Batch(_)) if frame.id == 0 => {}
            Some(server_frame::Body::Joined(_) | server_frame::Body::Left(_) | server_frame::Body::Expiring(_)) => {}
            Some(_) | None => self.complain(cx, None, 0, "a frame that was not asked for"),
        }
        self.check_established();
        Ok(())
    }

    /// Number of the track that a request id joined.
    fn joined(&self, id: u32) -> Option<usize> {
        let number = id.checked_sub(JOIN_ID)? as usize;
        (number < self.tracks.len()).then_some(number)
    }

    /// The server said where a stream stands at the start of a connection.
    fn begin(&mut self, state: &StreamState, cx: &mut Context<'_>) {
        let epoch = cx.shared.epochs.number(&state.epoch);
        let Some(number) = self.follows(&state.stream, cx) else {
            self.stranger(&state.stream, state.head, cx);
            return;
        };
        let track = &mut self.tracks[number];
        if track.epoch == EpochNo::NONE {
            // Users of a run are new: their inboxes are to be shown from the first message on.
            track.begin(epoch, if number == 0 { 0 } else { state.head });
        } else if state.recovered == "expired" || track.epoch != epoch {
            track.begin_anew(epoch, state.first.saturating_sub(1));
            let text = format!("is {} after a break, in epoch {}", state.recovered, state.epoch);
            self.complain(cx, Some(number), state.first, &text);
        }
        let track = &mut self.tracks[number];
        if state.recovered == "full" && state.head > track.last {
            track.rare().recovers_to = Some(state.head);
        }
    }

    fn follows(&self, name: &str, cx: &Context<'_>) -> Option<usize> {
        let stream = cx.shared.population.find(name)?;
        self.tracks.iter().position(|track| track.stream == stream)
    }

    fn batch(&mut self, batch: &Arc<Batch>, cx: &mut Context<'_>) {
        cx.shared.tally.frames += u64::from(!batch.items.is_empty());
        let Some(number) = self.tracks.iter().position(|track| batch.stream == Some(track.stream)) else {
            let name = batch.stream.map_or_else(|| batch.name.to_string(), |stream| cx.shared.population.name(stream));
            match batch.items.is_empty() {
                true => self.stranger(&name, batch.upto, cx),
                false => batch.items.iter().for_each(|item| self.stranger(&name, item.seq, cx)),
            }
            return;
        };
        if batch.upto < batch.after {
            return self.complain(cx, Some(number), batch.after, "a range that ends before it begins");
        }
        self.check_epoch(number, batch, cx);
        for item in batch.items.iter().filter(|item| item.state == ItemState::OutOfRange) {
            let text = format!("is outside its frame's range ({}, {}]", batch.after, batch.upto);
            self.complain(cx, Some(number), item.seq, &text);
        }
        match batch.page {
            Some(page) => self.page(number, batch, page, cx),
            None => self.live(number, batch, cx),
        }
        self.pull_what_is_due(cx);
    }

    fn check_epoch(&mut self, number: usize, batch: &Batch, cx: &mut Context<'_>) {
        let track = &mut self.tracks[number];
        if track.epoch == EpochNo::NONE {
            track.begin(batch.epoch, if number == 0 { 0 } else { batch.after });
        } else if track.epoch != batch.epoch {
            cx.shared.tally.behind -= u32::from(track.behind().is_some());
            track.begin_anew(batch.epoch, batch.after);
            let text = format!("came in epoch {}, which no answer named", cx.shared.epochs.text(batch.epoch));
            self.complain(cx, Some(number), batch.after, &text);
        }
    }

    /// A batch frame.
    fn live(&mut self, number: usize, batch: &Arc<Batch>, cx: &mut Context<'_>) {
        let track = &mut self.tracks[number];
        if track.behind().is_some_and(|behind| behind.is_gap) {
            let text = "came live after a gap and before a pull reached the head";
            self.complain(cx, Some(number), batch.after + 1, text);
        }
        let track = &mut self.tracks[number];
        let recovers_to = track.rare.as_mut().and_then(|rare| rare.recovers_to.take());
        let is_recovery = recovers_to.is_some_and(|head| batch.after == track.last && batch.upto <= head);
        for item in in_range(batch).filter(|_| !is_recovery) {
            self.arrived(number, item, cx);
        }
        let track = &mut self.tracks[number];
        if batch.after > track.last {
            track.keep_aside(batch.clone());
            if track.behind().is_none() {
                cx.shared.tally.behind += 1;
                let hole = Behind { request: None, not_before_us: cx.now_us, is_gap: false, again: false };
                track.rare().behind = Some(hole);
            }
            return;
        }
        self.show(number, batch, cx);
        self.show_aside(number, cx);
    }

    /// Holds a live message against what came before it.
    fn arrived(&mut self, number: usize, item: &Item, cx: &mut Context<'_>) {
        let track = &mut self.tracks[number];
        match track.arrived(item.seq) {
            Arrival::New => {}
            Arrival::Overlap => cx.shared.tally.overlaps += 1,
            Arrival::Again => {
                let text = format!("came live again (id {})", item.id);
                self.find(cx, Kind::Duplicated, Some(number), item.seq, &text);
            }
            Arrival::Late => {
                let text = format!("came after seq {}", track.live);
                if track.came_late(item.seq) {
                    self.show_one(number, item, cx);
                }
                self.find(cx, Kind::Reordered, Some(number), item.seq, &text);
            }
        }
    }

    /// Shows what is new and moves the cursor.
    fn show(&mut self, number: usize, batch: &Batch, cx: &mut Context<'_>) {
        let track = &mut self.tracks[number];
        let last = track.last;
        let mut new: Vec<&Item> = in_range(batch).filter(|item| item.seq > last).collect();
        new.sort_by_key(|item| item.seq);
        new.dedup_by_key(|item| item.seq);
        let noted = track.cover(batch.upto, new.iter().map(|item| item.seq));
        new.into_iter().for_each(|item| self.show_one(number, item, cx));
        if !noted {
            self.complain(cx, Some(number), batch.upto, "too many holes in the ranges to note them");
        }
    }

    fn show_aside(&mut self, number: usize, cx: &mut Context<'_>) {
        while let Some(batch) = self.tracks[number].take_aside() {
            self.show(number, &batch, cx);
        }
    }

    fn show_one(&mut self, number: usize, item: &Item, cx: &mut Context<'_>) {
        let tally = &mut cx.shared.tally;
        tally.received += 1;
        if item.state == ItemState::Broken {
            return self.find(cx, Kind::WrongPayload, Some(number), item.seq, "has a content that was never published");
        }
        match cx.is_slow {
            true => tally.slow_latency(item.stamp, cx.now_us),
            false => tally.latency(item.stamp, cx.now_us, 1),
        }
        if item.state == ItemState::Odd {
            let (client, stream) = (cx.client, self.tracks[number].stream);
            let seen = Seen { id: item.id, stamp: item.stamp };
            if !tally.keep_odd(Odd { client, stream, seq: item.seq, seen }) {
                self.find(cx, Kind::WrongPayload, Some(number), item.seq, "is not what others were shown");
            }
        }
    }

    fn gap(&mut self, gap: &v1::Gap, cx: &mut Context<'_>) {
        cx.shared.tally.gaps += 1;
        self.had_gap = true;
        let Some(number) = self.follows(&gap.stream, cx) else {
            self.stranger(&gap.stream, gap.from, cx);
            return;
        };
        let epoch = cx.shared.epochs.number(&gap.epoch);
        let track = &mut self.tracks[number];
        if track.epoch == EpochNo::NONE {
            track.begin(epoch, if number == 0 { 0 } else { gap.from.saturating_sub(1) });
        }
        if track.epoch != epoch {
            track.epoch = epoch;
            self.complain(cx, Some(number), gap.from, &format!("a gap in epoch {}", gap.epoch));
        }
        let track = &mut self.tracks[number];
        let before = track.behind().copied();
        cx.shared.tally.behind += u32::from(before.is_none());
        let request = before.and_then(|behind| behind.request);
        let not_before_us = cx.now_us + u64::from(gap.pull_after_ms) * 1000;
        track.rare().behind = Some(Behind { request, not_before_us, is_gap: true, again: request.is_some() });
    }

    /// Sends the pulls whose time has come.
    pub(super) fn pull_what_is_due(&mut self, cx: &mut Context<'_>) {
        for track in &mut self.tracks {
            let (stream, epoch, after) = (track.stream, track.epoch, track.last);
            let Some(behind) = track.rare.as_mut().and_then(|rare| rare.behind.as_mut()) else { continue };
            if behind.request.is_some() || behind.not_before_us > cx.now_us {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            (behind.request, behind.again) = (Some(id), false);
            let (stream, epoch) = (cx.shared.population.name(stream), cx.shared.epochs.text(epoch).to_owned());
            put(cx.out, id, client_frame::Op::Pull(PullOp { stream, epoch, after, limit: 0, since_ts: None }));
        }
    }

    /// The answer to a pull.
    fn page(&mut self, number: usize, batch: &Batch, page: Page, cx: &mut Context<'_>) {
        let track = &mut self.tracks[number];
        let last = track.last;
        let Some(behind) = track.behind().copied().filter(|behind| behind.request == Some(page.request)) else {
            return self.complain(cx, Some(number), batch.upto, "a page that was not asked for");
        };
        if batch.after > last || page.next_after != batch.upto || page.head < batch.upto {
            let (next, head) = (page.next_after, page.head);
            let text = format!("a page of ({}, {}] with next_after {next} and head {head}", batch.after, batch.upto);
            self.complain(cx, Some(number), last, &text);
        }
        let mut before = 0;
        for item in in_range(batch) {
            if item.seq <= before {
                let kind = if item.seq == before { Kind::Duplicated } else { Kind::Reordered };
                self.find(cx, kind, Some(number), item.seq, &format!("after {before} in a page"));
            }
            before = item.seq;
        }
        if batch.after <= last {
            self.show(number, batch, cx);
        }
        let reached_head = page.next_after >= page.head && !behind.again;
        if reached_head {
            self.tracks[number].rare().behind = None;
            self.show_aside(number, cx);
        }
        let track = &mut self.tracks[number];
        if reached_head && track.live <= track.last {
            cx.shared.tally.holes_healed += 1;
            cx.shared.tally.behind -= 1;
            return;
        }
        let pause_us = if track.last > last { 0 } else { AGAIN_AFTER.as_micros() as u64 };
        let not_before_us = match behind.again {
            true => behind.not_before_us,
            false => cx.now_us + pause_us,
        };
        let is_gap = behind.is_gap && !reached_head;
        track.rare().behind = Some(Behind { request: None, not_before_us, is_gap, again: false });
    }

    /// An error. What can be asked again is; anything else is against the protocol, since no client asks for what it may not.
    fn refused(&mut self, id: u32, error: &v1::Error, cx: &mut Context<'_>) -> Result<(), Ending> {
        let at_us = cx.now_us + error.retry_after_ms.map_or(AGAIN_AFTER.as_micros() as u64, |ms| u64::from(ms) * 1000);
        let text = format!("was refused with {} {:?}", error.code, error.message);
        if id == CONNECT_ID {
            return Err(if error.retry { Ending::Refused } else { self.broken(cx, &format!("connect {text}")) });
        }
        if let Some(number) = self.joined(id) {
            if !error.retry {
                self.complain(cx, Some(number), 0, &format!("the join {text}"));
                return Ok(());
            }
            self.tracks[number].rare().join_at_us = Some(at_us);
            return Ok(());
        }
        let asked = |behind: Option<&Behind>| behind.is_some_and(|behind| behind.request == Some(id));
        let Some(number) = self.tracks.iter().position(|track| asked(track.behind())) else {
            self.complain(cx, None, 0, &format!("an answer that was not asked for, which {text}"));
            return Ok(());
        };
        if !error.retry {
            self.complain(cx, Some(number), self.tracks[number].last, &format!("the pull {text}"));
        }
        let track = &mut self.tracks[number];
        let behind = track.behind().copied();
        if let (Some(first), "EXPIRED") = (error.first, error.code.as_str()) {
            let epoch = cx.shared.epochs.number(&error.epoch);
            track.begin_anew(epoch, first.saturating_sub(1));
        }
        track.rare().behind = behind.map(|behind| Behind { request: None, not_before_us: at_us, ..behind });
        Ok(())
    }

    /// Something of a stream that this client does not follow.
    fn stranger(&self, stream: &str, seq: u64, cx: &mut Context<'_>) {
        let uid = cx.shared.population.uid(cx.client);
        cx.shared.tally.find(Kind::WrongRecipient, || format!("{uid} {stream}: seq {seq} is not for this client"));
    }

    fn complain(&self, cx: &mut Context<'_>, number: Option<usize>, seq: u64, text: &str) {
        self.find(cx, Kind::Protocol, number, seq, text);
    }

    fn find(&self, cx: &mut Context<'_>, kind: Kind, number: Option<usize>, seq: u64, text: &str) {
        let population = &cx.shared.population;
        cx.shared.tally.find(kind, || {
            let stream = number.map_or("(connection)".to_owned(), |number| population.name(self.tracks[number].stream));
            format!("{} {stream}: seq {seq} {text}", population.uid(cx.client))
        });
    }
}

fn in_range(batch: &Batch) -> impl Iterator<Item = &Item> {
    batch.items.iter().filter(|item| item.state != ItemState::OutOfRange)
}
