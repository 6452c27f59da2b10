//! A driver around a driver, which keeps each connection's [`Seat`] until its socket is closed. Where connections per address
//! are not bounded there are no seats, and it takes no memory.

use tidegate_gateway_core::driver::{CloseHow, Driver, Event, RegisterError, Socket, Token};
use tidegate_gateway_core::ids::Now;

use crate::addresses::Seat;

/// A connection on its way to a shard, with what counts it.
pub struct Arriving<I> {
    pub connection: I,
    pub seat: Option<Seat>,
}

/// See the module.
pub struct Seated<D> {
    inner: D,
    /// By the low half of the token, which is an index.
    seats: Vec<Option<Seat>>,
}

impl<D> Seated<D> {
    pub fn new(inner: D) -> Seated<D> {
        Seated { inner, seats: Vec::new() }
    }
}

fn index(token: Token) -> usize {
    (token.0 & u64::from(u32::MAX)) as usize
}

impl<D: Driver> Driver for Seated<D> {
    type Incoming = Arriving<D::Incoming>;

    fn register(&mut self, token: Token, arriving: Self::Incoming) -> Result<Socket, (RegisterError, Self::Incoming)> {
        let Arriving { connection, seat } = arriving;
        match self.inner.register(token, connection) {
            Ok(socket) => {
                if seat.is_some() {
                    if self.seats.len() <= index(token) {
                        self.seats.resize_with(index(token) + 1, || None);
                    }
                    self.seats[index(token)] = seat;
                }
                Ok(socket)
            }
            Err((error, connection)) => Err((error, Arriving { connection, seat })),
        }
    }

    fn send(&mut self, token: Token, socket: Socket, frame: &bytes::Bytes, from: usize) {
        self.inner.send(token, socket, frame, from);
    }

    fn watch_writable(&mut self, token: Token, socket: Socket) {
        self.inner.watch_writable(token, socket);
    }

    fn close(&mut self, token: Token, socket: Socket, how: CloseHow) {
        self.inner.close(token, socket, how);
    }

    fn flush(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        let Seated { inner, seats } = self;
        inner.flush(&mut |event| pass(seats, event, on_event));
    }

    fn turn(&mut self, deadline: Option<Now>, on_event: &mut dyn FnMut(Event<'_>)) {
        let Seated { inner, seats } = self;
        inner.turn(deadline, &mut |event| pass(seats, event, on_event));
    }

    fn now(&self) -> Now {
        self.inner.now()
    }
}

fn pass(seats: &mut [Option<Seat>], event: Event<'_>, on_event: &mut dyn FnMut(Event<'_>)) {
    if let Event::Closed { token } = event
        && let Some(seat) = seats.get_mut(index(token))
    {
        *seat = None;
    }
    on_event(event);
}
