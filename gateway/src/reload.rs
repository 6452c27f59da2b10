//! Certificates and keys are read again when one of their files changes, and on request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidegate_gateway_tls::Acceptor;
use tracing::{error, info, warn};

/// Files are looked at so often. A look is a few stat(2), and sees a swapped link too, which is how mounted secrets change.
const LOOK: Duration = Duration::from_secs(1);

/// The thread that looks.
#[derive(Debug)]
pub struct TlsReload {
    orders: SyncSender<Order>,
    thread: JoinHandle<()>,
    status: Arc<TlsStatus>,
}

/// What became of reloads.
#[derive(Debug)]
pub struct TlsStatus {
    acceptor: Arc<Acceptor>,
    done: AtomicU64,
    failed: AtomicU64,
}

enum Order {
    Now,
    Stop,
}

impl TlsReload {
    pub fn start(acceptor: Arc<Acceptor>) -> io::Result<TlsReload> {
        let (orders, taken) = mpsc::sync_channel(1);
        let status = Arc::new(TlsStatus { acceptor, done: AtomicU64::new(0), failed: AtomicU64::new(0) });
        let looked = Arc::clone(&status);
        let thread = thread::Builder::new().name("tls-reload".into()).spawn(move || look(&looked, &taken))?;
        Ok(TlsReload { orders, thread, status })
    }

    pub fn status(&self) -> Arc<TlsStatus> {
        Arc::clone(&self.status)
    }

    /// An order that waits already stands for this one.
    pub fn now(&self) {
        let _ = self.orders.try_send(Order::Now);
    }

    pub fn stop(self) {
        // Without a thread left there is nothing to stop.
        let _ = self.orders.send(Order::Stop);
        if self.thread.join().is_err() {
            warn!("the thread that reloads certificates panicked");
        }
    }
}

impl TlsStatus {
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// When the first certificate in use expires, in seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.acceptor.expires_at()
    }

    fn reload(&self) {
        match self.acceptor.reload() {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                info!(expires_at = self.expires_at(), "certificates read again");
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(%error, cause, "certificates cannot be used: the ones in use stay in use");
            }
        }
    }
}

fn look(status: &TlsStatus, orders: &mpsc::Receiver<Order>) {
    let mut stamp = status.acceptor.stamp();
    loop {
        match orders.recv_timeout(LOOK) {
            Ok(Order::Now) => {}
            Err(RecvTimeoutError::Timeout) if status.acceptor.stamp() == stamp => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        stamp = status.acceptor.stamp();
        status.reload();
    }
}
