//! The partition's thread and the handle by which everybody else reaches it.
//!
//! Invariants:
//! * Nothing is answered before [`Partition::handle`](tidegate_control_core::partition) returned; after a fatal store error
//!   nothing is answered at all.
//! * What waits for the thread is bounded by slots ([`SLOTS_MAX`]): an input takes one, and one more for each KiB of its
//!   content. The API is refused when they run out ([`Sequencer::submit`]); links and push streams wait, which holds back
//!   their peers by HTTP/2 flow control.
//! * What waits for a gateway is bounded by its credit (the partition's business) and, should that fail, by
//!   [`OUTBOX_BYTES_MAX`]: past it the attachment is ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crossbeam_channel::Sender;
use tidegate_control_core::domain::{ErrorCode, Lsn, Refusal};
use tidegate_control_core::partition::{Command, GatewayId, Input, LinkItem, Push, Reply};
use tidegate_control_core::ports::Consumed;
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};

mod gather;
mod thread;
mod waiters;

pub(crate) use gather::Gather;
pub use thread::{ErrandSender, Hooks, OnFatal, Partitioned, Running, Started, spawn};

/// Slots of everything that waits for the partition's thread or is in its hands.
pub const SLOTS_MAX: usize = 65_536;
/// Slots that the API leaves to links: deliveries must not starve behind a flood of pushes.
pub const LINK_SLOTS_RESERVED: usize = SLOTS_MAX / 8;
/// Most slots that one submission may take.
pub const SUBMISSION_SLOTS_MAX: usize = SLOTS_MAX - LINK_SLOTS_RESERVED;
/// Bytes of content that count as one more slot.
const SLOT_CONTENT_BYTES: usize = 1024;
/// Bytes that may wait for one attachment, whatever its credit says.
pub const OUTBOX_BYTES_MAX: usize = 256 << 20;
/// What a refused caller is told to wait.
const OVERLOADED_RETRY_AFTER_MS: u32 = 100;
/// Attach and Detach take a slot each, both reserved when the attachment begins.
const ATTACHMENT_SLOTS: u32 = 2;

const _: () = assert!(LINK_SLOTS_RESERVED > ATTACHMENT_SLOTS as usize);

/// What became of one command.
pub type Answer = Result<Reply, Refusal>;

/// The way to the partition's thread; cheap to clone.
#[derive(Clone)]
pub struct Sequencer {
    queue: Sender<Work>,
    slots: Arc<Semaphore>,
    state: Arc<State>,
}

/// Whether the thread can commit at present.
#[derive(Debug, Default)]
struct State {
    paused: AtomicBool,
    ended: AtomicBool,
    /// The thread is to end where it stands, even if its store is away.
    abandoned: AtomicBool,
    settled: AtomicU64,
}

/// One element of the queue.
pub(crate) enum Work {
    Commands {
        commands: Vec<Command>,
        answers: oneshot::Sender<Vec<Answer>>,
        slots: usize,
    },
    /// Read from the upstream topic, up to this place.
    Appended {
        pushes: Vec<(Box<Push>, Consumed)>,
        upto: Consumed,
        answers: oneshot::Sender<Vec<Answer>>,
        slots: usize,
    },
    /// What the log owes up to here has arrived where it belongs.
    Routed(Lsn),
    Link {
        gateway: GatewayId,
        items: Vec<LinkWork>,
        slots: usize,
    },
    Attach {
        gateway: GatewayId,
        credit_bytes: u64,
        outbox: Outbox,
    },
    Detach {
        gateway: GatewayId,
    },
    Stop,
}

/// What came up one link.
#[derive(Debug)]
pub(crate) enum LinkWork {
    Input(Input),
    /// Answered by [`LinkOut::Reply`] with the same corr.
    Request {
        corr: u64,
        command: Command,
    },
}

/// What goes down one link, in this order.
#[derive(Debug)]
pub(crate) enum LinkOut {
    Item(LinkItem),
    Reply {
        corr: u64,
        answer: Answer,
    },
    /// The partition ends this attachment.
    End(&'static str),
}

/// The partition's end of an attachment's queue.
pub(crate) struct Outbox {
    sender: mpsc::UnboundedSender<Vec<LinkOut>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The link's end of it.
pub(crate) struct Inbox {
    receiver: mpsc::UnboundedReceiver<Vec<LinkOut>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// While it lives, the partition knows the attachment; its drop is the partition's `LinkDown`.
pub(crate) struct Attachment {
    gateway: GatewayId,
    sequencer: Sequencer,
}

/// Answers that will come, in the order of the commands.
#[derive(Debug)]
pub struct Pending {
    answers: oneshot::Receiver<Vec<Answer>>,
    /// They come from several places; what has not come can be said early.
    gathered: Option<Arc<Gather>>,
}

impl Sequencer {
    pub(crate) fn new(queue: Sender<Work>) -> Sequencer {
        Sequencer { queue, slots: Arc::new(Semaphore::new(SLOTS_MAX)), state: Arc::default() }
    }

    /// Hands commands over, all of them or none.
    ///
    /// Errors: `TOO_LARGE` if they could never fit; `OVERLOADED` with a delay if there is no room now (the caller tries
    /// again); `UNAVAILABLE` if the thread has ended.
    pub fn submit(&self, commands: Vec<Command>) -> Result<Pending, Refusal> {
        let slots = slots_of_submission(&commands)?;
        // Reading the room and taking it are two steps; being off by a racing caller's share does no harm.
        if self.slots.available_permits() < slots + LINK_SLOTS_RESERVED {
            return Err(overloaded());
        }
        match self.slots.try_acquire_many(slots as u32) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::NoPermits) => return Err(overloaded()),
            Err(TryAcquireError::Closed) => return Err(stopped()),
        }
        self.enqueue(commands, slots)
    }

    /// As [`Sequencer::submit`], but waits up to `patience` for room.
    pub async fn submit_with_patience(&self, commands: Vec<Command>, patience: Duration) -> Result<Pending, Refusal> {
        let slots = slots_of_submission(&commands)?;
        let room = tokio::time::timeout(patience, self.slots.acquire_many(slots as u32)).await;
        match room {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_closed)) => return Err(stopped()),
            Err(_elapsed) => return Err(overloaded()),
        }
        self.enqueue(commands, slots)
    }

    /// One command, one answer; `UNAVAILABLE` after `patience`, and then the outcome is unknown.
    pub async fn ask(&self, command: Command, patience: Duration) -> Answer {
        let pending = self.submit(vec![command])?;
        pending.within(patience).await?.pop().unwrap_or_else(|| Err(stopped()))
    }

    /// Inputs that wait for the thread or are in its hands, in slots.
    pub fn depth(&self) -> usize {
        SLOTS_MAX.saturating_sub(self.slots.available_permits())
    }

    /// Whether the thread lives and its store commits.
    pub fn is_ready(&self) -> bool {
        !self.state.paused.load(Ordering::Relaxed) && !self.state.ended.load(Ordering::Relaxed)
    }

    /// Makes an attachment known; `None` if the thread has ended.
    pub(crate) async fn attach(&self, gateway: GatewayId, credit_bytes: u64) -> Option<(Attachment, Inbox)> {
        self.slots.acquire_many(ATTACHMENT_SLOTS).await.ok()?.forget();
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let outbox = Outbox { sender, waiting_bytes: Arc::clone(&waiting_bytes) };
        self.queue.send(Work::Attach { gateway, credit_bytes, outbox }).ok()?;
        Some((Attachment { gateway, sequencer: self.clone() }, Inbox { receiver, waiting_bytes }))
    }

    fn enqueue(&self, commands: Vec<Command>, slots: usize) -> Result<Pending, Refusal> {
        let (answers, pending) = oneshot::channel();
        if commands.is_empty() {
            // Nothing to ask is answered at once.
            let _ = answers.send(Vec::new());
            return Ok(Pending::alone(pending));
        }
        // Never blocks: the queue has a place for every slot.
        self.queue.send(Work::Commands { commands, answers, slots }).map_err(|_| stopped())?;
        Ok(Pending::alone(pending))
    }

    /// Hands over what was read from the upstream topic up to `upto`, each with the place that comes next; waits for room.
    /// There may be no push in it.
    pub(crate) async fn append(&self, pushes: Vec<(Box<Push>, Consumed)>, upto: Consumed) -> Result<Pending, Refusal> {
        let slots: usize = pushes.iter().map(|(push, _)| slots_of_content(push.content.len())).sum();
        let slots = slots.clamp(1, SUBMISSION_SLOTS_MAX);
        self.slots.acquire_many(slots as u32).await.map_err(|_| stopped())?.forget();
        let (answers, pending) = oneshot::channel();
        self.queue.send(Work::Appended { pushes, upto, answers, slots }).map_err(|_| stopped())?;
        Ok(Pending::alone(pending))
    }

    /// Everything that the log up to here owes to other partitions has been handed to who carries it.
    pub(crate) fn settled(&self) -> Lsn {
        Lsn(self.state.settled.load(Ordering::Acquire))
    }

    /// Takes no slot: at most one is under way.
    pub(crate) async fn routed(&self, upto: Lsn) -> bool {
        let Ok(permit) = self.slots.acquire().await else { return false };
        permit.forget();
        self.queue.send(Work::Routed(upto)).is_ok()
    }
}

impl Attachment {
    /// Hands over what came up, in order; waits while there is no room. `false`: the thread has ended.
    pub(crate) async fn send(&self, items: Vec<LinkWork>) -> bool {
        let slots = items.iter().map(LinkWork::slots).sum::<usize>().min(SUBMISSION_SLOTS_MAX);
        let Ok(permit) = self.sequencer.slots.acquire_many(slots as u32).await else { return false };
        permit.forget();
        self.sequencer.queue.send(Work::Link { gateway: self.gateway, items, slots }).is_ok()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Fails only if the thread has ended, and then nobody needs to know.
        let _ = self.sequencer.queue.send(Work::Detach { gateway: self.gateway });
    }
}

impl Outbox {
    /// `false`: the attachment is gone or so far behind that it must go.
    fn send(&self, items: Vec<LinkOut>) -> bool {
        let bytes = items.iter().map(LinkOut::bytes).sum();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        before <= OUTBOX_BYTES_MAX && self.sender.send(items).is_ok()
    }
}

impl Inbox {
    /// The next items in order; `None`: the partition has let go of this attachment.
    pub(crate) async fn next(&mut self) -> Option<Vec<LinkOut>> {
        let items = self.receiver.recv().await?;
        self.taken(&items);
        Some(items)
    }

    /// As [`Inbox::next`], if there is something now.
    pub(crate) fn next_now(&mut self) -> Option<Vec<LinkOut>> {
        let items = self.receiver.try_recv().ok()?;
        self.taken(&items);
        Some(items)
    }

    fn taken(&self, items: &[LinkOut]) {
        self.waiting_bytes.fetch_sub(items.iter().map(LinkOut::bytes).sum(), Ordering::Relaxed);
    }
}

impl Pending {
    fn alone(answers: oneshot::Receiver<Vec<Answer>>) -> Pending {
        Pending { answers, gathered: None }
    }

    pub(crate) fn gathered(answers: oneshot::Receiver<Vec<Answer>>, gather: Arc<Gather>) -> Pending {
        Pending { answers, gathered: Some(gather) }
    }

    /// Waits at most so long. What is not answered by then is queued where that is known, and otherwise `UNAVAILABLE` with its
    /// outcome unknown.
    pub async fn within(self, patience: Duration) -> Result<Vec<Answer>, Refusal> {
        let Pending { answers, gathered } = self;
        match (tokio::time::timeout(patience, answers).await, gathered) {
            (Ok(answers), _) => answers.map_err(|_| stopped()),
            (Err(_elapsed), Some(gather)) => Ok(gather.early()),
            (Err(_elapsed), None) => Err(late()),
        }
    }

    /// As [`Pending::within`] where answers come from several places, which may be away; otherwise however long it takes.
    pub async fn for_stream(self, patience: Duration) -> Result<Vec<Answer>, Refusal> {
        if self.gathered.is_some() { self.within(patience).await } else { self.await }
    }
}

impl Future for Pending {
    /// `UNAVAILABLE`: the thread ended before it answered.
    type Output = Result<Vec<Answer>, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.answers).poll(cx)).map_err(|_| stopped()))
    }
}

impl LinkWork {
    fn slots(&self) -> usize {
        match self {
            LinkWork::Input(_) => 1,
            LinkWork::Request { command, .. } => slots(command),
        }
    }
}

impl LinkOut {
    /// About what it will take on the wire.
    pub(crate) fn bytes(&self) -> usize {
        /// Names, numbers and heads of an item.
        const ITEM_BYTES: usize = 128;
        let content = match self {
            LinkOut::Item(LinkItem::Deliver { messages, .. }) => {
                messages.iter().map(|stored| stored.body.content.len() + ITEM_BYTES).sum()
            }
            LinkOut::Item(LinkItem::Ephemeral { body, .. }) => body.content.len(),
            LinkOut::Item(LinkItem::Opened(opened)) => match &opened.result {
                Ok(stream) => stream.page.iter().flatten().map(|stored| stored.body.content.len() + ITEM_BYTES).sum(),
                Err(_) => 0,
            },
            LinkOut::Reply { answer: Ok(Reply::Page { page, .. }), .. } => {
                page.messages.iter().map(|stored| stored.body.content.len() + ITEM_BYTES).sum()
            }
            _ => 0,
        };
        content + ITEM_BYTES
    }
}

fn slots(command: &Command) -> usize {
    match command {
        Command::Push(push) => slots_of_content(push.content.len()),
        _ => 1,
    }
}

/// Of one push with so much content.
pub fn slots_of_content(bytes: usize) -> usize {
    1 + bytes / SLOT_CONTENT_BYTES
}

pub(crate) fn slots_of_submission(commands: &[Command]) -> Result<usize, Refusal> {
    let slots: usize = commands.iter().map(slots).sum();
    if slots > SUBMISSION_SLOTS_MAX {
        return Err(Refusal::new(ErrorCode::TooLarge, "targets times content are more than one request may bring"));
    }
    Ok(slots)
}

pub(crate) fn overloaded() -> Refusal {
    let mut refusal = Refusal::new(ErrorCode::Overloaded, "more is waiting than can be stored soon");
    refusal.retry_after_ms = Some(OVERLOADED_RETRY_AFTER_MS);
    refusal
}

pub(crate) fn stopped() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the server is stopping")
}

/// The answer to a caller whose patience ended first: OK would promise what is not yet true.
pub fn late() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "not stored yet; the outcome is unknown, ask again with the same key")
}

#[cfg(test)]
mod tests;
