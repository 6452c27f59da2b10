//! Unlinking old segments.
//!
//! The order makes every crash harmless: first the streams' firsts move past what goes (readers stop asking for it), then
//! a snapshot of what must survive becomes durable and with it the decision, then the index reaches the disk and forgets
//! the places, then the segments are unlinked. (A crash before the last two leaves some rows of places behind for good.)
//! All of it runs on a thread of its own: the owner's thread only decides and goes on committing.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use tidegate_control_core::domain::{Lsn, Record, Timestamp};

use super::codec;
use super::error::{OpenError, ReadError};
use super::index::Highest;
use super::indexer::Task;
use super::log::format::StoreId;
use super::log::read::LogScan;
use super::log::{Log, Segment};
use super::shared::{Shared, WALK_CHUNK_BYTES};
use super::snapshot::{self, Snapshot, SnapshotError};

#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    pub age_ms: i64,
    pub bytes_max: u64,
    /// A snapshot holds all groups and heads, so it is not made for every segment.
    pub every_ms: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// What is about to go cannot be read: the log is damaged.
    #[error("a segment cannot be read for retention")]
    Read(#[from] ReadError),
    #[error("the snapshot failed, so nothing was unlinked")]
    Snapshot(#[from] SnapshotError),
    #[error("the index thread has ended")]
    Stopped,
    #[error("a segment cannot be unlinked")]
    Unlink(#[source] std::io::Error),
    #[error("old snapshots cannot be removed")]
    Clean(#[source] OpenError),
}

/// One trimming at a time.
#[derive(Debug)]
pub struct Retention {
    limits: RetentionLimits,
    next_at: Timestamp,
    job: Option<JoinHandle<Result<Lsn, TrimError>>>,
}

/// What a trimming needs to know.
pub struct Trimming {
    pub shared: Arc<Shared>,
    pub tasks: Sender<Task>,
    pub dir: PathBuf,
    pub store: StoreId,
}

impl Retention {
    pub fn new(limits: RetentionLimits) -> Retention {
        Retention { limits, next_at: Timestamp(i64::MIN), job: None }
    }

    /// Up to where segments have outlived the limits, if it is time to act on it.
    pub fn due(&mut self, now: Timestamp, log: &Log) -> Option<Lsn> {
        if now < self.next_at || self.job.is_some() {
            return None;
        }
        self.next_at = Timestamp(now.0.saturating_add(self.limits.every_ms));
        log.with_segments(|segments| self.outlived(now, segments))
    }

    fn outlived(&self, now: Timestamp, segments: &[Segment]) -> Option<Lsn> {
        let mut bytes: u64 = segments.iter().map(|s| s.bytes).sum();
        let mut upto = None;
        for segment in segments.split_last().map_or(&[][..], |(_, old)| old) {
            let old = segment.newest.0.saturating_add(self.limits.age_ms) < now.0;
            if !old && bytes <= self.limits.bytes_max {
                break;
            }
            bytes -= segment.bytes;
            upto = Some(segment.last);
        }
        upto
    }

    pub fn start(&mut self, upto: Lsn, trimming: Trimming) -> std::io::Result<()> {
        let job = std::thread::Builder::new().name("store-trim".into()).spawn(move || trimming.run(upto))?;
        self.job = Some(job);
        Ok(())
    }

    /// The result of a trimming that has ended; with `wait`, of the one that runs.
    pub fn finished(&mut self, wait: bool) -> Option<Result<Lsn, TrimError>> {
        let job = self.job.take_if(|job| wait || job.is_finished())?;
        Some(job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Retention {
    /// A trimming that runs on would keep the folder locked.
    fn drop(&mut self) {
        let _ = self.finished(true);
    }
}

impl Trimming {
    /// Returns up to where the log was cut.
    fn run(self, upto: Lsn) -> Result<Lsn, TrimError> {
        let segments = self.shared.log.segments();
        let old = segments.split_last().map_or(&[][..], |(_, old)| old);
        let old = &old[..old.partition_point(|segment| segment.last <= upto)];
        let mut cut = None;
        for segment in old {
            let (highest, crc) = self.highest(segment)?;
            let trimmed = segment.last;
            self.ask(|done| Task::MoveFirsts { highest, trimmed, done })?;
            cut = Some((trimmed, crc));
        }
        let Some((trimmed, trimmed_crc)) = cut else { return Ok(Lsn(self.shared.log.start().0 - 1)) };
        let (view, state) = self.ask(|done| Task::View { done })?;
        let file = snapshot::path(&self.dir, state.indexed);
        let snapshot = Snapshot { file, at: state.indexed, trimmed, trimmed_crc, newest: state.newest, rows: 0 };
        snapshot::write(&self.dir, self.store, &snapshot, &self.shared.index, &view)?;
        if self.ask(|done| Task::Checkpoint { done })? {
            for segment in old {
                let (highest, _) = self.highest(segment)?;
                self.ask(|done| Task::ForgetPlaces { highest, done })?;
            }
        }
        let unlinked = self.shared.log.unlink_upto(trimmed).map_err(TrimError::Unlink)?;
        snapshot::clean(&self.dir, Some(&snapshot)).map_err(TrimError::Clean)?;
        tracing::info!(segments = unlinked, upto = trimmed.0, "retention unlinked old segments");
        Ok(trimmed)
    }

    /// The highest seqs of the segment's messages, and the header crc of its last record.
    fn highest(&self, segment: &Segment) -> Result<(Highest, u32), TrimError> {
        let mut highest = Highest::new();
        let mut crc = 0;
        let mut scan = LogScan::new(&self.shared.log, Lsn(segment.first.0 - 1), segment.last, WALK_CHUNK_BYTES)?;
        while let Some((at, view)) = scan.step()? {
            crc = view.crc;
            if let Record::Append(append) = codec::decode(view.body).map_err(|_| self.shared.undecodable(at))? {
                highest.extend(append.places.into_iter().map(|place| ((place.stream, place.epoch), place.seq)));
            }
        }
        Ok((highest, crc))
    }

    fn ask<T>(&self, task: impl FnOnce(Sender<T>) -> Task) -> Result<T, TrimError> {
        let (done, reply) = bounded(1);
        self.tasks.send(task(done)).map_err(|_| TrimError::Stopped)?;
        reply.recv().map_err(|_| TrimError::Stopped)
    }
}
