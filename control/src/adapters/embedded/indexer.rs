//! The index thread: takes what commits left in the overlay and writes it into the index, in large batches. Beside it, a
//! thread that ends once it has read the keys of earlier openings into filters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tidegate_control_core::domain::Lsn;

use super::error::IndexError;
use super::index::mark::IndexState;
use super::index::{Checkpoint, Highest};
use super::shared::{CHECKPOINT_PATIENCE, CHECKPOINT_RECORDS, Shared};

/// Records in the overlay at which the thread is woken before its time.
pub const FLUSH_RECORDS: usize = 32_768;
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Bounds what the next opening applies again after a crash; the log alone decides what is durable.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
const TASKS_MAX: usize = 8;

pub enum Task {
    Flush,
    /// Messages up to these seqs are about to be unlinked, with all records up to `trimmed`.
    MoveFirsts {
        highest: Highest,
        trimmed: Lsn,
        done: Sender<()>,
    },
    /// Move everything into tables now. Answers whether that came to an end.
    Checkpoint {
        done: Sender<bool>,
    },
    /// The moved firsts are in tables: forget the places.
    ForgetPlaces {
        highest: Highest,
        done: Sender<()>,
    },
    /// A view of the index at one record.
    View {
        done: Sender<(fjall::Snapshot, IndexState)>,
    },
    Stop,
}

#[derive(Debug)]
pub struct Indexer {
    tasks: Sender<Task>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Indexer {
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Indexer> {
        let (tasks, inbox) = bounded(TASKS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let (filters, stopped) = (shared.clone(), stop.clone());
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(work);
        let index = move || {
            if let Err(error) = run(&shared, &inbox) {
                let _ = shared.index_failed(error);
            }
        };
        let build_filters = move || {
            if let Err(error) = filters.index.build_filters(&stopped) {
                let _ = filters.index_failed(error);
            }
        };
        let threads = vec![spawn("store-index", Box::new(index))?, spawn("store-keys", Box::new(build_filters))?];
        Ok(Indexer { tasks, stop, threads })
    }

    /// Asks for a write now; a full queue means that one is coming anyway.
    pub fn nudge(&self) {
        match self.tasks.try_send(Task::Flush) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    pub fn tasks(&self) -> Sender<Task> {
        self.tasks.clone()
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        // An error means that the thread has failed and said so already.
        let _ = self.tasks.send(Task::Stop);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, inbox: &Receiver<Task>) -> Result<(), IndexError> {
    let mut checkpoints = Checkpoints { running: None, begun: Instant::now(), upto: shared.state().indexed };
    loop {
        let task = match inbox.recv_timeout(FLUSH_EVERY) {
            Ok(task) => task,
            Err(RecvTimeoutError::Timeout) => Task::Flush,
            Err(RecvTimeoutError::Disconnected) => Task::Stop,
        };
        shared.flush()?;
        match task {
            Task::Flush => {}
            Task::MoveFirsts { highest, trimmed, done } => {
                shared.index.move_firsts(&highest, trimmed)?;
                let mut state = shared.state();
                state.trimmed = state.trimmed.max(trimmed);
                shared.set_state(state);
                let _ = done.send(());
            }
            Task::Checkpoint { done } => {
                let _ = done.send(shared.checkpoint()?);
            }
            Task::ForgetPlaces { highest, done } => {
                shared.index.forget_places(&highest)?;
                let _ = done.send(());
            }
            Task::View { done } => {
                let _ = done.send((shared.index.view(), shared.state()));
            }
            Task::Stop => return shared.checkpoint().map(|_| ()),
        }
        checkpoints.turn(shared)?;
    }
}

/// Checkpoints beside the thread's other work, so that commits do not wait for them.
struct Checkpoints {
    running: Option<Checkpoint>,
    begun: Instant,
    /// What the last one covered.
    upto: Lsn,
}

impl Checkpoints {
    fn turn(&mut self, shared: &Shared) -> Result<(), IndexError> {
        if let Some(checkpoint) = &mut self.running {
            let given_up = self.begun.elapsed() > CHECKPOINT_PATIENCE;
            if shared.index.finish_checkpoint(checkpoint)? || given_up {
                self.running = None;
            }
            return Ok(());
        }
        let state = shared.state();
        let records = state.indexed.0 - self.upto.0;
        if records >= CHECKPOINT_RECORDS || (records > 0 && self.begun.elapsed() >= CHECKPOINT_EVERY) {
            self.running = Some(shared.index.begin_checkpoint(state)?);
            (self.begun, self.upto) = (Instant::now(), state.indexed);
        }
        Ok(())
    }
}
