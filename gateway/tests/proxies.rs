//! Behind balancers and proxies: whose a connection is, is told by those who are trusted, and by nobody else.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::wire::{Wire, is_tls, shake_hands, trusted};
use support::{Node, http, read_to_end, token, within};
use tidegate_gateway::Config;
use tidegate_gateway::config::ProxyProtocol;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

const PROXY_METRIC: &str = "tidegate_gateway_handshakes_total{result=\"proxy\"}";
const LIMITED_METRIC: &str = "tidegate_gateway_handshakes_total{result=\"rate_limited\"}";

fn behind_a_balancer(protocol: ProxyProtocol) -> impl FnOnce(&mut Config) {
    move |config| {
        config.proxies.trusted = vec!["127.0.0.1".into(), "10.0.0.0/8".into()];
        config.proxies.proxy_protocol = protocol;
        config.limits.connections_per_ip_max = 1;
    }
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n").into_bytes()
}

fn v2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let tlv = [0x04, 0, 2, 0, 0];
    let addresses = [&client[..], &[10, 0, 0, 1, 0x12, 0x67, 1, 0xbb]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11, 0, 17][..], &addresses, &tlv].concat()
}

/// A bare connection from another address of loopback.
async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((source, 0))).expect("an address of this machine");
    socket.connect(to).await.expect("connects")
}

/// A connection that begins with these bytes, then speaks TLS if this run's clients do.
async fn after(header: &[u8], mut stream: TcpStream) -> Wire {
    stream.write_all(header).await.expect("sent");
    match is_tls() {
        false => Wire::Plain(stream),
        true => Wire::Tls(Box::new(shake_hands(stream, trusted()).await.expect("a TLS session"))),
    }
}

/// Asks for an upgrade; returns the answer's head and the connection.
async fn ask(node: &Node, mut wire: Wire, fields: &[&str]) -> (String, Wire) {
    let target = format!("/api/v1/ws?token={}", token("alice", 60));
    wire.write_all(http::upgrade(node.addrs.client, &target, fields).as_bytes()).await.expect("sent");
    let head = within("an answer", http::read_head(&mut wire)).await;
    (head, wire)
}

async fn with_header(node: &Node, header: &[u8], fields: &[&str]) -> (u16, Wire) {
    let stream = TcpStream::connect(node.addrs.client).await.expect("connects");
    let (head, wire) = ask(node, after(header, stream).await, fields).await;
    (status(&head), wire)
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {head:?}"))
}

/// Asks again until a place is free.
async fn seated_again(node: &Node, header: &[u8], fields: &[&str]) {
    let trying = async {
        while with_header(node, header, fields).await.0 != 101 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("a place", trying).await;
}

/// Writes what must not be taken, and sees it closed without an answer of HTTP or an upgrade.
async fn closed_after(node: &Node, bytes: &[u8]) {
    let mut wire = Wire::Plain(TcpStream::connect(node.addrs.client).await.expect("connects"));
    // The other side may have closed before all of it was written.
    let _ = wire.write_all(bytes).await;
    assert_eq!(read_to_end(&mut wire).await, b"", "{bytes:x?}");
}

#[tokio::test]
async fn a_balancers_header_says_whose_connection_it_is() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Required)).await;
    let (first, seated) = with_header(&node, &v1("192.0.2.7"), &[]).await;
    let (twice, _) = with_header(&node, &v2(0x21, [192, 0, 2, 7]), &[]).await;
    let (other, _other) = with_header(&node, &v2(0x21, [192, 0, 2, 8]), &[]).await;
    assert_eq!((first, twice, other), (101, 429, 101));
    // Health checks and the like are the balancer's own, and as many as it wants.
    for header in [v2(0x20, [192, 0, 2, 7]), b"PROXY UNKNOWN\r\n".to_vec(), v1("10.9.9.9")] {
        let (one, _one) = with_header(&node, &header, &[]).await;
        let (more, _more) = with_header(&node, &header, &[]).await;
        assert_eq!((one, more), (101, 101), "{header:x?}");
    }
    assert!(node.metric(LIMITED_METRIC).await >= 1.0);
    drop(seated);
    seated_again(&node, &v1("192.0.2.7"), &[]).await;
}

#[tokio::test]
async fn a_header_in_small_pieces_is_the_same_header() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Optional)).await;
    for header in [v1("192.0.2.7"), v2(0x21, [192, 0, 2, 8])] {
        let mut stream = TcpStream::connect(node.addrs.client).await.expect("connects");
        stream.set_nodelay(true).expect("nodelay");
        let (begin, end) = header.split_at(header.len() - 1);
        for piece in begin.chunks(3) {
            stream.write_all(piece).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The end comes together with what follows it.
        let (head, _wire) = ask(&node, after(end, stream).await, &[]).await;
        assert_eq!(status(&head), 101);
        assert_eq!(with_header(&node, &header, &[]).await.0, 429, "the client was counted under its own address");
    }
    let (without, _) = with_header(&node, b"", &[]).await;
    assert_eq!(without, 101, "it is optional");
}

#[tokio::test]
async fn what_is_no_header_is_closed_and_counted() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Required)).await;
    let request = http::upgrade(node.addrs.client, "/api/v1/ws?uid=alice", &[]);
    let long = [b"PROXY UNKNOWN".to_vec(), vec![b' '; 100], b"\r\n".to_vec()].concat();
    let far_too_long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 4000]].concat();
    let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    let bad: [&[u8]; 7] = [
        b"PROXY TCP4 1 2 3 4\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n",
        &long,
        &far_too_long,
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
        request.as_bytes(),
        &hello,
    ];
    for (at, bytes) in bad.into_iter().enumerate() {
        closed_after(&node, bytes).await;
        assert_eq!(node.metric(PROXY_METRIC).await, (at + 1) as f64);
    }
    while node.metric("tidegate_gateway_half_open").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(with_header(&node, &v1("192.0.2.7"), &[]).await.0, 101);
}

#[tokio::test]
async fn a_stranger_cannot_say_who_he_is() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Required)).await;
    for header in [v1("192.0.2.7"), v2(0x21, [192, 0, 2, 7]), v2(0x20, [0; 4])] {
        let mut stranger = Wire::Plain(from([127, 0, 0, 9], node.addrs.client).await);
        let _ = stranger.write_all(&header).await;
        assert_eq!(read_to_end(&mut stranger).await, b"");
    }
    assert_eq!(node.metric(PROXY_METRIC).await, 3.0);
    // Without a header he is who he is, whatever he says of himself.
    let field = ["X-Forwarded-For: 192.0.2.7"];
    let stranger = after(b"", from([127, 0, 0, 9], node.addrs.client).await).await;
    let (head, _seated) = ask(&node, stranger, &field).await;
    assert_eq!(status(&head), 101);
    let again = after(b"", from([127, 0, 0, 9], node.addrs.client).await).await;
    assert_eq!(status(&ask(&node, again, &["X-Forwarded-For: 192.0.2.8"]).await.0), 429);
}

#[tokio::test]
async fn where_the_protocol_is_off_a_header_is_garbage() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Off)).await;
    let request = http::upgrade(node.addrs.client, "/api/v1/ws?uid=alice", &[]);
    for header in [v1("192.0.2.7"), v2(0x21, [192, 0, 2, 7])] {
        let mut wire = Wire::Plain(TcpStream::connect(node.addrs.client).await.expect("connects"));
        let _ = wire.write_all(&[&header[..], request.as_bytes()].concat()).await;
        let answer = read_to_end(&mut wire).await;
        let refused = if is_tls() { &[21][..] } else { b"HTTP/1.1 400 " };
        assert!(answer.starts_with(refused), "{answer:x?}");
    }
}

#[tokio::test]
async fn a_proxys_field_says_whose_request_it_is() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Off)).await;
    let (first, seated) = with_header(&node, b"", &["X-Forwarded-For: 192.0.2.7"]).await;
    assert_eq!(first, 101);
    // What stands left of the client is its own word.
    for same in ["203.0.113.9, 192.0.2.7", "192.0.2.7, 10.1.1.1, 10.2.2.2", "[2001:db8::1]:80, 192.0.2.7:4711,10.0.0.1"]
    {
        let (again, _) = with_header(&node, b"", &[&format!("X-Forwarded-For: {same}")]).await;
        assert_eq!(again, 429, "{same}");
    }
    let lines = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 192.0.2.7"];
    assert_eq!(with_header(&node, b"", &lines).await.0, 429);
    // A subnet of IPv6 is one client.
    let (v6, _v6) = with_header(&node, b"", &["X-Forwarded-For: 2001:db8::1"]).await;
    let (same, _) = with_header(&node, b"", &["X-Forwarded-For: 2001:db8::2"]).await;
    let (other, _other) = with_header(&node, b"", &["X-Forwarded-For: 2001:db8:0:1::1"]).await;
    assert_eq!((v6, same, other), (101, 429, 101));
    drop(seated);
    seated_again(&node, b"", &["X-Forwarded-For: 192.0.2.7"]).await;
}

#[tokio::test]
async fn a_client_behind_a_balancer_and_a_proxy_is_found() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Required)).await;
    let field = ["X-Forwarded-For: 203.0.113.9, 192.0.2.7"];
    let (first, _seated) = with_header(&node, &v1("10.3.3.3"), &field).await;
    assert_eq!((first, with_header(&node, &v1("192.0.2.7"), &[]).await.0), (101, 429));
    // Where the balancer names a client, that client's own field says nothing.
    let (other, _other) = with_header(&node, &v1("192.0.2.8"), &field).await;
    assert_eq!((other, with_header(&node, &v1("192.0.2.8"), &[]).await.0), (101, 429));
}

#[tokio::test]
async fn development_auth_is_for_nobody_behind_a_balancer() {
    let node = Node::start(behind_a_balancer(ProxyProtocol::Optional)).await;
    let request = http::upgrade(node.addrs.client, "/api/v1/ws?uid=alice", &[]);
    for (header, expected) in [(&b""[..], 101), (&v1("192.0.2.7"), 401), (b"PROXY UNKNOWN\r\n", 401)] {
        let mut wire = after(header, TcpStream::connect(node.addrs.client).await.expect("connects")).await;
        wire.write_all(request.as_bytes()).await.expect("sent");
        assert_eq!(status(&within("an answer", http::read_head(&mut wire)).await), expected);
    }
}

#[tokio::test]
async fn a_slow_header_is_reaped_at_the_deadline() {
    let node = Node::start(|config| {
        behind_a_balancer(ProxyProtocol::Required)(config);
        config.handshake.deadline_ms = 300;
    })
    .await;
    for begin in [&b""[..], b"PROXY TCP4 192.0.2.7 ", &v2(0x21, [192, 0, 2, 7])[..20]] {
        closed_after(&node, begin).await;
    }
    assert_eq!(node.metric("tidegate_gateway_handshakes_total{result=\"timeout\"}").await, 3.0);
    while node.metric("tidegate_gateway_half_open").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let node = Node::start(|config| config.limits.connections_per_ip_max = 2).await;
    let mut held = Vec::new();
    for expected in [101, 101, 429] {
        let (head, wire) = ask(&node, after(b"", from([127, 0, 0, 5], node.addrs.client).await).await, &[]).await;
        assert_eq!(status(&head), expected);
        if expected == 429 {
            assert!(head.contains("Retry-After: 1\r\n"), "{head}");
            let mut wire = wire;
            let body = String::from_utf8(read_to_end(&mut wire).await).expect("text");
            assert!(body.contains("\"RATE_LIMITED\""), "{body}");
        } else {
            held.push(wire);
        }
    }
    let (head, _other) = ask(&node, after(b"", from([127, 0, 0, 6], node.addrs.client).await).await, &[]).await;
    assert_eq!(status(&head), 101, "another address has its own");
    held.pop();
    let trying = async {
        loop {
            let (head, wire) = ask(&node, after(b"", from([127, 0, 0, 5], node.addrs.client).await).await, &[]).await;
            if status(&head) == 101 {
                return wire;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    held.push(within("a place", trying).await);
    let (head, _) = ask(&node, after(b"", from([127, 0, 0, 5], node.addrs.client).await).await, &[]).await;
    assert_eq!(status(&head), 429, "one place was given back, not two");
}

#[tokio::test]
async fn one_address_does_not_fill_the_door() {
    let node = Node::start(|config| {
        config.handshake.half_open_per_ip_max = 3;
        config.handshake.deadline_ms = 60_000;
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut stranger = from([127, 0, 0, 5], node.addrs.client).await;
        let begin = if is_tls() { &[0x16, 3, 1][..] } else { b"GET /api/v1/ws HTTP/1.1\r\n" };
        stranger.write_all(begin).await.expect("sent");
        strangers.push(stranger);
    }
    while node.metric("tidegate_gateway_half_open").await < 3.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut refused = Wire::Plain(from([127, 0, 0, 5], node.addrs.client).await);
    let answer = read_to_end(&mut refused).await;
    match is_tls() {
        true => assert_eq!(answer, b""),
        false => assert!(answer.starts_with(b"HTTP/1.1 429 "), "{answer:x?}"),
    }
    assert_eq!(node.metric(LIMITED_METRIC).await, 1.0);
    let (head, _other) = ask(&node, after(b"", from([127, 0, 0, 6], node.addrs.client).await).await, &[]).await;
    assert_eq!(status(&head), 101, "everybody else is served");
    drop(strangers);
    while node.metric("tidegate_gateway_half_open").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (head, _free) = ask(&node, after(b"", from([127, 0, 0, 5], node.addrs.client).await).await, &[]).await;
    assert_eq!(status(&head), 101);
}
