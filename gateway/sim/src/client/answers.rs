//! What each frame from the server means to a client.

use tidegate_proto::v1::{self, client_frame::Op, ok};

use super::view::{View, check};
use super::{Answer, Asked, Client, Judged, RETRY_NS};
use crate::script::MS;
use crate::truth::{Life, Truth};

impl Client {
    pub(super) fn on_session(&mut self, session: v1::Session) -> Judged {
        let Some(conn) = &mut self.conn else { return Ok(()) };
        if std::mem::replace(&mut conn.welcomed, true) {
            return Err("two sessions on one connection".to_owned());
        }
        conn.asked.clear();
        if session.uid != self.reader.uid {
            return Err(format!("the session of {}", session.uid));
        }
        session.streams.into_iter().try_for_each(|state| self.stands(state))
    }

    /// Where a stream stands that this client opened.
    fn stands(&mut self, state: v1::StreamState) -> Judged {
        let life = (state.stream.clone(), state.epoch.clone());
        let known = self.views.get_mut(&state.stream);
        match (known, state.recovered.as_str()) {
            (_, "expired") => {
                let from = state.first.saturating_sub(1);
                self.views.insert(state.stream, View::begin(&mut self.log, life, from));
            }
            (Some(view), _) if view.life != life && !view.left => {
                return Err(format!("{}: {} became {} without a word", life.0, view.life.1, life.1));
            }
            (Some(view), "full" | "partial") if !view.left => {
                if view.last > state.head {
                    return Err(format!(
                        "{}: {} is beyond the head {} and was accepted",
                        life.0, view.last, state.head
                    ));
                }
                view.gapped = false;
            }
            // It begins with its first batch or gap.
            (Some(_), "full" | "partial") => drop(self.views.remove(&life.0)),
            (None, "full" | "partial") => {}
            (_, other) => return Err(format!("{}: recovered {other:?}", life.0)),
        }
        Ok(())
    }

    pub(super) fn on_batch(&mut self, batch: v1::Batch, truth: &Truth) -> Judged {
        let (Some(after), Some(upto)) = (batch.after, batch.upto) else { return self.on_ephemeral(&batch) };
        let life: Life = (batch.stream, batch.epoch);
        let name = life.0.clone();
        if !self.views.contains_key(&name) {
            self.check_start(&life, after, truth)?;
            self.views.insert(name.clone(), View::begin(&mut self.log, life.clone(), after));
        }
        let Some(view) = self.views.get_mut(&name) else { return Ok(()) };
        if view.left {
            return Err(format!("{name}: a batch after it was left"));
        }
        if view.life != life {
            return Err(format!("{name}: {} became {} without a word", view.life.1, life.1));
        }
        if view.gapped {
            return Err(format!("{name}: ({after}, {upto}] came into a gap at {}", view.last));
        }
        if view.on_conn.is_some_and(|reached| after < reached && !view.by_pull) {
            return Err(format!("{name}: ({after}, {upto}] though this connection had {}", view.last));
        }
        view.cover(&mut self.log, (&self.reader, truth), (after, upto), &batch.messages)?;
        // A pull may be far ahead of what comes live.
        view.by_pull &= upto < view.on_conn.unwrap_or(0);
        view.on_conn = Some(view.last);
        Ok(())
    }

    /// An inbox that comes without a place of the client's own begins where some device of the user told it to.
    fn check_start(&self, life: &Life, after: u64, truth: &Truth) -> Judged {
        if life.0 != format!("u:{}", self.reader.uid) {
            return Ok(());
        }
        let mark = truth.marks.get(life).copied().unwrap_or(0).max(truth.trimmed_upto(life));
        match after <= mark {
            true => Ok(()),
            false => Err(format!("{}: begins after {after}, but {mark} is all that was acknowledged", life.0)),
        }
    }

    fn on_ephemeral(&mut self, batch: &v1::Batch) -> Judged {
        let own = batch.stream == format!("u:{}", self.reader.uid);
        for message in &batch.messages {
            // Its text names the stream that it was meant for.
            let meant = message.content.split_whitespace().nth(1).unwrap_or_default();
            let one_to_one = own && meant == batch.stream;
            if message.seq != 0 || (meant != batch.stream && !one_to_one) {
                return Err(format!("{}: an ephemeral message of {meant}", batch.stream));
            }
        }
        if batch.stream.starts_with("u:") && !own {
            return Err(format!("{}: another user's ephemeral message", batch.stream));
        }
        Ok(())
    }

    pub(super) fn on_gap(&mut self, now: u64, gap: v1::Gap) -> Judged {
        let life: Life = (gap.stream.clone(), gap.epoch);
        let known = self.views.get(&gap.stream).filter(|view| view.life == life && !view.left);
        if known.is_none() {
            let view = View::begin(&mut self.log, life, gap.from.saturating_sub(1));
            self.views.insert(gap.stream.clone(), view);
        }
        let Some(view) = self.views.get_mut(&gap.stream) else { return Ok(()) };
        view.gapped = true;
        view.pull_at = Some(now + u64::from(gap.pull_after_ms) * MS);
        Ok(())
    }

    pub(super) fn on_joined(&mut self, joined: v1::Joined) -> Judged {
        let life: Life = (joined.stream.clone(), joined.epoch);
        let known = self.views.get(&joined.stream).is_some_and(|view| view.life == life && !view.left);
        if !known {
            self.views.insert(joined.stream, View::begin(&mut self.log, life, joined.head));
        }
        Ok(())
    }

    pub(super) fn on_ok(&mut self, now: u64, id: u32, ok: v1::Ok, truth: &Truth) -> Judged {
        let Some(asked) = self.conn.as_mut().and_then(|conn| conn.asked.remove(&id)) else {
            return Err(format!("an answer to {id}, which was not asked"));
        };
        match (asked, ok.result) {
            (Asked::Pull { life, after }, Some(ok::Result::Pull(pulled))) => {
                self.on_pulled(now, life, after, pulled, truth)
            }
            (Asked::Look { stream }, Some(ok::Result::Pull(pulled))) if pulled.stream == stream => {
                self.on_looked(now, pulled, truth)
            }
            (Asked::Join { stream }, Some(ok::Result::Join(state))) if state.stream == stream => {
                if let Some(conn) = &mut self.conn {
                    conn.joined.insert(stream.clone());
                }
                self.wanted.insert(stream);
                self.stands(state)
            }
            (Asked::Leave { stream }, _) => {
                self.wanted.remove(&stream);
                if let Some(conn) = &mut self.conn {
                    conn.joined.remove(&stream);
                }
                let view = self.views.remove(&stream);
                let mut view = view.unwrap_or_else(|| View::begin(&mut self.log, (stream.clone(), String::new()), 0));
                (view.left, view.gapped, view.pull, view.pull_at) = (true, false, None, None);
                self.views.insert(stream, view);
                Ok(())
            }
            (Asked::Send { push }, Some(ok::Result::Send(sent))) => {
                let v1::SendResult { stream, epoch, seq, message_id: id, duplicate } = sent;
                self.answers.push((push, Answer::Ok { life: (stream, epoch), seq, id, duplicate }));
                Ok(())
            }
            (Asked::Other | Asked::Daring, _) => Ok(()),
            (asked, _) => Err(format!("the wrong answer to {asked:?}")),
        }
    }

    /// A page from anywhere. Whatever a client pulls moves its place: from there on it follows, and what lies between it has
    /// passed over.
    fn on_looked(&mut self, now: u64, pulled: v1::PullResult, truth: &Truth) -> Judged {
        let life: Life = (pulled.stream, pulled.epoch);
        if !self.views.contains_key(&life.0) && life.0.strip_prefix("u:") == Some(&self.reader.uid) {
            let view = View::begin(&mut self.log, life.clone(), pulled.after);
            self.views.insert(life.0.clone(), view);
        }
        let view = self.views.get_mut(&life.0).filter(|view| view.life == life && !view.left);
        let Some(view) = view.filter(|view| pulled.upto > view.last) else {
            return pulled.messages.iter().try_for_each(|message| check(&self.reader, truth, &life, message));
        };
        view.pass_over(&mut self.log, pulled.after);
        view.cover(&mut self.log, (&self.reader, truth), (pulled.after, pulled.upto), &pulled.messages)?;
        (view.on_conn, view.by_pull) = (Some(view.last), true);
        match pulled.next_after >= pulled.head {
            true => (view.gapped, view.pull_at) = (false, None),
            false => view.pull_at = Some(now),
        }
        Ok(())
    }

    fn on_pulled(&mut self, now: u64, life: Life, after: u64, pulled: v1::PullResult, truth: &Truth) -> Judged {
        let Some(view) = self.views.get_mut(&life.0).filter(|view| view.life == life && !view.left) else {
            return Ok(());
        };
        view.pull = None;
        if (&pulled.stream, &pulled.epoch) != (&life.0, &life.1) || pulled.after < after {
            return Err(format!("{}: asked after {after}, got {} {}", life.0, pulled.epoch, pulled.after));
        }
        if pulled.next_after != pulled.upto || pulled.head < pulled.upto {
            return Err(format!("{}: a page up to {} of head {}", life.0, pulled.upto, pulled.head));
        }
        view.cover(&mut self.log, (&self.reader, truth), (after, pulled.upto), &pulled.messages)?;
        if view.on_conn.is_some() || view.gapped {
            (view.on_conn, view.by_pull) = (Some(view.last), true);
        }
        if pulled.next_after >= pulled.head {
            (view.gapped, view.pull_at) = (false, None);
            return Ok(());
        }
        if pulled.next_after == after {
            return Err(format!("{}: a page after {after} that brings nothing of {}", life.0, pulled.head));
        }
        view.pull_at = Some(now);
        Ok(())
    }

    pub(super) fn on_error(&mut self, now: u64, id: u32, error: v1::Error) -> Judged {
        let Some(asked) = self.conn.as_mut().and_then(|conn| conn.asked.remove(&id)) else {
            return Err(format!("an error for {id}, which was not asked: {}", error.code));
        };
        let pause = error.retry_after_ms.map_or(RETRY_NS, |ms| u64::from(ms) * MS);
        match asked {
            Asked::Pull { life, .. } => {
                let Some(view) = self.views.get_mut(&life.0).filter(|view| view.life == life && !view.left) else {
                    return Ok(());
                };
                view.pull = None;
                match (error.code.as_str(), error.first) {
                    ("EXPIRED", Some(first)) => {
                        let gapped = view.gapped;
                        let mut view =
                            View::begin(&mut self.log, (life.0.clone(), error.epoch), first.saturating_sub(1));
                        (view.gapped, view.pull_at) = (gapped, Some(now));
                        self.views.insert(life.0, view);
                    }
                    ("FORBIDDEN" | "NOT_FOUND", _) => drop(self.views.remove(&life.0)),
                    _ if error.retry => view.pull_at = Some(now + pause),
                    (code, _) => return Err(format!("{}: a pull was refused: {code}", life.0)),
                }
            }
            Asked::Send { push } if error.retry => self.answers.push((push, Answer::Unknown)),
            Asked::Send { push } => self.answers.push((push, Answer::Refused)),
            Asked::Join { stream } if !error.retry => drop(self.wanted.remove(&stream)),
            Asked::Daring => return Ok(()),
            _ => {}
        }
        match error.code.as_str() {
            "BAD_REQUEST" | "INTERNAL" | "UNIMPLEMENTED" => Err(format!("{}: {}", error.code, error.message)),
            _ => Ok(()),
        }
    }

    /// Groups whose feed it wants and does not have.
    pub fn rejoins(&mut self, bytes: &mut Vec<u8>) {
        let Some(conn) = &self.conn else { return };
        let asks = |stream: &String| conn.asked.values().any(|a| matches!(a, Asked::Join { stream: s } if s == stream));
        let has = |stream: &String| self.views.get(stream).is_some_and(|view| !view.left);
        let lacks = |stream: &&String| !conn.joined.contains(*stream) && !asks(stream) && !has(stream);
        let lacking: Vec<String> = self.wanted.iter().filter(lacks).cloned().collect();
        for stream in lacking {
            self.join(stream, false, bytes);
        }
    }

    pub fn join(&mut self, stream: String, with_cursor: bool, bytes: &mut Vec<u8>) {
        let cursor = self.views.get(&stream).filter(|_| with_cursor);
        let cursor = cursor.map(|view| v1::Cursor { epoch: view.life.1.clone(), seq: view.last });
        let asked = Asked::Join { stream: stream.clone() };
        self.ask(Op::Join(v1::JoinOp { stream, cursor }), asked, bytes);
    }
}
