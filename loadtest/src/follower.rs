//! A client that follows its streams through anything: it keeps `(epoch, last)` per stream, applies the client rule to
//! every frame, pulls holes and gaps, and comes back after every break with its cursors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_proto::v1::{Batch, ConnectOp, Cursor, Gap, JoinOp, PullOp, PullResult, client_frame, ok, server_frame};
use tokio::sync::Notify;

use crate::crowd_judge::{Fault, StreamLog};
use crate::session::{Session, SessionError, Target};

/// Pause before the n-th attempt to reconnect: doubled up to this.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);

/// Shared between a follower's task and whoever steers it.
#[derive(Debug, Default)]
pub struct Controls {
    /// Stop reading the socket (a slow client) while set.
    pub paused: AtomicBool,
    pub stopped: AtomicBool,
    pub changed: Notify,
    pub connects: AtomicU64,
    pub established: AtomicBool,
    pub shown: AtomicU64,
}

impl Controls {
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
        self.changed.notify_one();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// Told of each message when it is shown, for latencies.
pub type OnShown = Arc<dyn Fn(&tidegate_proto::v1::Message, Instant) + Send + Sync>;

pub struct Follower {
    pub name: String,
    pub target: Target,
    /// Streams to join; the inbox comes by itself.
    pub streams: Vec<String>,
    pub controls: Arc<Controls>,
    pub on_shown: Option<OnShown>,
    logs: BTreeMap<String, StreamLog>,
    /// Streams in `gap` or with a hole: no live frame counts until a pull reached the head.
    behind: BTreeMap<String, Behind>,
}

#[derive(Debug)]
struct Behind {
    /// The pull under way.
    request: Option<u32>,
    not_before: Instant,
    told_by_gap: bool,
}

impl Follower {
    pub fn new(name: String, target: Target, streams: Vec<String>) -> Follower {
        Follower {
            name,
            target,
            streams,
            controls: Arc::new(Controls::default()),
            on_shown: None,
            logs: BTreeMap::new(),
            behind: BTreeMap::new(),
        }
    }

    /// Follows until stopped; returns what was shown.
    pub async fn run(mut self) -> (String, BTreeMap<String, StreamLog>) {
        let mut pause = RECONNECT_PAUSE_MIN;
        while !self.controls.stopped() {
            let since = Instant::now();
            let ended = self.follow().await;
            self.controls.established.store(false, Ordering::SeqCst);
            if self.controls.stopped() {
                break;
            }
            if let Err(SessionError::Closed { code, reason }) = &ended
                && *code >= 3500
            {
                let fault = Fault::EpochChanged { from: format!("close {code}"), to: reason.clone() };
                self.logs.entry("(connection)".into()).or_default().faults.push(fault);
                break;
            }
            pause = if since.elapsed() > RECONNECT_PAUSE_MAX {
                RECONNECT_PAUSE_MIN
            } else {
                (pause * 2).min(RECONNECT_PAUSE_MAX)
            };
            tokio::time::sleep(pause).await;
        }
        (self.name, self.logs)
    }

    async fn follow(&mut self) -> Result<(), SessionError> {
        self.behind.clear();
        let mut session = Session::open(&self.target).await?;
        self.controls.connects.fetch_add(1, Ordering::SeqCst);
        let cursor = |log: &StreamLog| Cursor { epoch: log.epoch.clone(), seq: log.last };
        let known = self.logs.iter().filter(|(_, log)| !log.epoch.is_empty());
        let connect = ConnectOp {
            device: format!("{}-device", self.name),
            platform: "web".into(),
            cursors: known.map(|(stream, log)| (stream.clone(), cursor(log))).collect(),
            ..ConnectOp::default()
        };
        let connect_id = session.send(client_frame::Op::Connect(connect)).await?;
        let mut joins = BTreeMap::new();
        for stream in &self.streams {
            if self.logs.get(stream).is_none_or(|log| log.epoch.is_empty()) {
                let join = JoinOp { stream: stream.clone(), cursor: None };
                joins.insert(session.send(client_frame::Op::Join(join)).await?, stream.clone());
            }
        }
        let mut connected = false;
        loop {
            if self.controls.stopped() {
                return Ok(());
            }
            if self.controls.paused.load(Ordering::SeqCst) {
                self.controls.changed.notified().await;
                continue;
            }
            self.start_pulls(&mut session).await?;
            let next_pull = self.behind.values().filter(|b| b.request.is_none()).map(|b| b.not_before).min();
            let frame = tokio::select! {
                frame = session.next() => frame?,
                () = self.controls.changed.notified() => continue,
                () = until(next_pull) => continue,
            };
            let id = frame.id;
            match frame.body {
                Some(server_frame::Body::Ok(answer)) => match answer.result {
                    Some(ok::Result::Connect(state)) if id == connect_id => {
                        connected = true;
                        for stream in state.streams {
                            self.begin(&stream.stream, &stream.epoch, stream.head, stream.first, &stream.recovered);
                        }
                    }
                    Some(ok::Result::Join(state)) => {
                        joins.remove(&id);
                        self.begin(&state.stream, &state.epoch, state.head, state.first, &state.recovered);
                    }
                    Some(ok::Result::Pull(page)) => self.pulled(page),
                    _ => {}
                },
                Some(server_frame::Body::Error(error)) => self.refused(id, &error),
                Some(server_frame::Body::Batch(batch)) => self.batch(batch),
                Some(server_frame::Body::Gap(gap)) => self.gap(&gap),
                _ => {}
            }
            if connected && joins.is_empty() {
                self.controls.established.store(true, Ordering::SeqCst);
            }
        }
    }

    /// The server said where a stream stands at the start of a connection.
    fn begin(&mut self, stream: &str, epoch: &str, head: u64, first: u64, recovered: &str) {
        let log = self.logs.entry(stream.to_owned()).or_default();
        if log.epoch.is_empty() {
            // No cursor: what the server sends begins where it says; an inbox may begin below the head.
            log.begin(stream, epoch, head);
        } else if recovered == "expired" || log.epoch != epoch {
            log.faults.push(Fault::EpochChanged {
                from: format!("{}/{}", log.epoch, log.last),
                to: format!("{epoch} {recovered}"),
            });
            log.epoch = epoch.to_owned();
            log.last = first.saturating_sub(1);
        }
    }

    fn batch(&mut self, batch: Batch) {
        let (Some(after), Some(upto)) = (batch.after, batch.upto) else { return };
        let log = self.logs.entry(batch.stream.clone()).or_default();
        if log.epoch.is_empty() {
            log.begin(&batch.stream, &batch.epoch, after);
        }
        if self.behind.get(&batch.stream).is_some_and(|behind| behind.told_by_gap) {
            log.faults.push(Fault::LiveInGap { after });
        }
        if after > log.last {
            let hole = Behind { request: None, not_before: Instant::now(), told_by_gap: false };
            self.behind.entry(batch.stream).or_insert(hole);
            return;
        }
        self.show(&batch.stream, after, upto, &batch.messages);
    }

    fn show(&mut self, stream: &str, after: u64, upto: u64, messages: &[tidegate_proto::v1::Message]) {
        let now = Instant::now();
        let Some(log) = self.logs.get_mut(stream) else { return };
        let mut previous = 0;
        for message in messages {
            if message.seq <= previous {
                log.faults.push(Fault::Reordered { seq: message.seq, after: previous });
            }
            if message.seq <= after || message.seq > upto {
                log.faults.push(Fault::OutOfRange { seq: message.seq });
            }
            previous = message.seq;
            if message.seq <= log.last {
                log.overlaps += 1;
                continue;
            }
            log.shown.insert(message.seq, message.id.parse().unwrap_or(0));
            self.controls.shown.fetch_add(1, Ordering::Relaxed);
            if let Some(on_shown) = &self.on_shown {
                on_shown(message, now);
            }
        }
        log.last = log.last.max(upto);
    }

    fn gap(&mut self, gap: &Gap) {
        let log = self.logs.entry(gap.stream.clone()).or_default();
        log.gaps += 1;
        if log.epoch.is_empty() {
            log.begin(&gap.stream, &gap.epoch, gap.from.saturating_sub(1));
        }
        let not_before = Instant::now() + Duration::from_millis(u64::from(gap.pull_after_ms));
        self.behind.insert(gap.stream.clone(), Behind { request: None, not_before, told_by_gap: true });
    }

    async fn start_pulls(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let now = Instant::now();
        for (stream, behind) in &mut self.behind {
            if behind.request.is_some() || behind.not_before > now {
                continue;
            }
            let Some(log) = self.logs.get(stream) else { continue };
            let (epoch, after) = (log.epoch.clone(), log.last);
            let pull = PullOp { stream: stream.clone(), epoch, after, limit: 0, since_ts: None };
            behind.request = Some(session.send(client_frame::Op::Pull(pull)).await?);
        }
        Ok(())
    }

    fn pulled(&mut self, page: PullResult) {
        self.show(&page.stream, page.after, page.upto, &page.messages);
        let Some(log) = self.logs.get_mut(&page.stream) else { return };
        log.last = log.last.max(page.next_after);
        if page.next_after >= page.head {
            log.healed += 1;
            self.behind.remove(&page.stream);
        } else if let Some(behind) = self.behind.get_mut(&page.stream) {
            behind.request = None;
            behind.not_before = Instant::now();
        }
    }

    /// A refused pull is asked again after a while; any other refusal is a finding by its consequences.
    fn refused(&mut self, id: u32, error: &tidegate_proto::v1::Error) {
        let pause = Duration::from_millis(u64::from(error.retry_after_ms.unwrap_or(200)));
        for behind in self.behind.values_mut().filter(|b| b.request == Some(id)) {
            behind.request = None;
            behind.not_before = Instant::now() + pause;
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
