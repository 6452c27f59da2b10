//! A way to the server that can be broken.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// How many connections there were.
    accepted: u64,
    /// Connections up to this one have ended.
    cut: u64,
    /// On connections up to this one nothing is carried any more, and nobody is told.
    deaf: u64,
    /// New connections end at once.
    away: bool,
}

impl Proxy {
    /// Ends with the runtime of its test.
    pub async fn before(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (state, _) = watch::channel(State::default());
        let (accepting, server) = (state.clone(), server.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepting.send_modify(|state| state.accepted += 1);
                let State { accepted, away, .. } = *accepting.borrow();
                if away {
                    continue;
                }
                tokio::spawn(carry(client, server.clone(), accepted, accepting.subscribe()));
            }
        });
        Proxy { address, state }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = state.accepted);
    }

    /// Whether new connections end at once.
    pub fn set_away(&self, away: bool) {
        self.state.send_modify(|state| state.away = away);
    }

    /// Carries nothing on the connections that there are, as a network does that has lost them.
    pub fn deafen(&self) {
        self.state.send_modify(|state| state.deaf = state.accepted);
    }

    /// Neither what there is nor what comes carries anything.
    pub fn deafen_for_good(&self) {
        self.state.send_modify(|state| state.deaf = u64::MAX);
    }
}

async fn carry(client: TcpStream, server: String, number: u64, mut state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
    }
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let is_deaf = state.clone();
    tokio::select! {
        () = pipe(client_in, server_out, number, is_deaf.clone()) => {}
        () = pipe(server_in, client_out, number, is_deaf) => {}
        _ = state.wait_for(|state| state.cut >= number) => {}
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u64, state: watch::Receiver<State>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        let deaf = state.borrow().deaf >= number;
        if !deaf && to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
