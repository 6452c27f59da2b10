use super::*;

const GOOD: &str = "GET /api/v1/ws?a=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n";

fn scan(text: &[u8]) -> Result<Option<usize>, u16> {
    Scan::default().advance(text).map_err(|refusal| refusal.status)
}

fn refused(text: &str) -> u16 {
    match Scan::default().advance(text.as_bytes()) {
        Err(refusal) => refusal.status,
        Ok(None) => panic!("not complete: {text:?}"),
        Ok(Some(end)) => match Request::parse(&text.as_bytes()[..end]) {
            Err(refusal) => refusal.status,
            Ok(_) => panic!("accepted: {text:?}"),
        },
    }
}

#[test]
fn a_head_is_found_however_it_is_cut() {
    let bytes = [GOOD.as_bytes(), b"early"].concat();
    let mut scan = Scan::default();
    for end in 0..GOOD.len() {
        assert_eq!(scan.advance(&bytes[..end]), Ok(None), "{end}");
    }
    assert_eq!(scan.advance(&bytes), Ok(Some(GOOD.len())));
    let request = Request::parse(GOOD.as_bytes()).expect("valid");
    assert_eq!((request.method, request.path, request.query), ("GET", "/api/v1/ws", "a=1"));
    assert_eq!(request.one("upgrade"), Ok(Some("websocket")));
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    for text in [
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\nHost: x\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\rY: z\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET /\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /#f HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\u{e4} HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    ] {
        assert_eq!(refused(text), 400, "{text:?}");
    }
    assert_eq!(scan(b"\x16\x03\x01\x02\x00\x01"), Err(400), "a TLS hello is refused at once");
}

#[test]
fn sizes_are_bounded() {
    let line = |bytes: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(bytes - "GET / HTTP/1.1\r\n".len()));
    assert_eq!(scan(line(REQUEST_LINE_BYTES_MAX - 2).as_bytes()), Ok(None));
    assert_eq!(scan(line(REQUEST_LINE_BYTES_MAX + 3).as_bytes()), Err(414));
    assert_eq!(scan("a".repeat(REQUEST_LINE_BYTES_MAX).as_bytes()), Err(414));
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}", "b".repeat(HEAD_BYTES_MAX));
    assert_eq!(scan(long.as_bytes()), Err(431));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
    assert_eq!(refused(&many), 431);
    let most = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX - 1));
    assert!(Request::parse(most.as_bytes()).is_ok());
}

#[test]
fn lists_may_come_in_several_lines_and_single_fields_may_not() {
    let text = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nconnection:,foo\r\nOrigin: a\r\nOrigin: b\r\n\r\n";
    let request = Request::parse(text.as_bytes()).expect("valid");
    assert_eq!(request.list("Connection"), Ok(vec!["keep-alive", "Upgrade", "foo"]));
    assert_eq!(request.joined("connection").as_deref(), Ok("keep-alive, Upgrade, ,foo"));
    assert_eq!(request.one("origin").map_err(|refusal| refusal.status), Err(400));
    assert_eq!(request.one("absent"), Ok(None));
}

#[test]
fn traces_of_proxies_are_seen() {
    for field in ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "VIA"] {
        let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{field}: y\r\n\r\n");
        assert!(Request::parse(text.as_bytes()).expect("valid").forwarded(), "{field}");
    }
    assert!(!Request::parse(GOOD.as_bytes()).expect("valid").forwarded());
}
