//! What Prometheus scrapes. Threads only count; names, labels and sums are made here, at the scrape.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tidegate_gateway_core::shard::{ByKind, ShardStats};
use tidegate_gateway_tls::TlsStats;

use crate::admin::AdminState;
use crate::front_door::metrics::{Outcome, TlsKind};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PREFIX: &str = "tidegate_gateway";

/// Picks one of a shard's counters by class.
type KindsOf = fn(&ShardStats) -> &ByKind;

/// The whole exposition.
pub fn render(state: &AdminState) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape(state.clone())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape(AdminState);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page { encoder };
        self.io(&mut page)?;
        self.front_door(&mut page)?;
        self.tls(&mut page)?;
        self.connections(&mut page)?;
        self.deliveries(&mut page)?;
        self.compression(&mut page)?;
        self.hub(&mut page)
    }
}

impl Scrape {
    fn io(&self, page: &mut Page<'_>) -> fmt::Result {
        let labels = [("driver", self.0.io.backend.label()), ("reason", self.0.io.reason.label())];
        page.fact("io", "What serves connections, and why: 1", &labels)
    }

    fn front_door(&self, page: &mut Page<'_>) -> fmt::Result {
        let door = &self.0.door;
        let results = Outcome::ALL.map(|outcome| (outcome.label(), door.handshakes(outcome)));
        page.counters("handshakes", "Handshakes by result", "result", &results)?;
        page.gauge("half_open", "Connections in their handshake", door.half_open() as u64)?;
        page.counter("accept_errors", "Failed accepts", door.accept_errors())
    }

    fn tls(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(tls) = &self.0.tls else { return Ok(()) };
        let sum = |of: fn(&TlsStats) -> &AtomicU64| {
            self.0.fleet.shards().iter().map(|shard| of(shard.tls()).load(Ordering::Relaxed)).sum()
        };
        page.gauge("tls_connections", "Established connections over TLS", sum(|shard| &shard.sessions))?;
        let sessions = TlsKind::ALL.map(|kind| (kind.labels(), self.0.door.secured_total(kind)));
        page.labelled("tls_sessions", "TLS handshakes that were completed", &sessions)?;
        page.counter("tls_broken", "TLS sessions that ended by a broken record", sum(|shard| &shard.broken))?;
        page.counter("tls_plain_bytes", "Bytes that were sealed", sum(|shard| &shard.plain_bytes))?;
        page.counter("tls_sealed_bytes", "What sealing made of them", sum(|shard| &shard.sealed_bytes))?;
        let reloads = [("ok", tls.done()), ("failed", tls.failed())];
        page.counters("tls_reloads", "Times that certificates were read again", "result", &reloads)?;
        let expires = u64::try_from(tls.expires_at()).unwrap_or(0);
        page.gauge("tls_certificate_expiry_seconds", "When the first certificate expires (Unix time)", expires)
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let sum = |of: fn(&ShardStats) -> u64| self.sum(of);
        page.gauge("connections", "Established connections", self.0.fleet.connections())?;
        page.counter("promoted", "Connections taken over by shards", sum(|shard| shard.promoted.value()))?;
        page.counter("promotions_refused", "Connections no shard had room for", sum(|shard| shard.refused.value()))?;
        page.counter("pings", "WebSocket pings sent", sum(|shard| shard.pings.value()))?;
        page.counter("requests", "Requests of clients", sum(|shard| shard.requests.value()))?;
        let mut codes: Vec<(String, u64)> = Vec::new();
        for shard in self.0.fleet.shards() {
            for (index, (code, count)) in shard.stats().closes.ours().enumerate() {
                match codes.get_mut(index) {
                    Some(known) => known.1 += count,
                    None => codes.push((code.number().to_string(), count)),
                }
            }
        }
        let mut closes: Vec<(&str, u64)> = codes.iter().map(|(code, count)| (code.as_str(), *count)).collect();
        closes.extend([
            ("peer", sum(|shard| shard.closes.by_peer.value())),
            ("eof", sum(|shard| shard.closes.eof.value())),
            ("failed", sum(|shard| shard.closes.failed.value())),
            ("stopped", sum(|shard| shard.closes.stopped.value())),
        ]);
        page.counters("closes", "Ended connections by close code or cause", "cause", &closes)
    }

    fn deliveries(&self, page: &mut Page<'_>) -> fmt::Result {
        let sum = |of: fn(&ShardStats) -> u64| self.sum(of);
        let delivered = self.by_kind(|shard| &shard.delivered);
        page.counters("deliveries", "Messages (direct: frames) put into sockets", "class", &delivered)?;
        let dropped: [(&str, KindsOf); 3] = [
            ("slow", |shard| &shard.dropped.slow),
            ("gapped", |shard| &shard.dropped.gapped),
            ("closed", |shard| &shard.dropped.closed),
        ];
        let mut drops = Vec::new();
        for (reason, of) in dropped {
            drops.extend(self.by_kind(of).map(|(class, count)| ([("reason", reason), ("class", class)], count)));
        }
        page.labelled("drops", "Messages that did not reach a socket; durable ones come by a pull", &drops)?;
        page.counter("sends", "Sends handed to the driver", sum(|shard| shard.sends.made.value()))?;
        page.counter("send_bytes", "Bytes of those sends", sum(|shard| shard.sends.bytes.value()))?;
        page.counter("sends_short", "Sends that came back short", sum(|shard| shard.sends.short.value()))?;
        page.counter("sends_gathered", "Sends of several frames", sum(|shard| shard.sends.gathered.value()))?;
        page.counter("gaps", "Streams taken off slow connections", sum(|shard| shard.gaps.value()))?;
        page.counter(
            "frames_missing",
            "Fan-outs without a frame for a class",
            sum(|shard| shard.frames_missing.value()),
        )?;
        page.gauge("parting", "Connections still to be let go", sum(|shard| shard.parting.value()))?;
        page.gauge("queue_bytes", "Bytes that wait for slow connections", sum(|shard| shard.queue_bytes.value()))?;
        let queued = self.0.fleet.shards().iter().map(|shard| shard.queued() as u64).sum();
        page.gauge("shard_queue", "Commands that wait for shards", queued)
    }

    fn compression(&self, page: &mut Page<'_>) -> fmt::Result {
        let deflate = self.0.hub.stats().deflate;
        let results = [
            ("compressed", deflate.compressed),
            ("reused", deflate.reused),
            ("unpaid", deflate.unpaid),
            ("small", deflate.small),
        ];
        page.counters("deflate_frames", "Frames that some connection wanted compressed", "result", &results)?;
        page.counter("deflate_plain_bytes", "Payloads that were compressed", deflate.plain_bytes)?;
        page.counter("deflate_packed_bytes", "Frames they became", deflate.packed_bytes)?;
        page.seconds("deflate_cpu_seconds", "CPU of the hub's thread spent on compression", deflate.cpu_ns)?;
        let sum = |of: fn(&ShardStats) -> u64| self.sum(of);
        page.counter(
            "inflate_messages",
            "Compressed messages of clients",
            sum(|shard| shard.inflated.messages.value()),
        )?;
        page.counter("inflate_packed_bytes", "Their bytes", sum(|shard| shard.inflated.packed_bytes.value()))?;
        page.counter("inflate_plain_bytes", "What they held", sum(|shard| shard.inflated.plain_bytes.value()))?;
        let cpu_ns = sum(|shard| shard.inflated.cpu_ns.value());
        page.seconds("inflate_cpu_seconds", "CPU of the shards spent on unpacking them", cpu_ns)
    }

    fn hub(&self, page: &mut Page<'_>) -> fmt::Result {
        let hub = self.0.hub.stats();
        let links = self.0.links.summary();
        page.gauge("link_up", "1 while attached to control, to every partition at first", links.is_up.into())?;
        page.gauge("partitions", "Partitions of the cluster; 0: not known yet", links.of as u64)?;
        page.gauge("partitions_up", "Partitions attached to", links.each.iter().filter(|(up, _)| *up).count() as u64)?;
        let names: Vec<String> = (0..links.each.len()).map(|partition| partition.to_string()).collect();
        let down: Vec<_> =
            names.iter().zip(&links.each).map(|(name, (up, _))| (name.as_str(), u64::from(!up))).collect();
        page.gauges("partition_down", "1 while not attached to the partition", "partition", &down)?;
        let attachments: Vec<_> =
            names.iter().zip(&links.each).map(|(name, (_, so_far))| (name.as_str(), *so_far)).collect();
        page.counters("link_attachments", "Attachments so far", "partition", &attachments)?;
        page.gauge("link_queue", "Items that wait to go up to control", self.0.hub.up_queued() as u64)?;
        for (name, help, value) in [
            ("streams", "Live streams", hub.streams),
            ("memberships", "Connections times their streams", hub.memberships),
            ("hot_tail_bytes", "Bytes of recent messages kept", hub.hot_tail_bytes),
            ("opens_pending", "Connects and joins that wait for control", hub.opens_pending),
            ("requests_pending", "Requests that wait for control", hub.requests_pending),
        ] {
            page.gauge(name, help, value)?;
        }
        for (name, help, value) in [
            ("messages_received", "Durable messages from control", hub.messages_received),
            ("ephemeral_received", "Ephemeral messages from control", hub.ephemeral_received),
            ("ephemeral_dropped", "Ephemeral messages that a full window pushed out", hub.ephemeral_dropped),
            ("stale_owner_dropped", "Deliveries of owners with a successor", hub.stale_owner_dropped),
            ("histories_lost", "Attachments that spoke of another log than before", hub.histories_lost),
            ("batches", "Batches handed to shards", hub.batches),
            ("batch_messages", "Messages in those batches", hub.batch_messages),
            ("frames_encoded", "Frames encoded for batches", hub.frames_encoded),
            ("connects", "Sessions asked for", hub.connects),
            ("joins", "Joins", hub.joins),
            ("joins_local", "Joins answered on the node", hub.joins_local),
            ("pulls_local", "Pulls answered on the node", hub.pulls_local),
            ("gaps_told", "Connections told a gap", hub.gaps),
            ("heals", "Pulls for holes of the node", hub.heals),
            ("gap_alls", "Times that all members of a stream were told a gap", hub.gap_alls),
            ("new_epochs", "Live streams that began anew", hub.new_epochs),
            ("overloaded", "Opens and requests refused at a bound", hub.overloaded),
        ] {
            page.counter(name, help, value)?;
        }
        Ok(())
    }

    fn sum(&self, of: fn(&ShardStats) -> u64) -> u64 {
        self.0.fleet.shards().iter().map(|shard| of(shard.stats())).sum()
    }

    fn by_kind(&self, of: KindsOf) -> [(&'static str, u64); 3] {
        let shards = || self.0.fleet.shards().iter().map(|shard| of(shard.stats()));
        [
            ("durable", shards().map(|kinds| kinds.durable.value()).sum()),
            ("ephemeral", shards().map(|kinds| kinds.ephemeral.value()).sum()),
            ("direct", shards().map(|kinds| kinds.direct.value()).sum()),
        ]
    }
}

/// Shorthand over the encoder.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        gauge.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (text, value) in values {
            ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX))
                .encode(family.encode_family(&[(label, *text)])?)?;
        }
        Ok(())
    }

    /// A gauge that is 1 and says something by its labels.
    fn fact<const N: usize>(&mut self, name: &str, help: &str, labels: &[(&str, &str); N]) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(family.encode_family(labels)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn seconds(&mut self, name: &str, help: &str, ns: u64) -> fmt::Result {
        let counter = ConstCounter::new(ns as f64 / 1e9);
        counter.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    /// One counter per value of a label.
    fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        let rows: Vec<_> = values.iter().map(|(value, count)| ([(label, *value)], *count)).collect();
        self.labelled(name, help, &rows)
    }

    fn labelled<const N: usize>(&mut self, name: &str, help: &str, rows: &[([(&str, &str); N], u64)]) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in rows {
            ConstCounter::new(*count).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}
