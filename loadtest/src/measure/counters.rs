//! The gateway's own counters, from the `/metrics` of its admin listener.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PREFIX: &str = "tidegate_gateway_";
const TIMEOUT: Duration = Duration::from_secs(5);
/// A page is some 10 KB.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// Since the gateway's start, except `connections`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sends handed to the kernel.
    pub sends: u64,
    /// Messages put into sockets, durable and ephemeral.
    pub deliveries: u64,
    /// Established now.
    pub connections: u64,
    /// Streams taken off slow connections.
    pub gaps: u64,
    pub short_sends: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    #[error("{0} cannot be asked for its metrics")]
    Io(SocketAddr, #[source] io::Error),
    #[error("{0} answered a request for its metrics with {1:?}")]
    Refused(SocketAddr, String),
    #[error("the metrics have no {PREFIX}{0}")]
    Missing(&'static str),
}

impl Counters {
    /// Blocks for a round trip, at most some seconds.
    pub fn scrape(admin: SocketAddr) -> Result<Counters, CountersError> {
        let page = fetch(admin).map_err(|source| CountersError::Io(admin, source))?;
        let (head, body) = page.split_once("\r\n\r\n").unwrap_or((&page, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(CountersError::Refused(admin, status.to_owned()));
        }
        Counters::parse(body)
    }

    /// Of an OpenMetrics page.
    pub fn parse(page: &str) -> Result<Counters, CountersError> {
        Ok(Counters {
            sends: sum(page, "sends_total", "")?,
            // The class `direct` counts frames such as answers and pings, not messages.
            deliveries: sum(page, "deliveries_total", r#"class="durable""#)?
                + sum(page, "deliveries_total", r#"class="ephemeral""#)?,
            connections: sum(page, "connections", "")?,
            gaps: sum(page, "gaps_total", "")?,
            short_sends: sum(page, "sends_short_total", "")?,
        })
    }

    /// Of two gateways together.
    pub fn and(&self, other: &Counters) -> Counters {
        Counters {
            sends: self.sends + other.sends,
            deliveries: self.deliveries + other.deliveries,
            connections: self.connections + other.connections,
            gaps: self.gaps + other.gaps,
            short_sends: self.short_sends + other.short_sends,
        }
    }

    /// What was counted since `before`; `connections` stays as it is.
    pub fn since(&self, before: &Counters) -> Counters {
        Counters {
            sends: self.sends.saturating_sub(before.sends),
            deliveries: self.deliveries.saturating_sub(before.deliveries),
            connections: self.connections,
            gaps: self.gaps.saturating_sub(before.gaps),
            short_sends: self.short_sends.saturating_sub(before.short_sends),
        }
    }
}

/// HTTP/1.0, so that the answer ends with the connection and is never chunked.
fn fetch(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {admin}\r\n\r\n")?;
    let mut page = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut page)?;
    Ok(page)
}

/// Sum over the rows of a metric whose labels hold `label`.
fn sum(page: &str, name: &'static str, label: &str) -> Result<u64, CountersError> {
    let mut found = None;
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(name)) else { continue };
        let (labels, value) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((labels, value)) => (labels, value),
            None if rest.starts_with(' ') => ("", rest),
            None => continue,
        };
        let value = value.split_whitespace().next().and_then(|value| value.parse::<f64>().ok());
        if let Some(value) = value.filter(|_| labels.contains(label)) {
            found = Some(found.unwrap_or(0) + value as u64);
        }
    }
    found.ok_or(CountersError::Missing(name))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const PAGE: &str = "\
# HELP tidegate_gateway_sends Sends handed to the driver.
tidegate_gateway_connections 12
tidegate_gateway_connections_of_something_else 99
tidegate_gateway_deliveries_total{class=\"durable\"} 30
tidegate_gateway_deliveries_total{class=\"ephemeral\"} 4
tidegate_gateway_deliveries_total{class=\"direct\"} 500
tidegate_gateway_sends_total 77
tidegate_gateway_sends_short_total 3
tidegate_gateway_gaps_total 1
# EOF
";

    /// Answers one request.
    fn server(answer: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut lines = io::BufReader::new(stream.try_clone().expect("cloned")).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            stream.write_all(answer.as_bytes()).expect("read");
        });
        addr
    }

    #[test]
    fn a_page_is_summed_over_its_labels() {
        let counters = Counters::scrape(server(format!("HTTP/1.0 200 OK\r\n\r\n{PAGE}"))).expect("a page");
        let expected = Counters { sends: 77, deliveries: 34, connections: 12, gaps: 1, short_sends: 3 };
        assert_eq!(counters, expected);
        let before = Counters { sends: 70, deliveries: 4, connections: 1, gaps: 0, short_sends: 3 };
        let since = Counters { sends: 7, deliveries: 30, connections: 12, gaps: 1, short_sends: 0 };
        assert_eq!(counters.since(&before), since);
    }

    #[test]
    fn what_is_no_gateway_is_an_error() {
        let refused = Counters::scrape(server("HTTP/1.0 404 Not Found\r\n\r\n".into()));
        assert!(matches!(refused, Err(CountersError::Refused(..))), "{refused:?}");
        let foreign = Counters::scrape(server("HTTP/1.0 200 OK\r\n\r\nother_total 1\n".into()));
        assert!(matches!(foreign, Err(CountersError::Missing("sends_total"))), "{foreign:?}");
    }
}
