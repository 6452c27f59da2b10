//! The server's certificate is replaced while messages flow: on a thread of its own, since it waits for the server.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Run;
use crate::result::CertificateSwap;
use crate::tls::{Connector, Pair, PairFiles};

/// How long the server may show newcomers the old certificate.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// A gateway whose certificate files are ours.
#[derive(Clone, Debug)]
pub struct Successor {
    /// What the gateway is to show after it read its files again.
    pub pair: Pair,
    pub files: PairFiles,
}

/// What became of the swap. `Err`: why the new certificate was not shown.
pub type Swapped = Result<CertificateSwap, String>;

pub enum Swap {
    /// The scenario asks for none, or the run was interrupted before it.
    No,
    At(u64),
    Under(JoinHandle<Swapped>),
    Done(Swapped),
}

impl Swap {
    pub fn new(run: &Run<'_>, base_us: u64) -> Swap {
        run.scenario.swap_after.map_or(Swap::No, |after| Swap::At(base_us + after.as_micros() as u64))
    }

    pub fn is_open(&self) -> bool {
        matches!(self, Swap::At(_) | Swap::Under(_))
    }

    pub fn look(&mut self, run: &Run<'_>) {
        *self = match std::mem::replace(self, Swap::No) {
            Swap::At(_) if run.stop.is_set() => Swap::No,
            Swap::At(at_us) if run.clock.now_us() >= at_us => begin(run),
            Swap::Under(thread) if thread.is_finished() => Swap::Done(
                thread.join().unwrap_or_else(|_| Err("the thread that replaces the certificate broke".into())),
            ),
            other => other,
        };
    }

    pub fn end(self) -> Option<Swapped> {
        match self {
            Swap::Done(swapped) => Some(swapped),
            Swap::No | Swap::At(_) | Swap::Under(_) => None,
        }
    }
}

fn begin(run: &Run<'_>) -> Swap {
    let tls = run.options.tls.as_ref();
    let Some((tls, successor)) = tls.and_then(|tls| Some((tls, tls.successor.clone()?))) else {
        return Swap::Done(Err("the certificate files of this gateway are not ours".to_owned()));
    };
    let Some(server) = run.options.clients.first().copied() else {
        return Swap::Done(Err("there is no gateway".to_owned()));
    };
    let connector = tls.connector.clone();
    let thread = thread::Builder::new().name("swap".into()).spawn(move || replace(&connector, server, &successor));
    thread.map_or_else(|error| Swap::Done(Err(format!("no thread to replace the certificate: {error}"))), Swap::Under)
}

fn replace(connector: &Connector, server: SocketAddr, successor: &Successor) -> Swapped {
    let shown = || connector.shown(server).map_err(|error| format!("a newcomer found no TLS: {error}"));
    if shown()? == *successor.pair.certificate() {
        return Err("the new certificate was shown before its files were".to_owned());
    }
    let since = Instant::now();
    successor.pair.write(&successor.files).map_err(|error| format!("the certificate was not replaced: {error}"))?;
    let mut handshakes = 1;
    while shown()? != *successor.pair.certificate() {
        if since.elapsed() > PATIENCE {
            return Err(format!("newcomers are shown the old certificate {PATIENCE:?} after it was replaced"));
        }
        handshakes += 1;
        thread::sleep(LOOK);
    }
    Ok(CertificateSwap { shown_after_ms: since.elapsed().as_secs_f64() * 1000.0, handshakes })
}
