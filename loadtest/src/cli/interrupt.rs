//! Ctrl-C: the first ends the publishing, the second ends everything.

use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use tidegate_load::run::Stop;
use tokio::signal::unix::{SignalKind, signal};

use super::serve::Served;

/// What a shell expects of a program that SIGINT ended.
const ABORTED: i32 = 130;

/// Holds our own servers, so that they end with us however we end.
pub struct Interrupt {
    served: Arc<Mutex<Option<Served>>>,
}

impl Interrupt {
    pub fn listen(stop: Stop) -> anyhow::Result<Interrupt> {
        let served = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&served);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Registered here, so that no signal is missed before the thread runs.
        let (mut interrupt, mut term) = {
            let _within = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let listen = async move {
            for again in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = term.recv() => {}
                }
                if again {
                    drop(kept.lock().map(|mut served| served.take()));
                    std::process::exit(ABORTED);
                }
                eprintln!("\ninterrupted: what was published is judged; once more ends at once");
                stop.set();
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(move || runtime.block_on(listen)).context("no thread for signals")?;
        Ok(Interrupt { served })
    }

    pub fn keep(&self, served: Served) {
        *self.served.lock().expect("no holder panics") = Some(served);
    }

    pub fn take(&self) -> Option<Served> {
        self.served.lock().expect("no holder panics").take()
    }
}
