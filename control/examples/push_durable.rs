//! How many pushes a second a cluster accepts as durable: `PushStream` with `ack: durable`, one stream to each address.
//!
//! `cargo run --release -p tidegate-control --example push_durable -- SECONDS http://127.0.0.1:9090 …`
//!
//! `--rate N`: so many a second over all addresses, evenly, instead of as many as are taken. `--to u:PREFIX-`: to the streams
//! with that beginning and a number below `--streams N` behind it, for instance the inboxes of clients that are connected.
//!
//! It prints accepted pushes per second, and ends with those refused and the delay of answers. Bounded by time and by what may
//! be unanswered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate_proto::v1::push_service_client::PushServiceClient;
use tidegate_proto::v1::{AckMode, PushMessage, PushRequest, PushStatus};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

const CONTENT_BYTES: usize = 200;
/// Unanswered pushes of one call.
const IN_FLIGHT_MAX: usize = 20_000;

/// What is pushed.
struct Plan {
    seconds: u64,
    addresses: Vec<String>,
    /// 0: as fast as can be.
    per_second: u64,
    to: String,
    /// Streams that the pushes go to, in turn.
    streams: u64,
}

impl Plan {
    fn of(mut args: impl Iterator<Item = String>) -> Result<Plan, Box<dyn std::error::Error>> {
        let seconds = args.next().ok_or("SECONDS ADDRESS…")?.parse()?;
        let mut plan =
            Plan { seconds, addresses: Vec::new(), per_second: 0, to: "u:durable-".to_owned(), streams: 1_000 };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--rate" => plan.per_second = args.next().ok_or("--rate N")?.parse()?,
                "--to" => plan.to = args.next().ok_or("--to PREFIX")?,
                "--streams" => plan.streams = args.next().ok_or("--streams N")?.parse()?,
                _ => plan.addresses.push(arg),
            }
        }
        Ok(plan)
    }

    /// How long after the beginning a call may send its push of this number.
    fn due(&self, number: u64) -> Duration {
        let each = (self.per_second as f64 / self.addresses.len() as f64).recip();
        Duration::from_secs_f64(if self.per_second == 0 { 0.0 } else { number as f64 * each })
    }
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    delay_us: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = Arc::new(Plan::of(std::env::args().skip(1))?);
    let counts = Arc::new(Counts::default());
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let calls = 0..plan.addresses.len();
    let calls: Vec<_> =
        calls.map(|call| tokio::spawn(push(Arc::clone(&plan), call, end, Arc::clone(&counts)))).collect();
    let (began, mut before) = (Instant::now(), 0);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let accepted = counts.accepted.load(Ordering::Relaxed);
        println!("{:3} s  {:7} accepted/s", began.elapsed().as_secs(), accepted - before);
        before = accepted;
    }
    for call in calls {
        if let Err(error) = call.await? {
            eprintln!("a call ended: {error}");
        }
    }
    let accepted = counts.accepted.load(Ordering::Relaxed);
    let delay = counts.delay_us.load(Ordering::Relaxed) / accepted.max(1);
    println!(
        "sent {} accepted {accepted} refused {} in {:.1} s: {:.0}/s, mean delay {:.1} ms",
        counts.sent.load(Ordering::Relaxed),
        counts.refused.load(Ordering::Relaxed),
        began.elapsed().as_secs_f64(),
        accepted as f64 / began.elapsed().as_secs_f64(),
        delay as f64 / 1_000.0
    );
    Ok(())
}

async fn push(
    plan: Arc<Plan>,
    call: usize,
    end: Instant,
    counts: Arc<Counts>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut client = PushServiceClient::connect(plan.addresses[call].clone()).await?;
    let (requests, stream) = mpsc::channel(1_024);
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let began = Instant::now();
    let (writer_room, writer_counts) = (Arc::clone(&room), Arc::clone(&counts));
    tokio::spawn(async move {
        let content = "x".repeat(CONTENT_BYTES);
        let mut number: u64 = 0;
        while Instant::now() < end {
            let Ok(permit) = writer_room.acquire().await else { return };
            permit.forget();
            number += 1;
            if let Some(early) = plan.due(number).checked_sub(began.elapsed()) {
                tokio::time::sleep(early).await;
            }
            // The time of sending comes back as the correlation.
            let corr = began.elapsed().as_micros() as u64;
            let message = PushMessage { r#type: "text".to_owned(), content: content.clone(), ..Default::default() };
            let request = PushRequest {
                corr,
                to: vec![format!("{}{}", plan.to, (number * 7 + call as u64) % plan.streams)],
                message: Some(message),
                ack: AckMode::Durable as i32,
                ..Default::default()
            };
            writer_counts.sent.fetch_add(1, Ordering::Relaxed);
            if requests.send(request).await.is_err() {
                return;
            }
        }
    });
    let mut results = client.push_stream(ReceiverStream::new(stream)).await?.into_inner();
    while let Some(result) = results.message().await? {
        room.add_permits(1);
        if result.status == PushStatus::Error as i32 {
            counts.refused.fetch_add(1, Ordering::Relaxed);
        } else {
            counts.accepted.fetch_add(1, Ordering::Relaxed);
            let delay = (began.elapsed().as_micros() as u64).saturating_sub(result.corr);
            counts.delay_us.fetch_add(delay, Ordering::Relaxed);
        }
    }
    Ok(())
}
