//! Where the owners of partitions are: at addresses that are tried one after the other, in this process, or where a
//! registry says.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_gateway_core::link::{PartitionId, Partitions};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

/// What an in-process control is called.
const IN_PROCESS: &str = "http://control.in-process";

/// How owners are found.
#[derive(Clone, Debug)]
pub enum Topology {
    /// Each of them may own any partition; those that do not own one refuse it.
    Fixed(Arc<[String]>),
    InProcess(mpsc::Sender<DuplexStream>),
    Registry(watch::Receiver<Owners>),
}

/// What a registry says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Not known before the registry has answered.
    pub partitions: Option<Partitions>,
    pub at: BTreeMap<PartitionId, OwnerAt>,
}

/// One partition's owner. A change of any of it makes another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerAt {
    /// `http://host:port`.
    pub address: String,
    pub incarnation: u64,
    /// None while it takes over.
    pub owner_epoch: Option<u64>,
}

impl Topology {
    pub fn fixed(addresses: &[String]) -> Topology {
        Topology::Fixed(addresses.into())
    }

    /// Whether the number of partitions is known without an attachment.
    pub fn tells_partitions(&self) -> bool {
        matches!(self, Topology::Registry(_))
    }

    /// Waits for a registry; without one for ever.
    pub async fn partitions(&mut self) -> Partitions {
        if let Topology::Registry(owners) = self
            && let Ok(owners) = owners.wait_for(|owners| owners.partitions.is_some()).await
            && let Some(partitions) = owners.partitions
        {
            return partitions;
        }
        std::future::pending().await
    }
}

/// One partition's search for its owner.
#[derive(Debug)]
pub(super) struct Seeker {
    topology: Topology,
    partition: PartitionId,
    /// Of fixed addresses: the one that is tried now, and how many have failed in this round.
    next: usize,
    failed: usize,
    /// Of a registry: whom the last attempt was for.
    sought: Option<OwnerAt>,
}

impl Seeker {
    pub fn new(topology: Topology, partition: PartitionId) -> Seeker {
        // Partitions begin at different addresses, so that their attempts are spread.
        Seeker { topology, partition, next: partition.0 as usize, failed: 0, sought: None }
    }

    /// Where to try next. Waits while nobody owns the partition.
    pub async fn address(&mut self) -> String {
        match &mut self.topology {
            Topology::Fixed(addresses) => addresses[self.next % addresses.len()].clone(),
            Topology::InProcess(_) => IN_PROCESS.to_owned(),
            Topology::Registry(owners) => {
                let partition = self.partition;
                let owner = match owners.wait_for(|owners| owners.at.contains_key(&partition)).await {
                    Ok(owners) => owners.at.get(&partition).cloned(),
                    Err(_) => None,
                };
                match owner {
                    Some(owner) => self.sought.insert(owner).address.clone(),
                    // The registry's thread has ended, and so does the process.
                    None => std::future::pending().await,
                }
            }
        }
    }

    /// It is the one.
    pub fn found(&mut self) {
        self.failed = 0;
    }

    /// It was not. True: there is another one to try at once.
    pub fn missed(&mut self) -> bool {
        let Topology::Fixed(addresses) = &self.topology else { return false };
        self.next = (self.next + 1) % addresses.len();
        self.failed = (self.failed + 1) % addresses.len();
        self.failed > 0
    }

    /// Resolves when another owner is known than the one that was sought last. One that has gone is not another.
    pub async fn moved(&mut self) {
        let Topology::Registry(owners) = &mut self.topology else { return std::future::pending().await };
        let (partition, sought) = (self.partition, self.sought.as_ref());
        let other = |owners: &Owners| owners.at.get(&partition).is_some_and(|owner| Some(owner) != sought);
        if owners.wait_for(other).await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(address: &str, owner_epoch: Option<u64>) -> OwnerAt {
        OwnerAt { address: address.into(), incarnation: 1, owner_epoch }
    }

    #[tokio::test]
    async fn fixed_addresses_are_tried_in_turn_and_one_that_accepted_is_kept() {
        let addresses = ["a", "b", "c"].map(String::from);
        let mut seeker = Seeker::new(Topology::fixed(&addresses), PartitionId(4));
        let mut tried = Vec::new();
        for _ in 0..3 {
            tried.push(seeker.address().await);
            let again_at_once = seeker.missed();
            assert_eq!(again_at_once, tried.len() < 3, "a pause after each round");
        }
        assert_eq!(tried, ["b", "c", "a"]);
        assert_eq!(seeker.address().await, "b");
        seeker.missed();
        seeker.found();
        assert_eq!((seeker.address().await, seeker.address().await), ("c".to_owned(), "c".to_owned()));
    }

    #[tokio::test]
    async fn one_address_is_tried_again_after_a_pause() {
        let mut seeker = Seeker::new(Topology::fixed(&["a".to_owned()]), PartitionId(0));
        assert!(!seeker.missed());
        assert_eq!(seeker.address().await, "a");
    }

    #[tokio::test]
    async fn a_registry_is_waited_for_and_its_changes_are_told() {
        let (tell, owners) = watch::channel(Owners::default());
        let mut seeker = Seeker::new(Topology::Registry(owners), PartitionId(7));
        let set = |at: &str, epoch| {
            tell.send_modify(|owners| drop(owners.at.insert(PartitionId(7), owner(at, epoch))));
        };
        tokio::select! {
            biased;
            _ = seeker.address() => panic!("nobody owns it"),
            () = tokio::task::yield_now() => {}
        }
        set("a", None);
        assert_eq!(seeker.address().await, "a");
        tell.send_modify(|owners| owners.at.clear());
        tokio::select! {
            biased;
            () = seeker.moved() => panic!("it has gone, and nobody came"),
            () = tokio::task::yield_now() => {}
        }
        set("a", Some(3));
        seeker.moved().await;
        assert_eq!(seeker.address().await, "a");
        set("b", Some(4));
        seeker.moved().await;
        assert_eq!(seeker.address().await, "b");
    }
}
