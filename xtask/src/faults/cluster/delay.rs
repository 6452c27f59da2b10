//! A long way: a pipe to a gateway on which every byte arrives later, either way.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

const DELAY: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one direction of a connection.
const UNDER_WAY_MAX: usize = 1_024;

/// Pipes to all of these; they end with it.
pub struct Far {
    pub addresses: Vec<SocketAddr>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Far {
    pub fn from(gateways: &[SocketAddr]) -> anyhow::Result<Far> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut addresses = Vec::new();
        for gateway in gateways {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("no port for a pipe")?;
            addresses.push(listener.local_addr()?);
            runtime.spawn(serve(listener, *gateway));
        }
        Ok(Far { addresses, runtime: Some(runtime) })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, gateway: SocketAddr) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A gateway that is not there closes the pipe, as it would refuse the connection.
            if let Ok(server) = TcpStream::connect(gateway).await {
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let named = client.local_addr().map(|pipe| (pipe.to_string(), gateway.to_string())).ok();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::join!(carry(from_client, to_server, named), carry(from_server, to_client, None));
            }
        });
    }
}

/// `named`: an address in the first bytes, the request for an upgrade, and what is put in its place: development auth wants
/// to be asked for by the gateway's own.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut named: Option<(String, String)>) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let read = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            let bytes = match named.take() {
                Some((pipe, gateway)) => String::from_utf8_lossy(&chunk[..count]).replace(&pipe, &gateway).into_bytes(),
                None => chunk[..count].to_vec(),
            };
            if sender.send((Instant::now() + DELAY, bytes)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
