//! The load of a round: followers, publishers of three kinds, and the judge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_load::clock::Clock;
use tidegate_load::cluster::Cluster as Nodes;
use tidegate_load::fleet::{Fleet, FleetConfig, Judgement};
use tidegate_load::payload::Filling;
use tidegate_load::population::{GroupClass, Population};
use tidegate_load::publish::{self, Endpoints, LoadPlan, Meter, Published, Publishers};
use tidegate_load::scenario::{Phase, Pick, Until, Via};
use tidegate_load::schedule::Schedule;

use super::fault::Fault;
use super::lab::Lab;

/// The class of groups that the clients are spread over.
const CLASS: &str = "room";
const GROUPS: u32 = 8;
/// How long clients may take to be established.
const SETTLE: Duration = Duration::from_secs(90);
/// Nothing new for so long: the clients have shown what they will show.
const QUIET: Duration = Duration::from_secs(15);
/// After everything was shown: time for what must not come.
const MORE: Duration = Duration::from_secs(1);
/// The publishers: how, and their share of the rate.
const LOADS: [(Via, f64, usize); 3] = [(Via::Stream, 0.7, 4_000), (Via::Rest, 0.2, 128), (Via::Clients, 0.1, 64)];
const PAYLOAD_BYTES: usize = 200;

pub struct Load {
    pub fleet: Fleet,
    pub population: Arc<Population>,
    publishers: Publishers,
    endpoints: Endpoints,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub answered: u64,
    pub shown: u64,
    pub reconnects: u64,
}

/// What a round came to.
pub struct Ended {
    pub published: Published,
    pub judgement: Judgement,
    pub reconnects: u64,
    /// Messages that were sent again at the end and did not get their old place.
    pub moved: Vec<String>,
    pub population: Arc<Population>,
}

impl Load {
    /// Connects everybody, then publishes. `through`: where clients connect, if not to the gateways themselves.
    pub fn begin(lab: &Lab, run: &str, through: Option<Vec<SocketAddr>>) -> anyhow::Result<Load> {
        let nodes = Nodes::read(lab.home.json())?;
        let endpoints = nodes.endpoints();
        let class = GroupClass { name: CLASS.to_owned(), count: GROUPS, members: lab.clients.div_ceil(GROUPS) };
        let population = Arc::new(Population::new(run, lab.clients, vec![class], 0));
        let clock = Clock::start();
        let targets = through.unwrap_or_else(|| nodes.clients());
        let config = FleetConfig::following(targets, 2_000.0, LOADS.len());
        let fleet = Fleet::start(config, Arc::clone(&population), clock).context("the clients could not be started")?;
        if !fleet.gather(SETTLE) {
            bail!("not every client was established within {SETTLE:?}: {:?}", fleet.progress());
        }
        let plans = LOADS.iter().enumerate().map(|(number, load)| plan(number, load, lab.rate, &population)).collect();
        let publishers = Publishers::start(plans, endpoints.clone(), Arc::clone(&population), clock)?;
        (0..LOADS.len()).for_each(|number| publishers.begin(number, 0..1, clock.now_us()));
        Ok(Load { fleet, population, publishers, endpoints })
    }

    pub fn mark(&self) -> Mark {
        let progress = self.fleet.progress();
        Mark { answered: self.meter().answered(), shown: progress.shown, reconnects: progress.reconnects }
    }

    pub fn meter(&self) -> Meter {
        self.publishers.meter()
    }

    pub fn grpc(&self) -> &[String] {
        &self.endpoints.grpc
    }

    /// Nothing new is published; what was answered is waited for, then judged.
    pub fn end(self) -> anyhow::Result<Ended> {
        self.publishers.stop();
        let published = self.publishers.finish();
        self.fleet.settle(published.ledger.deliveries(&self.population), QUIET);
        std::thread::sleep(MORE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut moved = Vec::new();
        for load in &published.loads[..2] {
            let samples = &load.samples[..load.samples.len().min(200)];
            let again = publish::send_again(&self.endpoints.grpc[0], samples);
            moved.extend(runtime.block_on(again).context("samples could not be sent again")?);
        }
        let reconnects = self.fleet.progress().reconnects;
        let judgement = self.fleet.judge(&published.ledger);
        Ok(Ended { published, judgement, reconnects, moved, population: self.population })
    }
}

fn plan(number: usize, (via, share, in_flight): &(Via, f64, usize), rate: f64, population: &Population) -> LoadPlan {
    let steady = Phase { name: "steady".to_owned(), per_second: rate * share, until: Until::Stopped };
    // What a client sends to a user is answered with its place in their conversation, which nobody follows.
    let targets = match via {
        Via::Clients => population.class(CLASS).unwrap_or(0..0),
        _ => 0..population.inbox_range().end,
    };
    let schedule = Schedule { load: number as u16, seed: 1, pick: Pick::Turn, targets, phases: vec![steady] };
    LoadPlan {
        schedule,
        via: *via,
        payload_bytes: PAYLOAD_BYTES,
        filling: Filling::Letters,
        in_flight: *in_flight,
        patience: Fault::PATIENCE,
    }
}
