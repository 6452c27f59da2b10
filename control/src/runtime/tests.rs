use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use tidegate_control_core::domain::{Content, LeaveReason, Lsn, PartitionId, Priority, Timestamp};
use tidegate_control_core::partition::{Output, PartitionStats, Push};
use tidegate_control_core::ports::StoreError;

use super::*;
use crate::metrics::Metrics;

/// A partition that answers every command, when it is allowed to.
#[derive(Default)]
struct Script {
    /// Errors of the next calls, last first.
    errors: Mutex<Vec<StoreError>>,
    /// Calls wait while it is set.
    shut: AtomicBool,
    calls: AtomicUsize,
    inputs: Mutex<Vec<String>>,
}

struct Scripted(Arc<Script>);

impl Partitioned for Scripted {
    fn handle(&mut self, _: Timestamp, inputs: &mut Vec<Input>, out: &mut Vec<Output>) -> Result<(), StoreError> {
        while self.0.shut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        if inputs.iter().any(|input| !matches!(input, Input::Tick))
            && let Some(error) = self.0.errors.lock().expect("errors").pop()
        {
            return Err(error);
        }
        for input in inputs.drain(..) {
            if !matches!(input, Input::Tick) {
                self.0.inputs.lock().expect("inputs").push(format!("{input:?}"));
            }
            match input {
                Input::Command { token, .. } => {
                    out.push(Output::Reply { token, result: Ok(Reply::Done { seq: None }) })
                }
                Input::Open { gateway, open } => {
                    out.push(Output::Link { gateway, item: LinkItem::OpenEnd { corr: open.corr } });
                }
                Input::Credit { gateway, .. } => out.push(Output::Detach { gateway, why: "enough" }),
                _ => {}
            }
        }
        Ok(())
    }

    fn wants_turn(&self) -> bool {
        false
    }

    fn stats(&self) -> PartitionStats {
        PartitionStats::default()
    }

    fn last_lsn(&self) -> Lsn {
        Lsn(0)
    }
}

fn start(script: &Arc<Script>) -> (Started, mpsc::Receiver<String>) {
    let (fatal, told) = mpsc::channel();
    let on_fatal = Box::new(move |error: &StoreError| fatal.send(error.to_string()).expect("the test listens"));
    let hooks = Hooks { partition: PartitionId(0), metrics: Arc::new(Metrics::new()), on_fatal, errands: None };
    let started = spawn(Scripted(Arc::clone(script)), hooks).expect("a thread");
    (started, told)
}

fn command(content_bytes: usize) -> Command {
    Command::Push(Box::new(Push {
        id: None,
        ack_durable: false,
        to: "u:a".parse().expect("stream"),
        sender: None,
        from: Box::default(),
        client_msg_id: Box::default(),
        message_id: None,
        kind: "text".into(),
        title: Box::default(),
        content: Content::Text("x".repeat(content_bytes).into()),
        metadata: Box::default(),
        ephemeral: false,
        priority: Priority::Normal,
        ttl_s: 0,
        platforms: Default::default(),
    }))
}

fn commands(count: usize) -> Vec<Command> {
    (0..count).map(|_| command(1)).collect()
}

#[tokio::test]
async fn answers_come_in_order_and_slots_come_back() {
    let script = Arc::default();
    let (started, _) = start(&script);
    let pending: Vec<Pending> = (1..=50).map(|n| started.sequencer.submit(commands(n)).expect("room")).collect();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.await.expect("answers").len(), n + 1);
    }
    assert!(started.sequencer.submit(Vec::new()).expect("nothing").await.expect("at once").is_empty());
    let sequencer = started.sequencer.clone();
    started.running.stop();
    assert_eq!(sequencer.depth(), 0);
    assert!(!sequencer.is_ready());
    assert_eq!(sequencer.submit(commands(1)).expect_err("stopped").code, ErrorCode::Unavailable);
}

#[tokio::test]
async fn what_is_queued_at_the_stop_is_finished() {
    let script: Arc<Script> = Arc::default();
    let (started, _) = start(&script);
    script.shut.store(true, Ordering::SeqCst);
    let pending: Vec<Pending> = (0..20).map(|_| started.sequencer.submit(commands(3)).expect("room")).collect();
    let stop = std::thread::spawn(move || started.running.stop());
    script.shut.store(false, Ordering::SeqCst);
    stop.join().expect("stopped");
    for pending in pending {
        assert_eq!(pending.await.expect("answered").len(), 3);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_the_api_and_leaves_room_for_links() {
    let script: Arc<Script> = Arc::default();
    let (started, _) = start(&script);
    let sequencer = started.sequencer.clone();
    let (attachment, _inbox) = sequencer.attach(GatewayId(1), 0).await.expect("attached");
    script.shut.store(true, Ordering::SeqCst);
    let mut taken = Vec::new();
    let refusal = loop {
        match sequencer.submit(commands(1_000)) {
            Ok(pending) => taken.push(pending),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, ErrorCode::Overloaded);
    assert!(refusal.retry_after_ms.is_some());
    assert!(taken.len() * 1_000 <= SUBMISSION_SLOTS_MAX);
    let work = vec![LinkWork::Request { corr: 1, command: command(1) }];
    assert!(attachment.send(work).await, "links are still taken in");
    let too_much = (0..SUBMISSION_SLOTS_MAX / 60).map(|_| command(64 << 10)).collect();
    assert_eq!(sequencer.submit(too_much).expect_err("never fits").code, ErrorCode::TooLarge);
    script.shut.store(false, Ordering::SeqCst);
    for pending in taken {
        pending.await.expect("answered after all");
    }
    sequencer.submit(commands(1)).expect("room again").await.expect("answered");
}

#[tokio::test]
async fn who_has_no_more_patience_is_not_told_ok() {
    let script: Arc<Script> = Arc::default();
    let (started, _) = start(&script);
    script.shut.store(true, Ordering::SeqCst);
    let answer = started.sequencer.ask(command(1), Duration::from_millis(20)).await;
    assert_eq!(answer.expect_err("the outcome is unknown").code, ErrorCode::Unavailable);
    // A link fills what the API may not, and a patient caller is refused in the end.
    let room = started.sequencer.submit(commands(SUBMISSION_SLOTS_MAX - 1)).expect("room");
    let refused = started.sequencer.submit_with_patience(commands(LINK_SLOTS_RESERVED + 1), Duration::from_millis(20));
    assert_eq!(refused.await.expect_err("no room").code, ErrorCode::Overloaded);
    script.shut.store(false, Ordering::SeqCst);
    room.await.expect("answered after all");
    let late = started.sequencer.submit_with_patience(commands(LINK_SLOTS_RESERVED + 1), Duration::from_secs(60));
    late.await.expect("room again").await.expect("answered");
}

#[tokio::test]
async fn an_unavailable_store_delays_answers_and_a_failed_one_ends_them() {
    let script: Arc<Script> = Arc::default();
    let (started, told) = start(&script);
    for _ in 0..2 {
        script.errors.lock().expect("errors").push(StoreError::Unavailable("away".into()));
    }
    let sequencer = &started.sequencer;
    sequencer.submit(commands(2)).expect("room").await.expect("answered after the pause");
    assert!(sequencer.is_ready());
    assert_eq!(script.inputs.lock().expect("inputs").len(), 2, "carried out once");

    script.errors.lock().expect("errors").push(StoreError::Fatal("fsync".into()));
    let failed = sequencer.submit(commands(1)).expect("room").await;
    assert_eq!(failed.expect_err("never OK").code, ErrorCode::Unavailable);
    assert!(told.recv().expect("the process is told to end").contains("fsync"));
    assert_eq!(script.inputs.lock().expect("inputs").len(), 2);
    assert!(!sequencer.is_ready());
}

#[tokio::test]
async fn a_link_gets_its_answers_in_order_until_the_partition_ends_it() {
    let script: Arc<Script> = Arc::default();
    let (started, _) = start(&script);
    let gateway = GatewayId(4);
    let (attachment, mut inbox) = started.sequencer.attach(gateway, 100).await.expect("attached");
    let open = tidegate_control_core::partition::LinkOpen {
        corr: 9,
        uid: "a".parse().expect("uid"),
        device: Box::default(),
        streams: Vec::new(),
        auto_join: false,
    };
    let work = vec![
        LinkWork::Request { corr: 7, command: command(1) },
        LinkWork::Input(Input::Open { gateway, open }),
        LinkWork::Request { corr: 8, command: command(1) },
        LinkWork::Input(Input::Credit { gateway, bytes: 1 }),
    ];
    assert!(attachment.send(work).await);
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(inbox.next().await.expect("items"));
    }
    assert!(matches!(
        &got[..],
        [
            LinkOut::Reply { corr: 7, .. },
            LinkOut::Item(LinkItem::OpenEnd { corr: 9 }),
            LinkOut::Reply { corr: 8, .. },
            LinkOut::End("enough"),
        ]
    ));
    drop(attachment);
    started.running.stop();
    let inputs = script.inputs.lock().expect("inputs").clone();
    assert!(inputs[0].starts_with("LinkUp") && inputs[inputs.len() - 1].starts_with("LinkDown"), "{inputs:?}");
    assert!(inbox.next().await.is_none());
}

#[test]
fn an_outbox_is_bounded() {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox { sender, waiting_bytes: Arc::clone(&waiting_bytes) };
    let mut inbox = Inbox { receiver, waiting_bytes: Arc::clone(&waiting_bytes) };
    let item = || {
        LinkOut::Item(LinkItem::Membership {
            lsn: Lsn(1),
            uid: "a".parse().expect("uid"),
            stream: "g:1".parse().expect("stream"),
            epoch: tidegate_control_core::domain::Epoch(1),
            seq: tidegate_control_core::domain::Seq(1),
            joined: true,
            reason: LeaveReason::Left,
        })
    };
    assert!(outbox.send(vec![item()]));
    assert!(waiting_bytes.load(Ordering::Relaxed) > 0);
    assert!(inbox.next_now().is_some());
    assert_eq!(waiting_bytes.load(Ordering::Relaxed), 0);
    waiting_bytes.store(OUTBOX_BYTES_MAX + 1, Ordering::Relaxed);
    assert!(!outbox.send(vec![item()]));
}
