//! What one session of gateway/tls leaves on the heap after its handshake: a program beside a checkout, with rustls (ring,
//! tls12), rcgen (ring), bytes and thiserror.
#[path = "../../gateway/tls/src/session.rs"]
#[allow(dead_code)]
mod session;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
static ON: AtomicBool = AtomicBool::new(false);
const M: usize = 1 << 16;
static TABLE: Mutex<[(usize, usize, u32); M]> = Mutex::new([(0, 0, 0); M]);
static STEP: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
struct A;
unsafe impl GlobalAlloc for A {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        let p = unsafe { System.alloc(l) };
        if ON.load(Ordering::Relaxed) {
            put(p as usize, l.size());
        }
        p
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        del(p as usize);
        unsafe { System.dealloc(p, l) }
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, n: usize) -> *mut u8 {
        del(p as usize);
        let q = unsafe { System.realloc(p, l, n) };
        if ON.load(Ordering::Relaxed) {
            put(q as usize, n);
        }
        q
    }
}
fn put(p: usize, n: usize) {
    let mut t = TABLE.lock().unwrap();
    let mut i = (p >> 4) % M;
    while t[i].0 != 0 {
        i = (i + 1) % M
    }
    t[i] = (p, n, STEP.load(Ordering::Relaxed));
}
fn del(p: usize) {
    let mut t = TABLE.lock().unwrap();
    for e in t.iter_mut() {
        if e.0 == p {
            *e = (0, 0, 0);
            return;
        }
    }
}
#[global_allocator]
static G: A = A;
fn main() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    let config = Arc::new(config);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut cc = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    cc.alpn_protocols = vec![b"http/1.1".to_vec()];
    cc.resumption = rustls::client::Resumption::disabled();
    let cc = Arc::new(cc);
    println!(
        "Session {} UnbufferedServerConnection {}",
        size_of::<session::Session>(),
        size_of::<rustls::server::UnbufferedServerConnection>()
    );
    let mut keep = Vec::with_capacity(16);
    for round in 0..3 {
        let mut client = rustls::ClientConnection::new(cc.clone(), "localhost".try_into().unwrap()).unwrap();
        ON.store(round == 2, Ordering::Relaxed);
        let mut s = Box::new(session::Session::new(config.clone()).unwrap());
        ON.store(false, Ordering::Relaxed);
        for step in 0..6 {
            let mut up = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            let (mut plain, mut answer) = (Vec::with_capacity(9000), Vec::with_capacity(9000));
            STEP.store(step + 1, Ordering::Relaxed);
            ON.store(round == 2, Ordering::Relaxed);
            s.receive(&mut up, &mut plain, &mut answer).unwrap();
            if step == 3 {
                s.seal(b"hello", &mut answer).unwrap();
            }
            ON.store(false, Ordering::Relaxed);
            let mut a = &answer[..];
            while !a.is_empty() {
                client.read_tls(&mut a).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        assert!(!s.is_handshaking());
        keep.push(s);
    }
    let mut sizes: BTreeMap<(usize, u32), usize> = BTreeMap::new();
    for e in TABLE.lock().unwrap().iter().filter(|e| e.0 != 0) {
        *sizes.entry((e.1, e.2)).or_default() += 1;
    }
    let total: usize = sizes.iter().map(|((n, _), c)| n * c).sum();
    for ((n, step), c) in &sizes {
        println!("{c} x {n} (step {step})");
    }
    println!("total {total}");
}
