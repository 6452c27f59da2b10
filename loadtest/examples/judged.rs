//! How many deliveries a second one core judges: 10,000 clients are fed the same frames from buffers that are as cold as those
//! of a ring. `judged [MESSAGES_PER_FRAME [FRAMES]]`

use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use tidegate_load::client::{Client, Context, Shared};
use tidegate_load::fleet::Mode;
use tidegate_load::payload::{Stamp, content};
use tidegate_load::population::{ClientNo, GroupClass, Population};
use tidegate_proto::v1::{Batch, Message, Ok, ServerFrame, Session, StreamState, ok, server_frame::Body};

const CLIENTS: u32 = 10_000;
const GROUP: &str = "g:judged-all-0";
const BUFFER_BYTES: usize = 4096;

fn frame(id: u32, body: Body) -> Vec<u8> {
    let payload = ServerFrame { id, body: Some(body) }.encode_to_vec();
    let mut bytes = vec![0x82, 126];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn batch(after: u64, messages: u64) -> Vec<u8> {
    let message = |seq| Message {
        seq,
        id: (7_000_000_000_000 + seq).to_string(),
        from: "load".into(),
        r#type: "text".into(),
        content: content(Stamp { load: 0, number: seq, intended_us: seq }, 128),
        ts: 1_790_000_000_000,
        ..Message::default()
    };
    let messages: Vec<Message> = (after + 1..=after + messages).map(message).collect();
    let upto = after + messages.len() as u64;
    let (stream, epoch) = (GROUP.to_owned(), "k3f9x7".to_owned());
    frame(0, Body::Batch(Batch { stream, epoch, after: Some(after), upto: Some(upto), messages }))
}

fn opening() -> Vec<u8> {
    let connected = ok::Result::Connect(Session::default());
    let state = StreamState { stream: GROUP.into(), epoch: "k3f9x7".into(), first: 1, ..StreamState::default() };
    let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
    bytes.extend(frame(1, Body::Ok(Ok { result: Some(connected) })));
    bytes.extend(frame(3, Body::Ok(Ok { result: Some(ok::Result::Join(state)) })));
    bytes
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let (per_frame, frames) = (args.next().unwrap_or(10), args.next().unwrap_or(200));
    let class = GroupClass { name: "all".into(), count: 1, members: CLIENTS };
    let population = Arc::new(Population::new("judged", CLIENTS, vec![class], 0));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|n| Client::new(ClientNo(n), &population)).collect();
    let mut shared = Shared::new(population, Mode::Follow, 1);
    let mut out = Vec::new();
    let mut feed = |shared: &mut Shared, clients: &mut [Client], n: u32, now_us: u64, bytes: Option<&[u8]>| {
        let mut cx = Context { shared, client: ClientNo(n), is_slow: false, now_us, out: &mut out };
        let client = &mut clients[n as usize];
        match bytes {
            Some(bytes) => client.input(bytes, &mut cx).expect("lawful frames"),
            None => client.open("127.0.0.1:1".parse().expect("an address"), &mut cx),
        }
    };
    let opening = opening();
    for n in 0..CLIENTS {
        feed(&mut shared, &mut clients, n, 0, None);
        feed(&mut shared, &mut clients, n, 0, Some(&opening));
    }
    let mut buffers = vec![0u8; BUFFER_BYTES * 4096];
    let mut seconds = 0.0;
    for number in 0..frames {
        let bytes = batch(number * per_frame, per_frame);
        assert!(bytes.len() <= BUFFER_BYTES, "{} bytes", bytes.len());
        for chunk in 0..CLIENTS / 500 {
            // The kernel's copies are not what is measured.
            let buffer = |n: u32| (n as usize * BUFFER_BYTES) % (BUFFER_BYTES * 4096);
            for n in chunk * 500..chunk * 500 + 500 {
                buffers[buffer(n)..][..bytes.len()].copy_from_slice(&bytes);
            }
            let since = Instant::now();
            for n in chunk * 500..chunk * 500 + 500 {
                let bytes = &buffers[buffer(n)..][..bytes.len()];
                feed(&mut shared, &mut clients, n, number * 1_000 + u64::from(chunk), Some(bytes));
            }
            seconds += since.elapsed().as_secs_f64();
        }
    }
    let tally = &shared.tally;
    assert!(tally.findings.is_clean() && tally.received == per_frame * frames * u64::from(CLIENTS));
    println!(
        "{} clients, {per_frame} messages a frame: {:.2}M deliveries/s, {:.0} ns a frame; a client is {} bytes",
        CLIENTS,
        tally.received as f64 / seconds / 1e6,
        seconds * 1e9 / tally.frames as f64,
        size_of::<Client>(),
    );
}
