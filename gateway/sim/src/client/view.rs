//! What a client knows of its streams, by the one rule of the protocol, and the log that the oracles read.
//!
//! Where the rule lets a client mend what a server did wrong (a hole in what comes live, a message twice), this one says so
//! instead: on one connection a gateway sends a stream in order, without holes, once, or tells a gap.

use tidegate_proto::v1;

use crate::truth::{Life, Truth, for_platform, text};

/// One stream of one client.
#[derive(Debug)]
pub struct View {
    pub life: Life,
    pub last: u64,
    /// The server said that it does not send this stream for now.
    pub gapped: bool,
    /// The request that pulls.
    pub pull: Option<u32>,
    /// When to pull.
    pub pull_at: Option<u64>,
    /// Left on this connection by the client's own wish.
    pub left: bool,
    /// What was covered on this connection reaches so far.
    pub on_conn: Option<u64>,
    /// A pull brought it there: what a fan-out carries at that moment may overlap.
    pub by_pull: bool,
    segment: usize,
}

/// What was covered without a break: `(from, upto]` of one life, and what was shown of it.
#[derive(Debug)]
pub struct Segment {
    pub life: Life,
    pub from: u64,
    pub upto: u64,
    pub shown: Vec<u64>,
}

/// Whose eyes.
#[derive(Clone, Debug)]
pub struct Reader {
    pub uid: String,
    pub platform: &'static str,
}

#[derive(Debug, Default)]
pub struct Log {
    pub segments: Vec<Segment>,
    /// Messages shown, over all segments.
    pub shown: usize,
}

impl View {
    pub fn begin(log: &mut Log, life: Life, from: u64) -> View {
        log.segments.push(Segment { life: life.clone(), from, upto: from, shown: Vec::new() });
        let segment = log.segments.len() - 1;
        View {
            life,
            last: from,
            gapped: false,
            pull: None,
            pull_at: None,
            left: false,
            on_conn: None,
            by_pull: false,
            segment,
        }
    }

    /// By its own wish the client passes over what lies before `from`.
    pub fn pass_over(&mut self, log: &mut Log, from: u64) {
        if from > self.last {
            let life = self.life.clone();
            log.segments.push(Segment { life, from, upto: from, shown: Vec::new() });
            (self.last, self.segment) = (from, log.segments.len() - 1);
        }
    }

    /// Messages that cover `(after, upto]`, live, recovered or pulled.
    pub fn cover(
        &mut self,
        log: &mut Log,
        (reader, truth): (&Reader, &Truth),
        (after, upto): (u64, u64),
        messages: &[v1::Message],
    ) -> Result<(), String> {
        if after > upto {
            return Err(format!("{}: a range that ends before it begins: ({after}, {upto}]", self.life.0));
        }
        if after > self.last {
            return Err(format!("{}: ({after}, {upto}] after {}: a hole", self.life.0, self.last));
        }
        let mut before = after;
        let segment = &mut log.segments[self.segment];
        for message in messages {
            if message.seq <= before || message.seq > upto {
                return Err(format!("{}: seq {} out of order in ({after}, {upto}]", self.life.0, message.seq));
            }
            before = message.seq;
            if message.seq > self.last {
                check(reader, truth, &self.life, message)?;
                segment.shown.push(message.seq);
                log.shown += 1;
            }
        }
        self.last = self.last.max(upto);
        segment.upto = self.last;
        Ok(())
    }
}

/// What is shown must be what the log holds at that place, and this reader's to see.
pub fn check(reader: &Reader, truth: &Truth, life: &Life, message: &v1::Message) -> Result<(), String> {
    let place = format!("{} {} seq {}", life.0, life.1, message.seq);
    let Some(body) = truth.message(life, message.seq) else {
        return Err(format!("{place}: shown, but never durable"));
    };
    if message.id != body.id.to_string() || message.content != text(body) {
        return Err(format!("{place}: shown as {:?}, stored as {:?}", message.content, text(body)));
    }
    if !truth.may_see(&reader.uid, life, message.seq) {
        return Err(format!("{place}: shown to {}, who may not see it", reader.uid));
    }
    if !for_platform(body, reader.platform) {
        return Err(format!("{place}: shown on {:?}, meant for {:?}", reader.platform, body.platforms));
    }
    Ok(())
}

impl Log {
    /// Whether something was passed over in silence.
    pub fn judge(&self, reader: &Reader, truth: &Truth) -> Result<(), String> {
        for Segment { life, from, upto, shown } in &self.segments {
            let mut shown = shown.iter().copied().peekable();
            for seq in from + 1..=*upto {
                if shown.next_if_eq(&seq).is_some() {
                    continue;
                }
                let Some(body) = truth.message(life, seq) else {
                    return Err(format!("{} {}: covered up to {seq}, which was never durable", life.0, life.1));
                };
                let excused = !for_platform(body, reader.platform)
                    || !truth.may_see(&reader.uid, life, seq)
                    || body.expires.is_some()
                    || truth.is_trimmed(life, seq);
                if !excused {
                    return Err(format!("{} {} seq {seq} ({:?}): never shown", life.0, life.1, text(body)));
                }
            }
        }
        Ok(())
    }
}
