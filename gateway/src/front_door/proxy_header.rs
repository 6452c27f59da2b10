//! The header of the PROXY protocol (haproxy.org, `proxy-protocol.txt`, versions 1 and 2), in which a balancer says whose
//! connection it passes on, before the first byte of it. Pure; no I/O.
//!
//! What it does not do: take in destinations, ports and TLVs. They are checked for length and skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A longer version 1 header is none, says the specification.
pub const V1_BYTES_MAX: usize = 107;
/// Longest header with its TLVs. Certificate names and ids that balancers add come to some 600 bytes.
pub const HEADER_BYTES_MAX: usize = 1024;

const _: () = assert!(V1_BYTES_MAX < HEADER_BYTES_MAX && V2_HEAD_BYTES + V6_BYTES < HEADER_BYTES_MAX);

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest.
const V2_HEAD_BYTES: usize = 16;
/// Two addresses and two ports.
const V4_BYTES: usize = 12;
const V6_BYTES: usize = 36;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Client(IpAddr),
    /// The balancer's own, as a health check is, or that of somebody without an address.
    Hop,
}

/// What bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// More bytes decide.
    Unclear,
    /// Something else.
    Other,
    /// A header of so many bytes.
    Header { source: Source, bytes: usize },
}

/// Begins as a header and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("a PROXY header that is too long")]
    TooLong,
    #[error("a malformed PROXY header")]
    Malformed,
}

/// Looks at the first bytes of a connection. At most [`HEADER_BYTES_MAX`] of them are needed for a decision.
pub fn read(bytes: &[u8]) -> Result<Start, HeaderError> {
    if bytes.starts_with(V2_START) {
        version_2(bytes)
    } else if bytes.starts_with(V1_START) {
        version_1(bytes)
    } else if V1_START.starts_with(bytes) || V2_START.starts_with(bytes) {
        Ok(Start::Unclear)
    } else {
        Ok(Start::Other)
    }
}

fn version_1(bytes: &[u8]) -> Result<Start, HeaderError> {
    let first = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = first.iter().position(|byte| *byte == b'\n') else {
        return if first.len() < V1_BYTES_MAX { Ok(Start::Unclear) } else { Err(HeaderError::TooLong) };
    };
    let line = first[V1_START.len()..end].strip_suffix(b"\r").ok_or(HeaderError::Malformed)?;
    let line = str::from_utf8(line).map_err(|_| HeaderError::Malformed)?;
    let mut words = line.split(' ');
    let source = match words.next() {
        // What follows says nothing, and may be there.
        Some("UNKNOWN") => Source::Hop,
        Some("TCP4") => addresses::<Ipv4Addr>(words)?,
        Some("TCP6") => addresses::<Ipv6Addr>(words)?,
        _ => return Err(HeaderError::Malformed),
    };
    Ok(Start::Header { source, bytes: end + 1 })
}

/// Source, destination, source port, destination port.
fn addresses<'a, A: std::str::FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<Source, HeaderError> {
    let mut word = || words.next().ok_or(HeaderError::Malformed);
    let address = |word: &str| word.parse::<A>().map_err(|_| HeaderError::Malformed);
    let source = address(word()?)?;
    address(word()?)?;
    let ports = [word()?, word()?];
    if !ports.into_iter().all(is_port) || words.next().is_some() {
        return Err(HeaderError::Malformed);
    }
    Ok(Source::Client(source.into().to_canonical()))
}

/// Decimal, without a sign or a zero in front.
fn is_port(word: &str) -> bool {
    word.parse::<u16>().is_ok_and(|port| port.to_string() == word)
}

fn version_2(bytes: &[u8]) -> Result<Start, HeaderError> {
    let head = &bytes[V2_START.len()..];
    let is_local = match head.first() {
        None => return Ok(Start::Unclear),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(HeaderError::Malformed),
    };
    let (family, high, low) = match head[1..] {
        [family, high, low, ..] => (family, high, low),
        _ => return Ok(Start::Unclear),
    };
    let end = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if end > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let Some(rest) = bytes.get(V2_HEAD_BYTES..end) else { return Ok(Start::Unclear) };
    let source = match (is_local, family) {
        (true, _) => Source::Hop,
        // No family, or a socket of the balancer's own machine.
        (false, 0x00 | 0x31) => Source::Hop,
        (false, 0x11) => {
            let [a, b, c, d, ..] = *within(rest, V4_BYTES)? else { return Err(HeaderError::Malformed) };
            Source::Client(Ipv4Addr::new(a, b, c, d).into())
        }
        (false, 0x21) => {
            let first = within(rest, V6_BYTES)?.first_chunk::<16>().ok_or(HeaderError::Malformed)?;
            Source::Client(IpAddr::from(*first).to_canonical())
        }
        // Datagrams, and what nobody has defined.
        _ => return Err(HeaderError::Malformed),
    };
    Ok(Start::Header { source, bytes: end })
}

fn within(rest: &[u8], bytes: usize) -> Result<&[u8], HeaderError> {
    rest.get(..bytes).ok_or(HeaderError::Malformed)
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
