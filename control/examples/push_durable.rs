//! How many pushes a second a cluster accepts as durable: `PushStream` with `ack: durable`, one stream to each address.
//!
//! `cargo run --release -p tidegate-control --example push_durable -- SECONDS http://127.0.0.1:9090 …`
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

/// Streams of messages that the pushes go to, in turn.
const STREAMS: u64 = 1_000;
const CONTENT_BYTES: usize = 200;
/// Unanswered pushes of one call.
const IN_FLIGHT_MAX: usize = 20_000;

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    delay_us: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let seconds: u64 = args.next().ok_or("SECONDS ADDRESS…")?.parse()?;
    let addresses: Vec<String> = args.collect();
    let counts = Arc::new(Counts::default());
    let end = Instant::now() + Duration::from_secs(seconds);
    let calls: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(call, address)| tokio::spawn(push(address.clone(), call as u64, end, Arc::clone(&counts))))
        .collect();
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
    address: String,
    call: u64,
    end: Instant,
    counts: Arc<Counts>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut client = PushServiceClient::connect(address).await?;
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
            // The time of sending comes back as the correlation.
            let corr = began.elapsed().as_micros() as u64;
            let message = PushMessage { r#type: "text".to_owned(), content: content.clone(), ..Default::default() };
            let request = PushRequest {
                corr,
                to: vec![format!("u:durable-{}", (number * 7 + call) % STREAMS)],
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
