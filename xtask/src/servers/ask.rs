//! Real questions to servers, in as few bytes as their protocols allow. An open port is no answer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// The body of a 200 to `GET path`.
pub fn http(port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = connect(port)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if head.split_ascii_whitespace().nth(1) != Some("200") {
        bail!("{path} was answered {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// What Redis says to a command that is answered with one line or one bulk string.
pub fn redis(port: u16, words: &[&str]) -> anyhow::Result<String> {
    let mut stream = connect(port)?;
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let count = words.matches('$').count();
    stream.write_all(format!("*{count}\r\n{words}").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(text) = redis_answer(&answer)? {
            return Ok(text);
        }
        match stream.read(&mut chunk)? {
            0 => bail!("Redis closed in the middle of an answer"),
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
}

/// `None`: not whole yet.
fn redis_answer(bytes: &[u8]) -> anyhow::Result<Option<String>> {
    let text = String::from_utf8_lossy(bytes);
    let Some((line, rest)) = text.split_once("\r\n") else { return Ok(None) };
    match line.split_at_checked(1) {
        Some(("+" | ":", said)) => Ok(Some(said.to_owned())),
        Some(("-", error)) => bail!("Redis: {error}"),
        Some(("$", length)) => Ok(rest.get(..length.parse()?).map(str::to_owned)),
        _ => bail!("not an answer of Redis: {line}"),
    }
}

/// How many brokers a Kafka broker knows of: a `Metadata` request, version 1, about no topic.
pub fn kafka_brokers(port: u16) -> anyhow::Result<usize> {
    let mut stream = connect(port)?;
    let mut request = Vec::new();
    request.extend(3i16.to_be_bytes());
    request.extend(1i16.to_be_bytes());
    let correlation = 7i32.to_be_bytes();
    request.extend(correlation);
    let no_client_id = (-1i16).to_be_bytes();
    request.extend(no_client_id);
    let no_topics = 0i32.to_be_bytes();
    request.extend(no_topics);
    stream.write_all(&(request.len() as i32).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if head[4..8] != correlation {
        bail!("not an answer of Kafka");
    }
    Ok(u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_redis_are_read_whole() {
        assert_eq!(redis_answer(b"+PONG\r\n").expect("an answer"), Some("PONG".into()));
        assert_eq!(redis_answer(b"$5\r\nab\r\nc\r\n").expect("an answer"), Some("ab\r\nc".into()));
        assert_eq!(redis_answer(b":5\r\n").expect("an answer"), Some("5".into()));
        for part in [&b""[..], b"+PO", b"$5\r\nab"] {
            assert_eq!(redis_answer(part).expect("so far"), None);
        }
        assert!(redis_answer(b"-ERR no\r\n").is_err());
        assert!(redis_answer(b"HTTP/1.1 400\r\n").is_err());
    }
}
