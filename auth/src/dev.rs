//! Development auth: `?uid=alice` without a token, and pushes without a credential, but only from this very machine and
//! never through a web page of somebody else.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Name of the development key in a data folder.
pub const KEY_FILE: &str = "dev.key";
const KEY_BYTES: usize = 32;

/// The parts of a request that development auth looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFacts<'a> {
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    /// Any of `Forwarded`, `X-Forwarded-*`, `Via` is present.
    pub forwarded: bool,
}

/// Why development auth does not apply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLocal {
    #[error("development auth needs a loopback listener")]
    Listener,
    #[error("development auth needs Host to be localhost, 127.0.0.1 or [::1] with our port")]
    Host,
    #[error("development auth refuses this Origin")]
    Origin,
    #[error("development auth refuses forwarded requests")]
    Forwarded,
}

/// The listener a request came to and the ports that this process (or its twin in `dev`) serves pages on.
#[derive(Clone, Debug)]
pub struct DevRules {
    pub listener: SocketAddr,
    /// The listener's twin that speaks TLS.
    pub tls_port: Option<u16>,
    /// Client and control HTTP ports: pages served from them may talk to us.
    pub own_ports: Vec<u16>,
}

impl DevRules {
    /// Whether a request without credentials may name its own uid, or push.
    pub fn check(&self, request: RequestFacts<'_>) -> Result<(), NotLocal> {
        if !self.listener.ip().is_loopback() {
            return Err(NotLocal::Listener);
        }
        if request.forwarded {
            return Err(NotLocal::Forwarded);
        }
        let is_ours = |port: u16| port == self.listener.port() || Some(port) == self.tls_port;
        let host_ok = request.host.and_then(local_port).is_some_and(|port| is_ours(port.unwrap_or(80)));
        if !host_ok {
            return Err(NotLocal::Host);
        }
        match request.origin {
            None => Ok(()),
            Some(origin) => {
                let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
                let port = authority.and_then(local_port).map(|port| port.unwrap_or(80));
                if port.is_some_and(|port| self.own_ports.contains(&port)) { Ok(()) } else { Err(NotLocal::Origin) }
            }
        }
    }
}

/// `Some(port)` if the authority names this machine by one of the three spellings.
fn local_port(authority: &str) -> Option<Option<u16>> {
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    };
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return None;
    }
    match port {
        None => Some(None),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok().map(Some),
        Some(_) => None,
    }
}

/// Whether development auth may be switched on for this address at all.
pub fn may_listen_on(ip: IpAddr) -> bool {
    ip.is_loopback()
}

/// A valid uid or gid, `[A-Za-z0-9_.@-]{1,64}`.
pub fn is_name(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'-');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(ok)
}

/// The development signing key of a data folder, made at first use (mode 0600) and kept across restarts.
pub fn dev_key(data_dir: &Path) -> io::Result<Vec<u8>> {
    let path: PathBuf = data_dir.join(KEY_FILE);
    match read_key(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    fs::create_dir_all(data_dir)?;
    let mut secret = [0u8; KEY_BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    // Written aside and linked into place: two processes that start at once agree on one key.
    let aside = data_dir.join(format!("{KEY_FILE}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, &path);
    fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read_key(&path),
    }
}

fn read_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut secret = Vec::with_capacity(KEY_BYTES);
    fs::File::open(path)?.take(4096).read_to_end(&mut secret)?;
    if secret.len() < KEY_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the development key is too short; delete it to get a new one",
        ));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> DevRules {
        DevRules { listener: "127.0.0.1:8080".parse().expect("address"), tls_port: None, own_ports: vec![8080, 8090] }
    }

    fn facts<'a>(host: &'a str, origin: Option<&'a str>) -> RequestFacts<'a> {
        RequestFacts { host: Some(host), origin, forwarded: false }
    }

    #[test]
    fn local_requests_are_accepted() {
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(rules().check(facts(host, None)), Ok(()));
            assert_eq!(rules().check(facts(host, Some("http://localhost:8090"))), Ok(()));
        }
    }

    #[test]
    fn foreign_hosts_origins_and_proxies_are_refused() {
        let bad =
            ["evil.example:8080", "localhost:8081", "localhost", "127.0.0.1.evil.example:8080", "localhost:+8080", ""];
        for host in bad {
            assert_eq!(rules().check(facts(host, None)), Err(NotLocal::Host), "{host}");
        }
        for origin in
            ["http://evil.example", "null", "http://localhost:9999", "http://localhost:8090.evil.example", "file://"]
        {
            assert_eq!(rules().check(facts("localhost:8080", Some(origin))), Err(NotLocal::Origin), "{origin}");
        }
        let forwarded = RequestFacts { host: Some("localhost:8080"), origin: None, forwarded: true };
        assert_eq!(rules().check(forwarded), Err(NotLocal::Forwarded));
        let open =
            DevRules { listener: "0.0.0.0:8080".parse().expect("address"), tls_port: None, own_ports: vec![8080] };
        assert_eq!(open.check(facts("localhost:8080", None)), Err(NotLocal::Listener));
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("tempdir");
        let data = dir.path().join("data");
        let first = dev_key(&data).expect("made");
        assert_eq!(first, dev_key(&data).expect("kept"));
        let mode = fs::metadata(data.join(KEY_FILE)).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
