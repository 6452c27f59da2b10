//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context as _;

/// Below the range that the kernel gives to outgoing connections (from 32768): one of these could take a server's port
/// between our look and its start.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// So many ports that nobody listens on. `wanted`, those of the last time, if all are free.
pub fn choose(count: usize, wanted: &[u16], taken: &[u16]) -> anyhow::Result<Vec<u16>> {
    if wanted.len() == count && wanted.iter().all(|port| is_free(*port)) {
        return Ok(wanted.to_vec());
    }
    // Another start in another process, so that two homes on one machine seldom meet.
    let begin = FIRST + (std::process::id() % u32::from(LAST - FIRST)) as u16;
    let ports: Vec<u16> =
        (begin..LAST).chain(FIRST..begin).filter(|port| !taken.contains(port) && is_free(*port)).take(count).collect();
    (ports.len() == count).then_some(ports).with_context(|| format!("no {count} free ports in {FIRST}–{LAST}"))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_last_time_are_kept_while_they_are_free() {
        let first = choose(2, &[], &[]).expect("two ports");
        assert_eq!(choose(2, &first, &[]).expect("the same"), first);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, first[1])).expect("still free");
        let second = choose(2, &first, &[]).expect("others");
        assert!(!second.contains(&first[1]));
        let third = choose(2, &[], &second).expect("others");
        assert!(third.iter().all(|port| !second.contains(port)));
        drop(held);
    }
}
