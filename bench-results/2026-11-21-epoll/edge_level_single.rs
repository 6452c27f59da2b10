use std::io::{Read, Write};
use std::time::Duration;
use tidegate_gateway_contract::Listener;
use tidegate_gateway_core::driver::*;
use tidegate_gateway_epoll::*;
fn cpu() -> u64 {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    s.split_whitespace().next().unwrap().parse().unwrap()
}
fn main() {
    let mode = std::env::args().nth(1).unwrap();
    let n = 200u64;
    let rounds = 2000u64;
    let mut d = EpollDriver::open(&EpollConfig::default()).unwrap();
    let l = Listener::new();
    let mut socks = vec![];
    let mut clients = vec![];
    for t in 0..n {
        let (s, c) = l.pair();
        s.set_nodelay(true).unwrap();
        c.set_nodelay(true).unwrap();
        socks.push(d.register(Token(t), s.into()).unwrap());
        clients.push(c);
    }
    if mode == "echo" {
        // all write, then server serves all, then all read: batches
        let h = std::thread::spawn(move || {
            for _ in 0..rounds {
                for c in &mut clients { c.write_all(&[1; 64]).unwrap(); }
                let mut b = [0; 64];
                for c in &mut clients { c.read_exact(&mut b).unwrap(); }
            }
        });
        let mut got = 0;
        let mut out = vec![];
        let a = cpu();
        while got < n * rounds {
            let dl = d.now() + Duration::from_secs(5);
            d.turn(Some(dl), &mut |e| if let Event::Data { token, bytes } = e { out.push((token, bytes::Bytes::copy_from_slice(bytes))) });
            for (t, b) in out.drain(..) { got += 1; d.send(t, socks[t.0 as usize], &b, 0); }
        }
        let b = cpu();
        d.flush(&mut |_| {});
        println!("{mode}: {} ns per echo", (b - a) / got);
        h.join().unwrap();
    } else {
        let frame = bytes::Bytes::from(vec![1; 130]);
        let mut buf = vec![0; 130];
        let mut total = 0;
        for _ in 0..rounds {
            let a = cpu();
            for t in 0..n { d.send(Token(t), socks[t as usize], &frame, 0); }
            d.flush(&mut |e| panic!("{e:?}"));
            total += cpu() - a;
            for c in &mut clients { c.read_exact(&mut buf).unwrap(); }
        }
        println!("{mode}: {} ns per send", total / (n * rounds));
    }
}
