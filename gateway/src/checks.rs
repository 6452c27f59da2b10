//! What holds for any bytes from strangers, from control and from whoever writes the configuration: property tests and the
//! fuzz targets in `fuzz/` run the same functions, which panic where it does not hold. Compiled for them only.

use std::net::{IpAddr, Ipv4Addr};

use prost::Message as _;
use tidegate_gateway_core::ids::{Seq, SeqRange};
use tidegate_gateway_core::link::{FromLink, LinkOk, Message, PartitionId, Partitions};
use tidegate_proto::v1;

use crate::config::{Config, check};
use crate::front_door::forwarded::client_of;
use crate::front_door::http::{HEAD_BYTES_MAX, Request, Scan};
use crate::front_door::proxy_header::{self, HEADER_BYTES_MAX, Start};
use crate::front_door::query::ConnectQuery;
use crate::link::convert::{Place, from_wire};
use crate::platforms::PlatformTable;

/// An item from control. What is taken is in order and within its range.
pub fn link_down(data: &[u8]) {
    let Ok(item) = v1::LinkDownItem::decode(data) else { return };
    let mut values = Vec::new();
    let place = Place { partition: PartitionId(0), partitions: Partitions::ONE };
    if from_wire(item, place, &PlatformTable::default(), &mut values).is_err() {
        assert!(values.is_empty(), "nothing of what is refused");
    }
    for value in values {
        match value {
            FromLink::Deliver(deliver) => in_order(deliver.range, &deliver.messages),
            FromLink::Opened(opened) => {
                if let Ok(stream) = opened.result {
                    let range = SeqRange { after: stream.start, upto: stream.head };
                    in_order(Some(range), &stream.page.unwrap_or_default());
                }
            }
            FromLink::Reply { result: Ok(LinkOk::Pulled(pulled)), .. } => {
                in_order(Some(pulled.range), &pulled.messages)
            }
            _ => {}
        }
    }
}

/// A request head and what follows it. It is the same however it comes; what is taken can be taken apart.
pub fn handshake(data: &[u8]) {
    let whole = Scan::default().advance(data);
    let (mut scan, mut cut) = (Scan::default(), Ok(None));
    for end in 1..=data.len() {
        cut = scan.advance(&data[..end]);
        if !matches!(cut, Ok(None)) {
            break;
        }
    }
    match (whole, cut) {
        (Ok(Some(bytes)), Ok(Some(same))) => {
            assert!(bytes == same && bytes <= HEAD_BYTES_MAX);
            if let Ok(request) = Request::parse(&data[..bytes]) {
                assert!(request.path.starts_with('/'));
                let _ = ConnectQuery::parse(request.query);
                let hop = IpAddr::from(Ipv4Addr::LOCALHOST);
                let list = request.list("x-forwarded-for").unwrap_or_default();
                assert_eq!(client_of(hop, &list, |_| false), hop);
                let client = client_of(hop, &list, |address| address.is_loopback());
                assert!(client == client.to_canonical() && (client == hop || !list.is_empty()));
            }
        }
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        (whole, cut) => panic!("at once {whole:?}, byte by byte {cut:?}"),
    }
}

/// The first bytes of a connection. Whether a balancer's header begins it, and which, is the same however they come.
pub fn proxy_header(data: &[u8]) {
    let whole = proxy_header::read(data);
    let first = (0..=data.len()).map(|end| proxy_header::read(&data[..end])).find(|start| *start != Ok(Start::Unclear));
    assert_eq!(first.unwrap_or(Ok(Start::Unclear)), whole);
    match whole {
        Ok(Start::Unclear) => assert!(data.len() < HEADER_BYTES_MAX, "it must be decided by then"),
        Ok(Start::Header { bytes, .. }) => assert!(bytes <= data.len() && bytes <= HEADER_BYTES_MAX),
        Ok(Start::Other) | Err(_) => {}
    }
}

/// A configuration file. What is found good can be read.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files that it names are read, and not every file is safe to.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let Ok(file) = text.parse::<toml::Table>() else { return };
    let problems = check(&file);
    assert!(problems.iter().all(|problem| !problem.path.is_empty() && !problem.message.is_empty()));
    if let (true, Some(section)) = (problems.is_empty(), file.get("gateway")) {
        let read: Result<Config, _> = section.clone().try_into();
        assert!(read.is_ok(), "{read:?}");
    }
}

fn in_order(range: Option<SeqRange>, messages: &[Message]) {
    let Some(range) = range else {
        return assert!(messages.iter().all(|message| message.seq == Seq::ZERO));
    };
    assert!(range.after <= range.upto && range.upto <= Seq::MAX);
    let mut last = range.after;
    for message in messages {
        assert!(message.seq > last && message.seq <= range.upto && message.seq.0 == message.body.seq);
        last = message.seq;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::DEFAULT_CONFIG;

    fn link_message() -> impl Strategy<Value = v1::LinkMessage> {
        let message =
            prop::option::of(0u64..9).prop_map(|seq| seq.map(|seq| v1::Message { seq, ..Default::default() }));
        message.prop_map(|message| v1::LinkMessage { message, platforms: vec!["ios".into()] })
    }

    proptest! {
        #[test]
        fn items_that_are_nearly_right(
            messages in prop::collection::vec(link_message(), 0..5),
            (after, upto) in (prop::option::of(0u64..9), prop::option::of(0u64..9)),
            stream in prop::sample::select(vec!["g:a", "u:b", "x", ""]),
            epoch in "[a-z]{0,2}",
            kind in 0u8..3,
        ) {
            use v1::link_down_item::Item;
            let (stream, after, upto, head) = (stream.to_owned(), after, upto, 8);
            let item = match kind {
                0 => Item::Deliver(v1::LinkDeliver { stream, epoch, after, upto, messages, ..Default::default() }),
                1 => {
                    let (start, head) = (after.unwrap_or(0), upto.unwrap_or(0));
                    Item::Opened(v1::LinkOpened { stream, epoch, start, head, page: true, messages, ..Default::default() })
                }
                _ => {
                    let (after, upto) = (after.unwrap_or(0), upto.unwrap_or(0));
                    let pulled = v1::LinkPulled { stream, epoch, after, upto, messages, head, ..Default::default() };
                    Item::Reply(v1::LinkReply { corr: 1, error: None, ok: Some(v1::link_reply::Ok::Pulled(pulled)) })
                }
            };
            link_down(&v1::LinkDownItem { item: Some(item) }.encode_to_vec());
        }

        #[test]
        fn heads_that_are_nearly_right(
            target in "/(api/v1/ws)?(\\?(token|uid|cursors|defer|x)=(%7B%7D|%2|a|1|\\+){0,2}(&uid=b)?)?",
            headers in prop::collection::vec("((Host|Upgrade|x|Content-Length): ?[ -~]{0,12}|X-Forwarded-For: [0-9:., ]{0,30})", 0..5),
            change in prop::option::of((any::<usize>(), any::<u8>())),
        ) {
            let mut head = format!("GET {target} HTTP/1.1\r\n{}\r\n\r\nrest", headers.join("\r\n")).into_bytes();
            if let Some((at, to)) = change {
                let at = at % head.len();
                head[at] = to;
            }
            handshake(&head);
        }

        #[test]
        fn proxy_headers_that_are_nearly_right(
            words in prop::collection::vec("(TCP[46]|UNKNOWN|10\\.0\\.0\\.[0-9]{1,3}|::1|[0-9]{1,5}|[ -~]{0,3})", 0..7),
            end in "(\r\n|\n|\r| {0,99}\r\n)",
            (command, family) in (prop::sample::select(vec![0x20, 0x21, 0x22, 0x11]), prop::sample::select(vec![0, 0x11, 0x21, 0x31, 0x12])),
            (len, rest) in (0u16..1100, prop::collection::vec(any::<u8>(), 0..1100)),
        ) {
            proxy_header(format!("PROXY {}{end}GET /", words.join(" ")).as_bytes());
            let head = [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len.to_be_bytes()].concat();
            proxy_header(&[head, rest].concat());
        }

        #[test]
        fn configurations_with_a_changed_line(line in any::<usize>(), value in "(-?[0-9]{1,20}|true|\"[ -~&&[^\"\\\\]]{0,9}\"|\\[\\]|\\{\\})") {
            let mut lines: Vec<String> = DEFAULT_CONFIG.lines().map(|line| line.trim_start_matches("# ").to_owned()).collect();
            let line = line % lines.len();
            if let Some((key, _)) = lines[line].clone().split_once('=') {
                lines[line] = format!("{key}= {value}");
            }
            config(lines.join("\n").as_bytes());
            let original: Vec<&str> = DEFAULT_CONFIG.lines().collect();
            config([&original[..line], &[&lines[line]], &original[line + 1..]].concat().join("\n").as_bytes());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
            link_down(&bytes);
            handshake(&bytes);
            proxy_header(&bytes);
            handshake(text.as_bytes());
            config(text.as_bytes());
        }
    }
}
