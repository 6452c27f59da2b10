//! The HTTP/1.1 request head (RFC 9112), read strictly: what two parsers could understand differently is refused (S7).
//!
//! [`Scan`] looks at bytes as they come and refuses a bad head at its first wrong byte, so that nobody waits for a
//! deadline to hear about a bare LF. [`Request::parse`] then takes the complete head apart. Pure; no I/O.

use super::refusal::Refusal;

/// Longest request line, with its CRLF.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;
/// Largest head: request line, headers and the empty line.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields.
pub const HEADERS_MAX: usize = 100;

const _: () = assert!(REQUEST_LINE_BYTES_MAX < HEAD_BYTES_MAX);

/// Progress through a head that is still arriving.
#[derive(Debug, Default)]
pub struct Scan {
    at: usize,
    line_start: usize,
    lines: usize,
}

impl Scan {
    /// Looks at `buffer`, which has grown since the last call. `Some(n)`: the head is its first `n` bytes.
    pub fn advance(&mut self, buffer: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(&byte) = buffer.get(self.at) {
            let first_of_line = self.at == self.line_start;
            match byte {
                b'\r' => match buffer.get(self.at + 1) {
                    None => break,
                    Some(b'\n') if first_of_line && self.lines > 0 => return within(self.at + 2).map(Some),
                    Some(b'\n') if first_of_line => return Err(Refusal::bad("an empty line before the request")),
                    Some(b'\n') => self.next_line(),
                    Some(_) => return Err(Refusal::bad("a bare CR")),
                },
                b'\n' => return Err(Refusal::bad("a bare LF")),
                b' ' | b'\t' if first_of_line => return Err(Refusal::bad("a folded header or a leading space")),
                b'\t' => self.at += 1,
                0..=0x1f | 0x7f => return Err(Refusal::bad("a control character")),
                0x80.. if self.lines == 0 => return Err(Refusal::bad("a request target that is not ASCII")),
                _ => self.at += 1,
            }
            if self.lines == 0 && self.at >= REQUEST_LINE_BYTES_MAX {
                return Err(Refusal::LINE_TOO_LONG);
            }
        }
        within(self.at + 1).map(|_| None)
    }

    fn next_line(&mut self) {
        self.at += 2;
        self.line_start = self.at;
        self.lines += 1;
    }
}

fn within(bytes: usize) -> Result<usize, Refusal> {
    if bytes > HEAD_BYTES_MAX { Err(Refusal::HEAD_TOO_LARGE) } else { Ok(bytes) }
}

/// A complete head, taken apart. Field names compare without case.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Up to the `?`.
    pub path: &'a str,
    /// After the `?`; empty if there is none.
    pub query: &'a str,
    fields: Vec<(&'a str, &'a [u8])>,
    behind_proxy: bool,
}

impl<'a> Request<'a> {
    /// `head` is what [`Scan`] found.
    pub fn parse(head: &'a [u8]) -> Result<Request<'a>, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(bytes)) if bytes == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HEAD_TOO_LARGE),
            _ => return Err(Refusal::bad("not an HTTP/1.1 request")),
        }
        let (Some(method), Some(target), Some(1)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Refusal::bad("HTTP/1.1 is needed"));
        };
        if !target.starts_with('/') || target.contains('#') {
            return Err(Refusal::bad("the request target must be a path"));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let fields = parsed.headers.iter().map(|field| (field.name, field.value)).collect();
        let request = Request { method, path, query, fields, behind_proxy: false };
        request.check_framing()?;
        Ok(request)
    }

    /// The value of a field that may appear once at most.
    pub fn one(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.values(name);
        let first = values.next().transpose()?;
        if values.next().is_some() {
            return Err(Refusal::bad(format!("more than one {name} header")));
        }
        Ok(first)
    }

    /// The elements of a list field, which may come in several lines (RFC 9110 §5.6.1); empty ones are skipped.
    pub fn list(&self, name: &str) -> Result<Vec<&'a str>, Refusal> {
        let mut elements = Vec::new();
        for value in self.values(name) {
            let parts = value?.split(',').map(|part| part.trim_matches([' ', '\t']));
            elements.extend(parts.filter(|part| !part.is_empty()));
        }
        Ok(elements)
    }

    /// A list field as one line, for values in which a comma may be quoted.
    pub fn joined(&self, name: &str) -> Result<String, Refusal> {
        Ok(self.values(name).collect::<Result<Vec<&str>, Refusal>>()?.join(", "))
    }

    /// Whether its connection began with a PROXY header.
    pub fn behind_proxy(mut self, is_proxied: bool) -> Request<'a> {
        self.behind_proxy = is_proxied;
        self
    }

    /// Whether a proxy has passed it on.
    pub fn forwarded(&self) -> bool {
        let traces = ["forwarded", "via"];
        self.behind_proxy
            || self.fields.iter().any(|(name, _)| {
                let name = name.to_ascii_lowercase();
                traces.contains(&name.as_str()) || name.starts_with("x-forwarded-")
            })
    }

    fn values(&self, name: &str) -> impl Iterator<Item = Result<&'a str, Refusal>> {
        self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| {
            let ascii = value.is_ascii().then(|| str::from_utf8(value).ok()).flatten();
            ascii.ok_or_else(|| Refusal::bad("a header value that is not ASCII"))
        })
    }

    /// No request here has a body, so a head that announces one (or is unclear about it) is refused.
    fn check_framing(&self) -> Result<(), Refusal> {
        if self.values("transfer-encoding").next().is_some() {
            return Err(Refusal::bad("Transfer-Encoding is not accepted"));
        }
        match self.one("content-length")? {
            None | Some("0") => {}
            Some(_) => return Err(Refusal::bad("a request body is not accepted")),
        }
        match self.one("host")? {
            Some(host) if is_host(host) => Ok(()),
            Some(_) => Err(Refusal::bad("a malformed Host header")),
            None => Err(Refusal::bad("exactly one Host header is needed")),
        }
    }
}

fn is_host(host: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%');
    !host.is_empty() && host.len() <= 255 && host.bytes().all(ok)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
