//! Records into the bus, in their order, until it has all of them.

use std::time::Duration;

use tidegate_bus::port::{Outgoing, PublishError, Publisher};

const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Returns once everything is acknowledged, however long the bus is away. After a failure all from there on is published
/// again, so that the last copies of a key's records stand in order: readers see some twice, and none missing. Returns how many
/// were left out because they are larger than the bus takes: they would never go.
pub(super) async fn place(publisher: &dyn Publisher, records: &[Outgoing]) -> usize {
    let (mut done, mut left_out) = (0, 0);
    let mut pause = RETRY;
    while done < records.len() {
        let mut placings = Vec::with_capacity(records.len() - done);
        let mut failure = None;
        for record in &records[done..] {
            match publisher.publish(record.clone()) {
                Ok(placing) => placings.push(Ok(placing)),
                Err(error @ PublishError::TooLarge { .. }) => placings.push(Err(error)),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        for placing in placings {
            let placed = match placing {
                Ok(placing) => placing.await.map(drop),
                Err(error) => Err(error),
            };
            match placed {
                Ok(()) => pause = RETRY,
                Err(PublishError::TooLarge { bytes, max }) => {
                    let topic = &*records[done].topic;
                    tracing::error!(topic, bytes, max, "a record is larger than the bus takes, and is left out");
                    left_out += 1;
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            done += 1;
        }
        if let Some(error) = failure.filter(|_| done < records.len()) {
            tracing::warn!(%error, topic = %records[done].topic, left = records.len() - done, "records wait for the bus");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_bus::memory::MemoryBus;
    use tidegate_bus::port::{Bus as _, Start};
    use tidegate_bus::settings::Producer;
    use tidegate_bus::topics::TopicSpec;

    use super::*;

    fn record(at: usize, bytes: usize) -> Outgoing {
        let value = vec![at as u8; bytes].into();
        Outgoing { topic: "t".into(), partition: Some(0), value, ..Outgoing::default() }
    }

    async fn bus(producer: Producer) -> MemoryBus {
        let bus = MemoryBus::new(producer);
        let config = Vec::new();
        let spec = TopicSpec { name: "t".to_owned(), partitions: 1, replicas: 1, retention_ms: 1000, config };
        bus.admin().create_missing(&[spec]).await.expect("a topic");
        bus
    }

    #[tokio::test]
    async fn all_arrive_in_order_though_the_buffer_is_small_and_the_bus_away_for_a_while() {
        let bus = bus(Producer { buffer_records_max: 3, ..Producer::default() }).await;
        bus.hold();
        let publisher = bus.publisher();
        let placing = tokio::spawn(async move {
            let records: Vec<Outgoing> = (0..10).map(|at| record(at, 4)).collect();
            place(&*publisher, &records).await
        });
        while bus.publisher().stats().refused == 0 {
            tokio::task::yield_now().await;
        }
        bus.release();
        assert_eq!(placing.await.expect("placed"), 0);
        let mut reader = bus.open("t", 0, Start::Earliest).expect("a reader");
        let mut seen = reader.next(100, Duration::ZERO).await.expect("records");
        // Copies may come before; the last ones are all there, in order.
        let tail = seen.split_off(seen.len() - 10);
        assert_eq!(tail.iter().map(|record| record.value[0]).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_is_too_large_holds_up_nothing() {
        let bus = Arc::new(bus(Producer::default()).await);
        let max = tidegate_bus::settings::RECORD_BYTES_MAX;
        let left_out = place(&*bus.publisher(), &[record(0, 1), record(1, max + 1), record(2, 1)]).await;
        let mut reader = bus.open("t", 0, Start::Earliest).expect("a reader");
        let seen = reader.next(100, Duration::ZERO).await.expect("records");
        assert_eq!((left_out, seen.len()), (1, 2));
    }
}
