//! Records to write, and servers of one's own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_control::guard::Guard;
use tidegate_control::records::{
    BREAKER, Batch, MessageText, PushRecord, RecordId, RecordIndex, RecordPage, RecordQuery, Status, Text, Words,
    Written,
};
use tidegate_control_core::domain::{Epoch, MessageId, Place, Seq, Timestamp, Uid};
use tidegate_control_core::partition::ID_EPOCH_MS;
use xtask::servers::{Home, Server, down_in, up_in};

/// Generous: a test waits for a condition, and fails only if it never comes.
pub const DEADLINE: Duration = Duration::from_secs(120);
pub const KEEP_DAYS: u32 = 30;
pub const DAY_MS: i64 = 86_400_000;
pub const EPOCH: Epoch = Epoch(0x7e57);

/// Makes an index that nobody else uses, and removes it at the end.
pub trait Factory {
    fn index(&self) -> Arc<dyn RecordIndex>;

    /// Another program's way to the same.
    fn another(&self) -> Arc<dyn RecordIndex>;

    /// Returns when what was written can be found.
    fn settle(&self) -> impl Future<Output = ()>;
}

/// In front of an index.
pub fn breaker() -> Arc<Guard> {
    Arc::new(Guard::new(BREAKER))
}

pub fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
    Timestamp(since.as_millis() as i64)
}

/// A name for a schema or a prefix.
pub fn own_name() -> String {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!("rec_{}_{number}_{}", std::process::id(), now().0)
}

/// The `n`th message of a moment.
pub fn id_at(ts: Timestamp, n: u64) -> MessageId {
    MessageId(((ts.0 - ID_EPOCH_MS) as u64) << 22 | n)
}

/// A minute ago, and `n` ms later each.
pub fn id(n: u64) -> MessageId {
    id_at(Timestamp(start() + n as i64), 0)
}

/// One moment for the whole run.
pub fn start() -> i64 {
    static START: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *START.get_or_init(|| now().0 - 60_000)
}

/// An accepted push to one target.
pub fn pushed(id: MessageId, to: &str, text: &str) -> PushRecord {
    let id = RecordId::Message(id);
    let uid: Option<Uid> = to.strip_prefix("u:").and_then(|uid| uid.parse().ok());
    let record = PushRecord {
        from: "billing".into(),
        kind: "text".into(),
        text: Text::of("", text),
        uids: uid.into_iter().collect(),
        place: Some((EPOCH, Seq(id.ts().0 as u64))),
        online: Some(1),
        ..PushRecord::new(id, to)
    };
    record.with(Status::Accepted, id.ts())
}

/// What somebody else learns of a push later.
pub fn event(id: MessageId, to: &str, status: Status, at: i64) -> PushRecord {
    PushRecord::new(RecordId::Message(id), to).with(status, Timestamp(at))
}

pub fn text(id: MessageId, stream: &str, seq: u64, text: &str) -> MessageText {
    let place = Place { stream: stream.parse().expect("a stream"), epoch: EPOCH, seq: Seq(seq) };
    MessageText { id, place, text: text.into() }
}

pub fn words(query: &str) -> Words {
    Words::of_query(query).expect("words")
}

pub async fn write(index: &dyn RecordIndex, records: Vec<PushRecord>) -> Written {
    written(index, &Batch { records, texts: Vec::new() }).await
}

pub async fn written(index: &dyn RecordIndex, batch: &Batch) -> Written {
    let written = index.write(batch, now()).await.expect("written");
    assert!(written.again.is_empty(), "{written:?}");
    written
}

pub async fn find(index: &dyn RecordIndex, query: RecordQuery) -> RecordPage {
    index.records(&query).await.expect("an answer")
}

/// Ids of the records that a query finds, in order.
pub async fn ids(index: &dyn RecordIndex, query: RecordQuery) -> Vec<String> {
    find(index, query).await.records.iter().map(|record| record.id.to_string()).collect()
}

pub fn of_ids(ids: &[MessageId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// Ended and removed with the test, whatever becomes of it.
pub struct OwnServer {
    server: Server,
    home: Home,
    _folder: tempfile::TempDir,
}

impl OwnServer {
    pub fn new(server: Server) -> OwnServer {
        use std::os::unix::fs::PermissionsExt as _;
        // PostgreSQL runs as another user than root, who must be able to enter.
        let open = std::fs::Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().permissions(open).tempdir_in("/var/tmp").expect("a folder");
        OwnServer { server, home: Home::at(folder.path().join("servers")).expect("a home"), _folder: folder }
    }

    pub fn up(&self) -> String {
        // Two that start at once may choose the same port.
        static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _alone = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        up_in(&self.home, self.server, 1).expect("a server of our own")
    }

    pub fn down(&self) {
        down_in(&self.home, self.server, false).expect("stopped");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Err(error) = down_in(&self.home, self.server, true) {
            eprintln!("a server was left behind: {error:#}");
        }
    }
}
