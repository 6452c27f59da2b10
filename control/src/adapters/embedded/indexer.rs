//! The index thread: takes what commits left in the overlay and writes it into the index, in large batches. Beside it, a
//! thread that ends once it has read the keys of earlier openings into filters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use hashbrown::HashMap;
use tidegate_control_core::domain::{Epoch, Lsn, Seq, StreamKey};

use super::error::IndexError;
use super::index::rows::IndexState;
use super::shared::Shared;

/// Records in the overlay at which the thread is woken before its time.
pub const FLUSH_RECORDS: usize = 32_768;
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Bounds what has to be indexed again after a power loss; the log alone decides what is durable.
const PERSIST_EVERY: Duration = Duration::from_secs(10);
const TASKS_MAX: usize = 8;

pub enum Task {
    Flush,
    /// Messages up to these seqs are about to be unlinked, with all records up to `trimmed`.
    Trim {
        highest: HashMap<(StreamKey, Epoch), Seq>,
        trimmed: Lsn,
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
    let mut persisted = Instant::now();
    loop {
        let task = match inbox.recv_timeout(FLUSH_EVERY) {
            Ok(task) => task,
            Err(RecvTimeoutError::Timeout) => Task::Flush,
            Err(RecvTimeoutError::Disconnected) => Task::Stop,
        };
        shared.flush()?;
        match task {
            Task::Flush => {}
            Task::Trim { highest, trimmed, done } => {
                let mut state = shared.state();
                state.trimmed = state.trimmed.max(trimmed);
                shared.index.trim(&highest, state)?;
                shared.set_state(state);
                let _ = done.send(());
            }
            Task::View { done } => {
                let _ = done.send((shared.index.view(), shared.state()));
            }
            Task::Stop => return shared.index.persist(),
        }
        if persisted.elapsed() >= PERSIST_EVERY {
            shared.index.persist()?;
            persisted = Instant::now();
        }
    }
}
