//! A batch is compressed once per node, whoever and however many get it.

mod hub_world;

use hub_world::bench::{Bench, batch, class, connected, hello, plain};
use hub_world::control::{epoch, message};
use hub_world::{frames, key};
use tidegate_gateway_core::hub::HubConfig;
use tidegate_gateway_core::ids::Seq;
use tidegate_gateway_core::link::*;
use tidegate_gateway_core::messages::{ConnClass, Encoding, Fanout, ToShard};
use tidegate_proto::v1::server_frame::Body;

/// Chat messages as people write them: alike, but not the same.
fn chat(seq: u64) -> Message {
    let text =
        format!("message {seq}: shall we meet at {} o'clock, or is half past {} better for you?", seq % 12, seq % 7);
    message(seq, &text.repeat(2)[..128], &[])
}

fn packed() -> ConnClass {
    class(Encoding::Json, true, 1)
}

/// Connections of these classes in one open group.
fn audience(classes: &[ConnClass]) -> Bench {
    let mut bench = Bench::new(HubConfig { cpu_clock: || 0, ..HubConfig::default() });
    for (index, class) in classes.iter().enumerate() {
        bench.connect(index as u32, hello(&format!("user{index}"), *class), &[("g:a", 0, true)]);
    }
    bench.shard.clear();
    bench
}

/// One window of twenty messages.
fn window(bench: &mut Bench) -> Fanout {
    bench.deliver("g:a", 0, (1..=20).map(chat).collect());
    let fanouts = bench.take_fanouts();
    let [fanout] = <[Fanout; 1]>::try_from(fanouts).expect("one batch");
    fanout
}

#[test]
fn one_compression_per_batch_whatever_the_audience() {
    for size in [1, 300] {
        let mut bench = audience(&vec![packed(); size]);
        let fanout = window(&mut bench);
        let frame = fanout.frames.select(packed()).expect("a variant");
        assert!(frames::is_compressed(frame));
        assert_eq!(batch(&fanout, packed()), (Some((0, 20)), (1..=20).collect()));
        let (stats, deflate) = (bench.hub.stats(), bench.hub.stats().deflate);
        assert_eq!((stats.batches, deflate.compressed, deflate.reused), (1, 1, 0), "{size} connections");
        assert_eq!(deflate.packed_bytes, frame.len() as u64);
        assert!(deflate.packed_bytes * 2 < deflate.plain_bytes, "{deflate:?}");
    }
}

#[test]
fn the_plain_form_goes_beside_it_to_those_who_did_not_ask() {
    let json = class(Encoding::Json, false, 1);
    let mut bench = audience(&[packed(), json, plain()]);
    let fanout = window(&mut bench);
    for class in [packed(), json, plain()] {
        assert_eq!(frames::is_compressed(fanout.frames.select(class).expect("a variant")), class.deflate);
        assert_eq!(batch(&fanout, class), (Some((0, 20)), (1..=20).collect()));
    }
    assert_eq!(bench.hub.stats().deflate.compressed, 1, "one of the encodings is wanted compressed");
}

#[test]
fn nobody_asked_so_nothing_is_compressed() {
    let mut bench = audience(&[plain()]);
    window(&mut bench);
    assert_eq!(bench.hub.stats().deflate, Default::default());
}

/// Everybody comes back at once and misses the same.
#[test]
fn a_page_that_many_missed_is_compressed_once() {
    let mut bench = Bench::new(HubConfig::default());
    for index in 0..50 {
        bench.shard_says(connected(index, hello(&format!("user{index}"), packed())));
        let (corr, stream) = (bench.last_corr(), key("g:a"));
        let stands = OpenedStream {
            epoch: epoch(&stream, 1),
            head: Seq(20),
            first: Seq(1),
            start: Seq(0),
            recovered: Recovered::Full,
            page: Some((1..=20).map(chat).collect()),
            open_group: true,
            listed: false,
        };
        bench.link(FromLink::Opened(Opened { corr, stream, result: Ok(stands) }));
        bench.link(FromLink::OpenEnd { corr });
    }
    let sent =
        bench.shard.iter().filter_map(|command| if let ToShard::Send(direct) = command { Some(direct) } else { None });
    let pages: Vec<_> = sent.filter(|direct| frames::is_compressed(&direct.frame)).collect();
    assert_eq!(pages.len(), 50);
    for page in pages {
        let Some(Body::Batch(batch)) = frames::decode(Encoding::Json, &page.frame).body else { panic!("not a batch") };
        assert_eq!(batch.messages.len(), 20);
    }
    let deflate = bench.hub.stats().deflate;
    assert_eq!((deflate.compressed, deflate.reused), (1, 49));
}
