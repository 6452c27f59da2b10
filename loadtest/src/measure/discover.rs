//! Finds local servers without being told their process number.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";
/// `TCP_ESTABLISHED`.
const ESTABLISHED: &str = "01";

/// The process that listens on `addr`, or on every address of this machine with that port. `None`: it is not on this
/// machine, or belongs to another user whose descriptors may not be read.
pub fn listener_pid(addr: SocketAddr) -> Option<u32> {
    let inodes = listening_inodes(addr);
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The oldest first: a child that inherited the descriptor does not serve it.
    pids.sort_unstable();
    pids.into_iter().find(|pid| holds(*pid, &links))
}

/// Local and remote ports of the connections that a process has to these ports of this machine.
pub fn connections_to(pid: u32, ports: &[u16]) -> Vec<(u16, u16)> {
    let Ok(text) = fs::read_to_string("/proc/net/tcp") else { return Vec::new() };
    let connection = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
        let (local, remote) = (socket_addr(local)?, socket_addr(remote)?);
        let is_one = *state == ESTABLISHED && ports.contains(&remote.port());
        let is_held = || holds(pid, &[format!("socket:[{inode}]")]);
        (is_one && is_held()).then(|| (local.port(), remote.port()))
    };
    text.lines().skip(1).filter_map(connection).collect()
}

fn holds(pid: u32, links: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
}

/// Inodes of the listening sockets that a connection to `addr` can reach.
fn listening_inodes(addr: SocketAddr) -> Vec<u64> {
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { continue };
            let Some(listener) = (*state == LISTENING).then(|| socket_addr(local)).flatten() else { continue };
            let ip = listener.ip().to_canonical();
            if listener.port() == addr.port() && (ip == addr.ip().to_canonical() || ip.is_unspecified()) {
                inodes.extend(inode.parse::<u64>());
            }
        }
    }
    inodes
}

/// `0100007F:1F90`: words of the address in the machine's byte order, the port as a number.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Vec<u32> = (0..address.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(address.get(at..at + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn we_are_found_by_what_we_listen_on() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue };
            let mut addr = listener.local_addr().expect("bound");
            if addr.ip().is_unspecified() {
                addr.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            assert_eq!(listener_pid(addr), Some(std::process::id()), "{bound}");
            drop(listener);
            assert_eq!(listener_pid(addr), None, "{bound}");
        }
    }

    #[test]
    fn our_connections_are_found_by_where_they_go() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
        let local = stream.local_addr().expect("connected").port();
        assert_eq!(connections_to(std::process::id(), &[port]), [(local, port)]);
        assert!(connections_to(std::process::id(), &[]).is_empty());
    }

    #[test]
    fn addresses_are_in_the_machines_byte_order() {
        assert_eq!(socket_addr("0100007F:1F90"), "127.0.0.1:8080".parse().ok());
        assert_eq!(socket_addr("00000000000000000000000001000000:0050"), "[::1]:80".parse().ok());
        assert_eq!(socket_addr("01007F:1F90"), None);
    }
}
