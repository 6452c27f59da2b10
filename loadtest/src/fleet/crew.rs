//! The thread of a fleet: connects, reads, lets the clients answer, sleeps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use super::ramp::{Ramp, pause_us};
use super::seat::Seat;
use super::{Desk, Drain, FleetConfig, Judgement, Progress, Wish};
use crate::client::{Client, Context, Ending, Shared};
use crate::clock::Clock;
use crate::judge::{self, Ledger};
use crate::net::{Event, Network, Reading, Sock, thread_cpu_us};
use crate::population::{ClientNo, Population};

/// The receive buffer of slow clients: when they stop reading, the server feels it soon.
const SLOW_RECEIVE_BUFFER: u32 = 16 * 1024;
/// Longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What is to be done with a socket, after the events that were reaped with its cause.
#[derive(Debug)]
enum Action {
    Send(u32, Sock, Vec<u8>),
    Read(Sock, Reading),
    Close(Sock),
}

#[derive(Debug)]
pub(super) struct Crew {
    config: FleetConfig,
    clock: Clock,
    shared: Shared,
    seats: Vec<Seat>,
    ramp: Ramp,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    actions: Vec<Action>,
    out: Vec<u8>,
    progress: Progress,
    /// When what is handled now was reaped.
    now_us: u64,
}

/// The clients after their end.
#[derive(Debug)]
pub(super) struct Ended {
    config: FleetConfig,
    clients: Vec<Client>,
    shared: Shared,
}

impl Crew {
    pub fn new(config: FleetConfig, population: Arc<Population>, clock: Clock) -> Crew {
        let connections = population.connections();
        Crew {
            seats: (0..connections)
                .map(|number| Seat::new(ClientNo(number), &population, config.targets.len()))
                .collect(),
            ramp: Ramp::new(connections, config.ramp_per_second, clock.now_us()),
            shared: Shared::new(population, config.mode, config.loads).over_compression(config.compression),
            config,
            clock,
            timers: BinaryHeap::new(),
            actions: Vec::new(),
            out: Vec::new(),
            progress: Progress::default(),
            now_us: 0,
        }
    }

    pub fn run(mut self, mut network: Network, desk: &Desk) -> Ended {
        let every_us = match self.config.drain {
            Drain::Armed => None,
            Drain::Timer { every } => Some((every.as_micros() as u64).max(1)),
        };
        let mut next_pass_us = every_us.map(|every| self.clock.now_us() + every);
        loop {
            self.now_us = self.clock.now_us();
            let is_last = self.obey(desk);
            self.do_what_is_due(&mut network);
            self.perform(&mut network);
            let mut late_us = None;
            if let (Some(every), Some(due)) = (every_us, next_pass_us)
                && (due <= self.now_us || is_last)
            {
                late_us = Some(self.now_us.saturating_sub(due));
                next_pass_us = Some((due + every).max(self.now_us.saturating_sub(every)));
                network.read_all(&mut |event| self.event(event));
                self.perform(&mut network);
            }
            let mut woke_us = None;
            let timeout = if is_last { Duration::ZERO } else { self.sleep_for(next_pass_us) };
            network.turn(timeout, &mut |event| {
                self.event(event);
                woke_us.get_or_insert(self.now_us);
            });
            self.perform(&mut network);
            if every_us.is_none() {
                late_us = woke_us.map(|woke| self.clock.now_us() - woke);
            }
            self.note(desk, late_us);
            if is_last {
                break;
            }
        }
        self.shared.memo.flush(&mut self.shared.tally);
        let clients = self.seats.into_iter().map(|seat| seat.client).collect();
        Ended { config: self.config, clients, shared: self.shared }
    }

    /// Whether the fleet is to end.
    fn obey(&mut self, desk: &Desk) -> bool {
        let wishes = std::mem::take(&mut *desk.wishes());
        let mut ends = false;
        for wish in wishes {
            match wish {
                Wish::End => ends = true,
                Wish::Sample(stream, answer) => {
                    let _ = answer.send(self.shared.memo.newest(stream).map(<[u8]>::to_vec));
                }
                Wish::Away(clients, time) => {
                    for number in clients.start..clients.end.min(self.seats.len() as u32) {
                        let seat = &mut self.seats[number as usize];
                        seat.away_until_us = self.now_us + time.as_micros() as u64;
                        if seat.sock.is_some() {
                            self.ended(number, None);
                        }
                    }
                }
                Wish::Pause(clients, is_paused) => {
                    for number in clients.start..clients.end.min(self.seats.len() as u32) {
                        self.seats[number as usize].is_paused = is_paused;
                        self.choose_reading(number);
                    }
                }
            }
        }
        ends
    }

    fn do_what_is_due(&mut self, network: &mut Network) {
        while let Some((number, attempt)) = self.ramp.late(self.now_us) {
            let seat = &self.seats[number as usize];
            if seat.attempt == attempt && seat.sock.is_some() && !seat.is_up {
                self.ended(number, Some(Ending::Refused));
            }
        }
        while let Some(number) = self.ramp.due(self.now_us) {
            match self.seats[number as usize].away_until_us {
                until_us if until_us > self.now_us => self.ramp.come_back(number, until_us),
                _ => self.connect(number, network),
            }
        }
        while let Some(Reverse((at_us, number))) = self.timers.peek().copied()
            && at_us <= self.now_us
        {
            self.timers.pop();
            self.seats[number as usize].timer_us = u64::MAX;
            if self.seats[number as usize].sock.is_some() {
                self.with_seat(number, |seat, _, cx| {
                    seat.client.timeout(cx);
                    Ok(())
                });
            }
        }
    }

    fn connect(&mut self, number: u32, network: &mut Network) {
        let receive_buffer = self.config.slow.contains(&number).then_some(SLOW_RECEIVE_BUFFER);
        let seat = &mut self.seats[number as usize];
        seat.attempt += 1;
        let connecting = network.connect(number, seat.target, receive_buffer);
        self.ramp.opens(number, seat.attempt, self.now_us);
        match connecting {
            Ok(sock) => seat.sock = Some(sock),
            Err(_) => self.ended(number, Some(Ending::Refused)),
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Reaped => self.now_us = self.clock.now_us(),
            Event::Connected { owner, sock } => {
                self.with_seat(owner, |seat, config, cx| seat.open(config, cx));
                let reading = match self.config.drain {
                    Drain::Armed => Reading::Multishot,
                    Drain::Timer { .. } => Reading::Armed,
                };
                self.actions.push(Action::Read(sock, reading));
            }
            Event::Bytes { owner, sock, bytes } => {
                if self.seats[owner as usize].sock != Some(sock) {
                    return;
                }
                self.progress.reads += 1;
                self.progress.bytes += bytes.len() as u64;
                self.with_seat(owner, |seat, config, cx| seat.input(config, bytes, cx));
                self.check_established(owner);
            }
            Event::Ended { owner, sock, .. } => {
                if self.seats[owner as usize].sock == Some(sock) {
                    self.ended(owner, None);
                }
            }
        }
    }

    /// Calls a client, sends what it says, and ends its connection if that is what came of it.
    fn with_seat(
        &mut self,
        number: u32,
        call: impl FnOnce(&mut Seat, &FleetConfig, &mut Context<'_>) -> Result<(), Ending>,
    ) {
        let seat = &mut self.seats[number as usize];
        let mut cx = Context {
            shared: &mut self.shared,
            client: ClientNo(number),
            is_slow: self.config.slow.contains(&number),
            now_us: self.now_us,
            out: &mut self.out,
        };
        let called = call(seat, &self.config, &mut cx);
        let said = seat.output(&mut cx);
        if let Some(at_us) = seat.client.next_timeout_us().filter(|at_us| *at_us < seat.timer_us) {
            seat.timer_us = at_us;
            self.timers.push(Reverse((at_us, number)));
        }
        let sock = seat.sock;
        let ending = match (called, said) {
            (called, Ok(said)) => {
                let said = Some(said).filter(|said| !said.is_empty());
                self.actions.extend(sock.zip(said).map(|(sock, said)| Action::Send(number, sock, said)));
                called.err()
            }
            (Err(ending), Err(_)) | (Ok(()), Err(ending)) => Some(ending),
        };
        if ending.is_some() {
            self.ended(number, ending);
        }
    }

    fn check_established(&mut self, number: u32) {
        let seat = &mut self.seats[number as usize];
        if seat.is_up || !seat.client.is_established() {
            return;
        }
        self.progress.established += 1;
        self.progress.reconnects += u64::from(seat.was_up);
        self.ramp.opening -= 1;
        (seat.is_up, seat.was_up, seat.failures) = (true, true, 0);
        self.choose_reading(number);
    }

    fn choose_reading(&mut self, number: u32) {
        let seat = &self.seats[number as usize];
        let (Some(sock), true) = (seat.sock, seat.is_up) else { return };
        let reading = match (seat.is_paused, self.config.drain) {
            (true, _) => Reading::Paused,
            (false, Drain::Armed) => Reading::Multishot,
            (false, Drain::Timer { .. }) => Reading::OnDemand,
        };
        self.actions.push(Action::Read(sock, reading));
    }

    /// A connection ended, or could not be made. `ending`: by a word of the server's or ours.
    fn ended(&mut self, number: u32, ending: Option<Ending>) {
        let seat = &mut self.seats[number as usize];
        self.actions.extend(seat.sock.take().map(Action::Close));
        if std::mem::take(&mut seat.is_up) {
            self.progress.established -= 1;
            self.progress.closed += 1;
        } else {
            self.progress.failed += 1;
            self.ramp.opening -= 1;
        }
        seat.disconnected(&mut self.shared.tally);
        seat.target = (seat.target + 1) % self.config.targets.len().max(1);
        if !self.config.reconnect || ending == Some(Ending::Final) {
            return;
        }
        let pause_us = match ending {
            Some(Ending::Closed { after_ms }) if after_ms > 0 => u64::from(after_ms) * 1000,
            _ => pause_us(seat.failures),
        };
        seat.failures = seat.failures.saturating_add(1);
        self.ramp.come_back(number, self.now_us + pause_us);
    }

    fn perform(&mut self, network: &mut Network) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Read(sock, reading) => network.set_reading(sock, reading),
                    Action::Close(sock) => network.close(sock),
                    Action::Send(number, sock, bytes) => {
                        if !network.send(sock, &bytes) {
                            self.ended(number, None);
                        }
                    }
                }
            }
        }
    }

    fn sleep_for(&self, next_pass_us: Option<u64>) -> Duration {
        let timer = self.timers.peek().map(|Reverse((at_us, _))| *at_us);
        let next = next_pass_us.into_iter().chain(timer).chain(self.ramp.next_us()).min();
        let now_us = self.clock.now_us();
        next.map_or(SLEEP_MAX, |at_us| Duration::from_micros(at_us.saturating_sub(now_us)).min(SLEEP_MAX))
    }

    fn note(&mut self, desk: &Desk, late_us: Option<u64>) {
        let tally = &self.shared.tally;
        self.progress.shown = tally.received;
        self.progress.frames = tally.frames;
        self.progress.behind = tally.behind;
        self.progress.gaps = tally.gaps;
        self.progress.findings = tally.found;
        let mut notes = desk.notes();
        notes.progress = self.progress;
        notes.cpu_us = thread_cpu_us();
        if let Some(late_us) = late_us {
            notes.lag_us.saturating_record(late_us.max(1));
        }
    }
}

impl Ended {
    pub fn judge(self, ledger: &Ledger, population: &Population) -> Judgement {
        let Ended { config, clients, shared } = self;
        let numbered = || clients.iter().zip(0u32..);
        let standings = numbered()
            .flat_map(|(client, number)| client.standings(ClientNo(number), config.slow.contains(&number)))
            .collect();
        let mut judgement = judge::judge(standings, shared.tally, &shared.evidence, ledger, population);
        let gapped = |(client, number): &(&Client, u32)| config.slow.contains(number) && client.had_gap();
        judgement.slow_with_gap = numbered().filter(gapped).count() as u32;
        judgement
    }
}
