//! What holds for any bytes from gateways, from backends, from the disk and from whoever writes the configuration: property
//! tests and the fuzz targets in `fuzz/` run the same functions, which panic where it does not hold. Compiled for them only.

use std::fs;

use bytes::Bytes;
use prost::Message as _;
use tempfile::TempDir;
use tidegate_control_core::domain::{Epoch, Lsn, OwnerEpoch, PartitionId, Timestamp};
use tidegate_control_core::partition::{Command, GatewayId, Origin};
use tidegate_proto::v1;

use crate::adapters::embedded::codec;
use crate::adapters::embedded::log::format::{
    RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId,
};
use crate::adapters::embedded::log::recover::{LogBegin, check as recover, repair};
use crate::adapters::embedded::log::segment_path;
use crate::api::push::{Malformed, rest};
use crate::config::{Config, LimitsConfig, check};
use crate::link::convert::{self, Up, up};
use crate::message::{PAGE_MESSAGES_MAX, check_metadata};
use crate::runtime::LinkWork;

const STORE: StoreId = StoreId(0x7e57_0002);
/// Records of one segment that is made up.
const RECORDS_MAX: usize = 12;

/// An item from a gateway. What is taken keeps the bounds that the partition relies on.
pub fn link_up(data: &[u8]) {
    let Ok(item) = v1::LinkUpItem::decode(data) else { return };
    let origin = Origin { partition: PartitionId(0), history: Epoch(7), owner_epoch: OwnerEpoch(1) };
    match up(GatewayId(1), origin, item) {
        Ok(Up::Work(LinkWork::Request { corr, command })) => {
            assert_ne!(corr, 0);
            match command {
                Command::Push(push) => assert!(push.sender.is_some() && check_metadata(&push.metadata).is_ok()),
                Command::Pull { limit, .. } => assert!((1..=PAGE_MESSAGES_MAX).contains(&limit)),
                _ => {}
            }
        }
        Ok(Up::Refused { corr, refusal }) => {
            assert_ne!(corr, 0);
            let _ = convert::refused(corr, &refusal);
        }
        Ok(Up::Work(LinkWork::Input(_)) | Up::Presence(_)) | Err(_) => {}
    }
}

/// The body of a record. What is read is what is written again.
pub fn log_record(data: &[u8]) {
    let Ok(record) = codec::decode(data) else { return };
    let mut bytes = Vec::new();
    codec::encode(&record, &mut bytes);
    assert_eq!(codec::decode(&bytes).expect("what was written"), record);
}

/// A segment of records whose checksums are right and whose bodies are anything, with one place changed and an end cut off:
/// four bytes say where and to what, each of the rest's pieces is a body. Recovery finds records from the first one on, as
/// they were written, or refuses the log; a cut alone is never refused. What it cuts is gone afterwards.
pub fn log_segment(data: &[u8]) {
    let [place, to, cut, pieces, rest @ ..] = data else { return };
    let bodies: Vec<&[u8]> = rest.chunks(usize::from(*pieces) + 1).take(RECORDS_MAX).collect();
    let (mut bytes, ends) = segment(&bodies);
    let written = bytes.clone();
    let at = usize::from(*place) * bytes.len() / 256;
    bytes[at] ^= to;
    let kept = bytes.len() - usize::from(*cut) % bytes.len();
    bytes.truncate(kept);
    let intact = written.iter().zip(&bytes).take_while(|(was, is)| was == is).count();

    let dir = TempDir::new().expect("a folder");
    let file = segment_path(dir.path(), Lsn(1));
    fs::write(&file, &bytes).expect("written");
    let begin = LogBegin { first: Lsn(1), previous: STORE.seed(), newest: Timestamp(0) };
    let sound = ends.iter().filter(|end| **end <= intact).count();
    let beyond = starts(&ends).zip(&ends).any(|(start, end)| start > at && *end <= kept);
    match recover(dir.path(), STORE, begin) {
        Ok(checked) => {
            assert!(*to == 0 || !beyond, "a changed byte before a sound record is no torn tail");
            assert_eq!(checked.records, sound as u64, "every sound record from the first on, and no other");
            repair(dir.path(), &checked).expect("the tail is cut");
            let again = recover(dir.path(), STORE, begin).expect("what was repaired is sound");
            assert!(again.torn.is_none() && again.records == checked.records);
        }
        // The last of the sound records has to be one; of the others nobody looks inside before they are needed.
        Err(error) => {
            let decodes = sound == 0 || codec::decode(bodies[sound - 1]).is_ok();
            assert!(*to != 0 || !decodes, "refused though nothing but its end is missing: {error:?}");
        }
    }
}

/// A push by REST. What is taken keeps the limits; what is not is told why.
pub fn push_json(data: &[u8]) {
    let limits = LimitsConfig { targets_max: 4, content_bytes_max: 64, ..LimitsConfig::default() };
    match rest::draft(&Bytes::copy_from_slice(data), &limits) {
        Ok(draft) => {
            assert!((1..=4).contains(&draft.targets.len()));
            assert!(draft.message.content.len() <= 64 && check_metadata(&draft.message.metadata).is_ok());
        }
        Err(Malformed::Problems(problems)) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.problem.is_empty()));
        }
        Err(Malformed::Refused(_)) => {}
    }
}

/// A configuration file. What is found good can be read.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(file) = text.parse::<toml::Table>() else { return };
    let problems = check(&file);
    assert!(problems.iter().all(|problem| !problem.text.is_empty()));
    if let (true, Some(section)) = (problems.is_empty(), file.get("control")) {
        let read: Result<Config, _> = section.clone().try_into();
        assert!(read.is_ok_and(|config| config.problems().is_empty()));
    }
}

/// The bytes, and where each record ends.
fn segment(bodies: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = SegmentHeader { first: Lsn(1), previous: STORE.seed() }.encode(STORE).to_vec();
    let (mut ends, mut previous) = (Vec::new(), STORE.seed());
    for (body, lsn) in bodies.iter().zip(1..) {
        let header = RecordHeader { len: body.len() as u32, body_crc: crc32fast::hash(body), lsn: Lsn(lsn), previous };
        let (header, crc): ([u8; RECORD_HEADER_BYTES], u32) = header.encode(STORE.seed());
        bytes.extend(header);
        bytes.extend_from_slice(body);
        ends.push(bytes.len());
        previous = crc;
    }
    (bytes, ends)
}

/// Where each record begins that ends there.
fn starts(ends: &[usize]) -> impl Iterator<Item = usize> {
    [SEGMENT_HEADER_BYTES].into_iter().chain(ends.iter().copied())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::DEFAULT_CONFIG;

    fn mark() -> Vec<u8> {
        let mark = v1::LogMark { uid: "a".into(), device: "d".into(), stream: "g:a".into(), ..Default::default() };
        v1::LogRecord { record: Some(v1::log_record::Record::Mark(mark)) }.encode_to_vec()
    }

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "u:a", "g:a", "c:a:b", "", "?"]).prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn records_that_are_nearly_right(
            (uid, stream) in (name(), name()),
            (epoch, seq, ts) in (any::<u64>(), any::<u64>(), any::<i64>()),
            change in prop::option::of((any::<usize>(), any::<u8>())),
        ) {
            use v1::log_record::Record;
            let mark = v1::LogMark { uid, device: "d".into(), stream, epoch, seq, ts };
            let mut bytes = v1::LogRecord { record: Some(Record::Mark(mark)) }.encode_to_vec();
            if let Some((at, to)) = change {
                let at = at % bytes.len();
                bytes[at] = to;
            }
            log_record(&bytes);
        }

        #[test]
        fn requests_that_are_nearly_right(
            (uid, stream) in (name(), name()),
            (corr, after, limit) in (0u64..3, any::<u64>(), any::<u32>()),
            metadata in prop::sample::select(vec!["", "{}", "[]", "{"]),
            kind in 0u8..4,
        ) {
            use v1::link_request::Op;
            let metadata = metadata.to_owned();
            let op = match kind {
                0 => None,
                1 => Some(Op::Pull(v1::LinkPull { stream, epoch: "k".into(), after, limit, since_ts: None })),
                2 => Some(Op::Heads(v1::LinkHeads { streams: vec![stream] })),
                _ => Some(Op::Send(v1::LinkSend { to: stream, content: "hi".into(), metadata, ..Default::default() })),
            };
            let request = v1::LinkRequest { corr, uid, device: "d".into(), op };
            link_up(&v1::LinkUpItem { item: Some(v1::link_up_item::Item::Request(request)) }.encode_to_vec());
        }

        #[test]
        fn segments_with_a_changed_byte_and_a_lost_end(
            (place, to, cut) in (any::<u8>(), prop_oneof![Just(0), any::<u8>()], prop_oneof![Just(0), any::<u8>()]),
            records in 0usize..6,
        ) {
            let mark = mark();
            prop_assert!(codec::decode(&mark).is_ok());
            log_segment(&[&[place, to, cut, mark.len() as u8 - 1][..], &mark.repeat(records)].concat());
        }

        #[test]
        fn pushes_that_are_nearly_right(
            to in prop::sample::select(vec![
                r#"["u:a"]"#, r#"["g:a","g:a","x"]"#, "[]", r#"{"all":true}"#, r#"{"alias":["b"]}"#, r#"["a","b","c","d","e"]"#, "3",
            ]),
            content in "[ -~&&[^\"\\\\]]{0,80}",
            rest in prop::sample::select(vec![
                "", r#","ttl_s":5"#, r#","ttl_s":-5"#, r#","class":"ephemeral","priority":"low""#, r#","platforms":["ios"],"from":"b""#,
                r#","message_id":"k","ack":"routed""#, r#","unknown":{}"#,
            ]),
            metadata in prop::sample::select(vec!["{}", "[]", "null", r#"{"a":{"b":[1]}}"#]),
            change in prop::option::of((any::<usize>(), any::<u8>())),
        ) {
            let mut body =
                format!(r#"{{"to":{to},"message":{{"content":"{content}","metadata":{metadata}}}{rest}}}"#).into_bytes();
            if let Some((at, byte)) = change {
                let at = at % body.len();
                body[at] = byte;
            }
            push_json(&body);
        }

        #[test]
        fn configurations_with_a_changed_line(line in any::<usize>(), value in "(-?[0-9]{1,20}|true|\"[ -~&&[^\"\\\\]]{0,9}\"|\\[\\]|\\{\\})") {
            let original: Vec<&str> = DEFAULT_CONFIG.lines().collect();
            let line = line % original.len();
            let uncommented = original[line].trim_start_matches("# ");
            let changed = uncommented.split_once('=').map_or(uncommented.to_owned(), |(key, _)| format!("{key}= {value}"));
            config([&original[..line], &[&changed], &original[line + 1..]].concat().join("\n").as_bytes());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
            link_up(&bytes);
            log_record(&bytes);
            log_segment(&bytes);
            push_json(&bytes);
            push_json(text.as_bytes());
            config(text.as_bytes());
        }
    }
}
