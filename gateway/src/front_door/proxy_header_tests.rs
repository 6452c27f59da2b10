use proptest::prelude::*;

use super::*;

fn client(address: &str, bytes: usize) -> Result<Start, HeaderError> {
    Ok(Start::Header { source: Source::Client(address.parse().expect("an address")), bytes })
}

fn hop(bytes: usize) -> Result<Start, HeaderError> {
    Ok(Start::Header { source: Source::Hop, bytes })
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [V2_START, &[command, family], &len, rest].concat()
}

const V4: [u8; V4_BYTES] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];

#[test]
fn version_1_names_the_client() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n", client("192.0.2.7", 41)),
        ("PROXY TCP6 2001:db8::7 ::1 0 65535\r\nGET", client("2001:db8::7", 36)),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", client("192.0.2.7", 37)),
        ("PROXY UNKNOWN\r\n", hop(15)),
        ("PROXY UNKNOWN ffff:f...f:ffff 65535 whatever\r\n", hop(46)),
    ] {
        assert_eq!(read(line.as_bytes()), expected, "{line}");
    }
    let longest = format!("PROXY UNKNOWN{}\r\n", " ".repeat(V1_BYTES_MAX - 15));
    assert_eq!(read(longest.as_bytes()), hop(V1_BYTES_MAX));
}

#[test]
fn version_1_is_read_to_the_letter() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
        "PROXY TCP4 192.0.2.007 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7.evil 10.0.0.1 1 2\r\n",
        "PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\rX\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), Err(HeaderError::Malformed), "{line}");
    }
    let long = format!("PROXY UNKNOWN{}\r\n", " ".repeat(V1_BYTES_MAX - 14));
    assert_eq!(read(long.as_bytes()), Err(HeaderError::TooLong));
}

#[test]
fn version_2_names_the_client_and_its_tlvs_are_skipped() {
    let v6 = [[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], [0; 16]].concat();
    let v6 = [&v6[..], &[0, 1, 0, 2]].concat();
    let with_tlvs = [&V4[..], &[0x02, 0, 3, b'a', b'.', b'b', 0xea, 0xff, 0xff]].concat();
    assert_eq!(read(&version_2(0x21, 0x11, &V4)), client("192.0.2.7", 28));
    assert_eq!(read(&[&version_2(0x21, 0x11, &with_tlvs)[..], b"GET /"].concat()), client("192.0.2.7", 37));
    assert_eq!(read(&version_2(0x21, 0x21, &v6)), client("2001:db8::7", 52));
    let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 20]].concat();
    assert_eq!(read(&version_2(0x21, 0x21, &mapped)), client("192.0.2.7", 52));
    let longest = vec![0; HEADER_BYTES_MAX - V2_HEAD_BYTES];
    assert_eq!(read(&version_2(0x21, 0x11, &longest)), client("0.0.0.0", HEADER_BYTES_MAX));
}

#[test]
fn version_2_without_a_client() {
    for (command, family, rest) in
        [(0x20, 0x00, &[][..]), (0x20, 0x11, &V4), (0x20, 0xff, b"x"), (0x21, 0x00, b"tlv"), (0x21, 0x31, &[0; 216])]
    {
        let header = version_2(command, family, rest);
        assert_eq!(read(&header), hop(header.len()), "{command:x} {family:x}");
    }
}

#[test]
fn version_2_that_is_wrong() {
    for (command, family, rest) in [
        (0x11, 0x11, &V4[..]),
        (0x22, 0x11, &V4),
        (0x01, 0x11, &V4),
        (0x21, 0x12, &V4),
        (0x21, 0x22, &[0; V6_BYTES]),
        (0x21, 0x32, &[0; 216]),
        (0x21, 0x41, &V4),
        (0x21, 0x11, &V4[..11]),
        (0x21, 0x21, &[0; V6_BYTES - 1]),
    ] {
        assert_eq!(read(&version_2(command, family, rest)), Err(HeaderError::Malformed), "{command:x} {family:x}");
    }
    let long = vec![0; HEADER_BYTES_MAX - V2_HEAD_BYTES + 1];
    assert_eq!(read(&version_2(0x21, 0x11, &long)), Err(HeaderError::TooLong));
    // Its length alone decides: nothing is waited for.
    assert_eq!(read(&version_2(0x21, 0x11, &long)[..V2_HEAD_BYTES]), Err(HeaderError::TooLong));
}

#[test]
fn what_is_no_header_is_left_alone() {
    let hello = [0x16, 3, 1, 2, 0, 1];
    for other in [&b"GET / HTTP/1.1\r\n"[..], b"PROXYX", b"PRO XY", b"proxy TCP4", b"\r\n\r\nGET", b"\0", &hello] {
        assert_eq!(read(other), Ok(Start::Other), "{other:x?}");
    }
}

proptest! {
    #[test]
    fn every_client_is_found_wherever_the_bytes_are_cut(
        address in any::<IpAddr>(), tlvs in prop::collection::vec(any::<u8>(), 0..300), ports in any::<[u16; 2]>(),
    ) {
        let (word, family, octets) = match address {
            IpAddr::V4(v4) => ("TCP4", 0x11, v4.octets().to_vec()),
            IpAddr::V6(v6) => ("TCP6", 0x21, v6.octets().to_vec()),
        };
        let line = format!("PROXY {word} {address} {address} {} {}\r\n", ports[0], ports[1]);
        let rest = [&octets[..], &octets, &[0; 4], &tlvs].concat();
        for header in [line.into_bytes(), version_2(0x21, family, &rest)] {
            let expected = Start::Header { source: Source::Client(address.to_canonical()), bytes: header.len() };
            for cut in 0..header.len() {
                prop_assert_eq!(read(&header[..cut]), Ok(Start::Unclear));
            }
            prop_assert_eq!(read(&header), Ok(expected));
        }
    }
}
