//! Several partitions on several nodes: found, lost, found again, while clients notice nothing.

mod support;

use serde_json::json;
use support::control::Control;
use support::{Client, Node, eventually, http};
use tidegate_gateway::config::OneOrMany;
use tidegate_gateway_core::link::PartitionId;

const PARTITIONS: u32 = 5;

async fn cluster() -> (Vec<Control>, Node) {
    let (controls, addresses) = Control::cluster(PARTITIONS, 2).await;
    let node = Node::attached_to(controls[0].clone(), |config| {
        config.link.addr = Some(OneOrMany::Many(addresses));
    });
    let node = node.await;
    // The gateway has heard of them too.
    node.metric_becomes("tidegate_gateway_partitions_up", f64::from(PARTITIONS)).await;
    (controls, node)
}

/// A group in this partition.
fn group_in(control: &Control, partition: PartitionId) -> String {
    let mut names = (0..).map(|n| format!("g:{n}"));
    names.find(|name| control.partition_of(name) == partition).expect("some group is there")
}

async fn join(client: &mut Client, id: u32, group: &str) {
    client.send_text(&json!({"id": id, "join": {"stream": group}}).to_string()).await;
    let answer = client.json().await;
    assert_eq!(answer["ok"]["stream"], *group, "{answer}");
}

#[tokio::test]
async fn each_partition_is_attached_at_its_owner_and_says_which_it_is() {
    let (controls, node) = cluster().await;
    let mut said: Vec<u32> = controls[0].hellos().iter().map(|hello| hello.partition).collect();
    said.sort_unstable();
    said.dedup();
    assert_eq!(said, (0..PARTITIONS).collect::<Vec<_>>());
    assert_eq!(http::get(node.addrs.admin, "/readyz").await.0, 200);
    assert_eq!(node.metric("tidegate_gateway_partitions_up").await, f64::from(PARTITIONS));
}

#[tokio::test]
async fn a_connection_gets_streams_of_every_partition_also_when_owners_change() {
    let (controls, node) = cluster().await;
    let control = &controls[0];
    let mut client = node.join("alice").await;
    let partitions: Vec<PartitionId> = (0..PARTITIONS).map(PartitionId).collect();
    let groups: Vec<String> = partitions.iter().map(|at| group_in(control, *at)).collect();
    for (group, id) in groups.iter().zip(1..) {
        join(&mut client, id, group).await;
    }
    control.push("g:_all", &["to everybody"]);
    let batch = client.json().await;
    assert_eq!(batch["batch"]["stream"], "g:_all", "{batch}");
    for (at, group) in partitions.iter().zip(&groups) {
        let attachments = control.attachments();
        control.move_to(*at, (at.0 as usize + 1) % 2);
        eventually("it is attached to the other node", || {
            control.attachments() > attachments && control.interested(group)
        })
        .await;
        control.push(group, &["after the move"]);
        let batch = client.json().await;
        assert_eq!(batch["batch"]["stream"], **group, "{batch}");
    }
    assert_eq!(http::get(node.addrs.admin, "/readyz").await.0, 200);
}

#[tokio::test]
async fn a_partition_that_nobody_owns_answers_for_itself_alone() {
    let (controls, node) = cluster().await;
    let control = &controls[0];
    let mut client = node.join("alice").await;
    let (away, here) = (group_in(control, PartitionId(3)), group_in(control, PartitionId(4)));
    control.move_to(PartitionId(3), usize::MAX);
    eventually("it is not attached any more", || control.attached() == PARTITIONS as usize - 1).await;
    node.metric_becomes("tidegate_gateway_partition_down{partition=\"3\"}", 1.0).await;
    let send = json!({"to": away, "client_msg_id": "c", "type": "text", "content": "x"});
    client.send_text(&json!({"id": 1, "send": send}).to_string()).await;
    let answer = client.json().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!("UNAVAILABLE")), "{answer}");
    join(&mut client, 2, &here).await;
    assert_eq!(http::get(node.addrs.admin, "/readyz").await.0, 200, "the others are served");
    control.move_to(PartitionId(3), 0);
    node.metric_becomes("tidegate_gateway_partition_down{partition=\"3\"}", 0.0).await;
    join(&mut client, 3, &away).await;
}
