//! What can be done to a cluster.

use std::time::Duration;

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// `kill -9` of a control node; it is back after 5 s.
    KillControl,
    /// A control node that owns partitions stands still for 30 s and then goes on.
    StopOwner,
    /// `kill -9` of a gateway with its clients.
    KillGateway,
    /// `kill -9` of all gateways at once.
    AllGateways,
    /// Redis loses all that it holds.
    RedisFlush,
    /// Redis is killed and comes back.
    RedisKill,
    /// Redis stands still for 15 s, with its connections open.
    RedisHang,
    /// One of three brokers is killed for 30 s, or the only one for 60 s.
    KafkaKill,
    /// PostgreSQL is killed for 30 s.
    PostgresKill,
    /// etcd is killed for 15 s.
    EtcdKill,
    /// A gateway is cut off from all control nodes for 30 s.
    Partition,
    /// Each node in turn drains, ends and comes back.
    DrainEach,
    /// A quarter of the clients stays away for 60 s.
    #[value(name = "resume-after-60s")]
    ResumeAfter60s,
    /// One key is pushed through all control nodes at once.
    SameKeyOnThreeNodes,
    /// 5 % of packets are lost, and clients are 100 ms away.
    Lossy,
    /// The upstream topic grows from 10 partitions to 20.
    GrowTopic,
    /// A control node is killed, then the upstream topic is compared with what was answered.
    UpstreamAudit,
}

impl Fault {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Clients must have lost their connections by it.
    pub fn breaks_clients(self) -> bool {
        matches!(self, Fault::KillGateway | Fault::AllGateways | Fault::DrainEach | Fault::ResumeAfter60s)
    }

    /// How long an outage may keep publishers waiting: they must not give up before it ends.
    pub const PATIENCE: Duration = Duration::from_secs(180);
}
