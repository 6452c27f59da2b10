//! A client with its connection: attempts, state, and TLS if that is what is spoken.

use super::FleetConfig;
use crate::client::{Client, Context, Ending};
use crate::judge::Tally;
use crate::net::Sock;
use crate::population::{ClientNo, Population};
use crate::tls::{Received, Session, Stopped, TlsError};

#[derive(Debug)]
pub(super) struct Seat {
    pub client: Client,
    pub sock: Option<Sock>,
    /// Of the present connection.
    tls: Option<Box<Session>>,
    /// Attempts to connect so far.
    pub attempt: u32,
    /// Place of the gateway that it is connected to, or that is tried next.
    pub target: usize,
    /// It does not come back before.
    pub away_until_us: u64,
    /// Attempts since it was established.
    pub failures: u8,
    pub is_paused: bool,
    pub is_up: bool,
    pub was_up: bool,
    /// The earliest entry of the client in the fleet's timers.
    pub timer_us: u64,
}

impl Seat {
    /// One of so many gateways is the client's first.
    pub fn new(client: ClientNo, population: &Population, targets: usize) -> Seat {
        Seat {
            target: client.0 as usize % targets.max(1),
            away_until_us: 0,
            client: Client::new(client, population),
            sock: None,
            tls: None,
            attempt: 0,
            failures: 0,
            is_paused: false,
            is_up: false,
            was_up: false,
            timer_us: u64::MAX,
        }
    }

    /// The socket is connected: TLS begins, or the client asks for its upgrade.
    pub fn open(&mut self, config: &FleetConfig, cx: &mut Context<'_>) -> Result<(), Ending> {
        let Some(connector) = &config.tls else {
            self.client.open(config.targets[self.target], cx);
            return Ok(());
        };
        let session = connector.session().map_err(|error| self.broken(&error, cx))?;
        self.tls = Some(Box::new(session));
        Ok(())
    }

    /// Bytes came from the socket.
    pub fn input(&mut self, config: &FleetConfig, bytes: &mut [u8], cx: &mut Context<'_>) -> Result<(), Ending> {
        let server = config.targets[self.target];
        let Seat { client, tls: Some(session), .. } = self else { return self.client.input(bytes, cx) };
        let was_handshaking = session.is_handshaking();
        let received = session.receive(bytes, |opened| client.input(opened, cx));
        if was_handshaking && !session.is_handshaking() && received.is_ok() {
            client.open(server, cx);
        }
        match received {
            Ok(Received::Open) => Ok(()),
            Ok(Received::Ended) => Err(Ending::Closed { after_ms: 0 }),
            Err(Stopped::Reader(ending)) => Err(ending),
            Err(Stopped::Tls(error)) => Err(self.broken(&error, cx)),
        }
    }

    /// What the socket is to send: what the client said, sealed where TLS is spoken. Empties what the client said.
    pub fn output(&mut self, cx: &mut Context<'_>) -> Result<Vec<u8>, Ending> {
        let Some(session) = &mut self.tls else { return Ok(std::mem::take(cx.out)) };
        let sealed = session.transmit(cx.out);
        cx.out.clear();
        sealed.map_err(|error| self.broken(&error, cx))
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, tally: &mut Tally) {
        self.tls = None;
        self.client.disconnected(tally);
    }

    /// There is no TLS with this server: it would be so again.
    fn broken(&self, error: &TlsError, cx: &mut Context<'_>) -> Ending {
        self.client.broken(cx, &format!("TLS: {error}"))
    }
}
