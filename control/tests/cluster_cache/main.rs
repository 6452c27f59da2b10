//! Two nodes of a cluster with Redis between them, which is emptied, stands still, and is killed. Real Kafka, PostgreSQL and etcd,
//! and a Redis of the test's own. What the cache adds comes back each time; nothing that was answered depends on it.

mod stage;

use stage::{GATEWAY, Stage, seqs};
use tidegate_control_core::domain::{PartitionId, StreamKey};

#[test]
fn a_cluster_does_the_same_whatever_becomes_of_redis() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut stage = Stage::start().await;
        presence_is_known_on_every_node(&mut stage).await;
        recent_history_comes_from_the_cache(&stage).await;
        the_ring_is_published(&stage).await;
        a_flush_loses_nothing_and_is_made_good(&stage).await;
        a_redis_that_stands_still_stops_nobody(&stage).await;
        a_killed_redis_loses_nothing_and_is_made_good(&stage).await;
        who_leaves_is_gone_on_every_node(&stage).await;
        members_are_told_to_every_node(&stage).await;
        stage.end().await;
    });
}

const USERS: [&str; 6] = ["ann", "bob", "cat", "dan", "eve", "fay"];

async fn presence_is_known_on_every_node(stage: &mut Stage) {
    for uid in USERS {
        let inbox: StreamKey = format!("u:{uid}").parse().expect("a stream");
        stage.connect(PartitionId::of(&inbox, stage::PARTITIONS), uid).await;
    }
    everybody_has(stage, 1).await;
    // Of the whole cluster, though no node has heard of all.
    stage.eventually("everybody is counted", async || stage.push(1, "g:_all", "hello").await["online"] == 6).await;
}

async fn everybody_has(stage: &Stage, count: u32) {
    for node in 0..2 {
        stage.eventually("presence", async || stage.presence(node, &USERS).await == [count; 6]).await;
    }
}

async fn recent_history_comes_from_the_cache(stage: &Stage) {
    for nth in 1..=6 {
        stage.push(nth % 2, "g:recent", &format!("news {nth}")).await;
        stage.push(nth % 2, "u:away", &format!("mail {nth}")).await;
    }
    for (stream, cache) in [("g:recent", "hot"), ("u:away", "queue")] {
        stage
            .eventually("history is answered from the cache", async || stage.is_answered_from(cache, stream, 2).await)
            .await;
    }
    let connected = USERS[0];
    for nth in 1..=3 {
        stage.push(nth % 2, &format!("u:{connected}"), &format!("live {nth}")).await;
    }
    assert_eq!(seqs(&stage.history(0, &format!("u:{connected}"), 0).await), [1, 2, 3], "it came live, and is stored");
}

async fn the_ring_is_published(stage: &Stage) {
    stage.eventually("the ring", async || stage.ring().is_some_and(|ring| ring.contains(GATEWAY))).await;
}

async fn a_flush_loses_nothing_and_is_made_good(stage: &Stage) {
    stage.flush();
    all_is_well(stage, 7).await;
    made_good(stage, 8).await;
}

async fn a_redis_that_stands_still_stops_nobody(stage: &Stage) {
    stage.signal("-STOP");
    all_is_well(stage, 9).await;
    let node_says = async || {
        seqs(&stage.history(0, "g:recent", 0).await);
        stage.metric(0, "tidegate_breaker_state{dependency=\"cache\"}").await == 2.0
    };
    stage.eventually("the breaker opens", node_says).await;
    all_is_well(stage, 10).await;
    assert_eq!(stage.control(0).get("/readyz").await.status, 200, "a node is ready without it");
    stage.signal("-CONT");
    made_good(stage, 11).await;
}

async fn a_killed_redis_loses_nothing_and_is_made_good(stage: &Stage) {
    stage.kill();
    all_is_well(stage, 12).await;
    stage.revive();
    made_good(stage, 13).await;
}

/// The next message of the stream gets this seq, once, and everything before it is there.
async fn all_is_well(stage: &Stage, next: u64) {
    let content = format!("news {next}");
    let pushed = stage.push(next as usize % 2, "g:recent", &content).await;
    let again = stage.push((next as usize + 1) % 2, "g:recent", &content).await;
    assert_eq!((&pushed["seq"], &again["seq"]), (&next.into(), &next.into()), "{pushed} {again}");
    for node in 0..2 {
        let all: Vec<u64> = (1..=next).collect();
        assert_eq!(seqs(&stage.history(node, "g:recent", 0).await), all);
        assert_eq!(seqs(&stage.history(node, "u:away", 0).await), [1, 2, 3, 4, 5, 6]);
    }
}

/// The cache has what is known now, and is asked again.
async fn made_good(stage: &Stage, next: u64) {
    everybody_has(stage, 1).await;
    all_is_well(stage, next).await;
    let again = async || stage.is_answered_from("hot", "g:recent", next - 1).await;
    stage.eventually("history is answered from the cache again", again).await;
    let closed = async || {
        stage.history(0, "g:recent", 0).await;
        stage.metric(0, "tidegate_breaker_state{dependency=\"cache\"}").await == 0.0
    };
    stage.eventually("the breaker is closed", closed).await;
    stage.eventually("the ring is there again", async || stage.ring().is_some()).await;
}

async fn who_leaves_is_gone_on_every_node(stage: &Stage) {
    for uid in USERS {
        stage.disconnect(uid).await;
    }
    everybody_has(stage, 0).await;
}

async fn members_are_told_to_every_node(stage: &Stage) {
    stage.make_group("team", &["ann", "bob"]).await;
    for node in 0..2 {
        assert_eq!(stage.members_seen_by(node, "team", "ann").await, Some(2));
        assert_eq!(stage.members_seen_by(node, "team", "cat").await, None, "not a member");
    }
    stage.remove_member(1, "team", "ann").await;
    for node in 0..2 {
        let gone = async || stage.members_seen_by(node, "team", "ann").await.is_none();
        stage.eventually("who was removed sees nothing more", gone).await;
        assert_eq!(stage.members_seen_by(node, "team", "bob").await, Some(1));
    }
}
