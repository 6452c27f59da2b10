//! The attachments to control: for each partition one tonic bidirectional stream to its owner, dialled by the gateway,
//! batches both ways. Those to the same node share connections.
//!
//! A task per partition connects, says hello, hands the hub thread a channel for what goes up and passes on what comes
//! down; when the stream breaks, or another owner is known, it says so and dials again, after a growing, jittered pause
//! where nothing better is known. It holds no state of its own: what an attachment forgot, the hub announces to the next.
//!
//! Invariants: values of one attachment never reach another, because the way up is a channel that dies with it; an
//! invalid item ends its attachment, not the process; and what a partition's task says stays in order, so that the end of
//! an attachment comes before the beginning of the next.

mod attach;
mod backoff;
mod channels;
pub mod convert;
mod states;
mod topology;
mod up;

use std::sync::Arc;

use tidegate_gateway_core::link::{FromLink, PartitionId, Partitions};
use tidegate_proto::v1;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::LinkSettings;
use crate::platforms::PlatformTable;
use attach::{Attaching, Link};
use channels::Channels;
pub use states::LinkStates;
pub use topology::{OwnerAt, Owners, Topology};
pub use up::{Flushed, UpQueues};

/// Batches from control that wait for the hub thread; beyond, HTTP/2 flow control holds control back.
const DOWN_BATCHES_MAX: usize = 16;

/// Where control is.
#[derive(Clone, Debug)]
pub enum LinkTarget {
    /// Where the configuration says.
    Configured,
    /// In this process: the gateway makes a duplex pair per connection and sends the server's end.
    InProcess(mpsc::Sender<DuplexStream>),
}

/// What the links tell the hub thread.
#[derive(Debug)]
pub enum LinkEvent {
    Up(Attached),
    Items(PartitionId, Vec<FromLink>),
    Down(PartitionId),
}

/// A new attachment, and the way up to it.
#[derive(Debug)]
pub struct Attached {
    pub partition: PartitionId,
    pub partitions: Partitions,
    pub history: Option<u64>,
    pub up: mpsc::Sender<v1::LinkUp>,
}

/// What identifies this process to control.
#[derive(Clone, Debug)]
pub struct Identity {
    pub gateway: String,
    /// New at every start.
    pub incarnation: u64,
}

/// The tasks that keep the gateway attached.
pub struct LinkSet {
    pub topology: Topology,
    pub settings: LinkSettings,
    pub identity: Identity,
    pub platforms: Arc<PlatformTable>,
    pub states: Arc<LinkStates>,
}

/// The events' receiving end is the hub thread.
pub fn events() -> (mpsc::Sender<LinkEvent>, mpsc::Receiver<LinkEvent>) {
    mpsc::channel(DOWN_BATCHES_MAX)
}

impl LinkSet {
    /// Runs until the receiver of the events is gone and the attachments that exist have ended: control, seeing that
    /// nothing more comes up, closes them.
    ///
    /// Without a registry the first partition is asked for the number of all.
    pub async fn run(self, events: mpsc::Sender<LinkEvent>) {
        let LinkSet { mut topology, settings, identity, platforms, states } = self;
        let shared = Arc::new(Attaching { channels: Channels::new(&topology), settings, identity, platforms });
        let mut tasks = JoinSet::new();
        let mut begin = |topology: &Topology, partition: PartitionId| {
            let link = Link::new(Arc::clone(&shared), topology.clone(), partition, Arc::clone(&states));
            tasks.spawn(link.run(events.clone()));
        };
        let is_told = topology.tells_partitions();
        if !is_told {
            begin(&topology, PartitionId(0));
        }
        let known = async {
            if is_told {
                let told = topology.partitions().await;
                // Nobody was attached before.
                let _ = states.agree(told);
            }
            states.partitions().await
        };
        let partitions = tokio::select! {
            partitions = known => partitions,
            () = events.closed() => return,
        };
        for partition in partitions.all().skip(usize::from(!is_told)) {
            begin(&topology, partition);
        }
        while tasks.join_next().await.is_some() {}
    }
}
