//! PushStream: pipelined pushes, each with one result.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use tidegate_proto::v1::{PushRequest, PushStatus};
use tonic::Code;

use crate::support::{DEADLINE, Node, push_request};

#[tokio::test]
async fn five_thousand_pushes_are_answered_in_the_order_of_their_streams() {
    const MESSAGES: u64 = 5_000;
    let node = Node::start().await;
    let requests = (0..MESSAGES).map(|corr| {
        let to = format!("g:stream-{}", corr % 7);
        PushRequest { corr, message_id: format!("m{corr}"), ..push_request(&to, &format!("content {corr}")) }
    });
    let requests: Vec<PushRequest> = requests.collect();
    let mut client = node.push_client().await;
    let answers = client.push_stream(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    let results: Vec<_> = tokio::time::timeout(DEADLINE, answers.collect::<Vec<_>>()).await.expect("all answers");
    assert_eq!(results.len() as u64, MESSAGES);
    let mut last: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for result in results {
        let result = result.expect("a result");
        assert_eq!(result.status(), PushStatus::Accepted, "{result:?}");
        let seq = result.seq.expect("a seq");
        let (last_seq, last_corr) = last.insert(result.to.clone(), (seq, result.corr)).unwrap_or((0, 0));
        assert_eq!(seq, last_seq + 1, "{}", result.to);
        assert!(result.corr >= last_corr);
    }
    assert_eq!(last.len(), 7);
    assert_eq!(last.values().map(|(seq, _)| seq).sum::<u64>(), MESSAGES);
    node.control.stop().await;
}

#[tokio::test]
async fn every_target_of_every_request_gets_exactly_one_result() {
    let node = Node::start().await;
    let two = PushRequest { corr: 1, to: vec!["u:a".into(), "bad".into()], ..push_request("", "x") };
    let nothing = PushRequest { corr: 2, ..PushRequest::default() };
    let no_message = PushRequest { corr: 3, message: None, to: vec!["u:a".into(), "u:b".into()], ..Default::default() };
    let good = PushRequest { corr: 4, ..push_request("u:a", "x") };
    let requests = tokio_stream::iter(vec![two, nothing, no_message, good]);
    let mut client = node.push_client().await;
    let answers = client.push_stream(requests).await.expect("a stream").into_inner();
    let results: Vec<(u64, String, bool)> =
        answers.map(|r| r.expect("a result")).map(|r| (r.corr, r.to.clone(), r.error.is_none())).collect().await;
    let expected =
        [(1, "u:a", true), (1, "bad", false), (2, "", false), (3, "u:a", false), (3, "u:b", false), (4, "u:a", true)];
    assert_eq!(results, expected.map(|(corr, to, ok)| (corr, to.to_owned(), ok)));
    node.control.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_was_taken_in() {
    let node = Node::start().await;
    let mut client = node.push_client().await;
    let (requests, queue) = tokio::sync::mpsc::channel(16);
    let call = client.push_stream(tokio_stream::wrappers::ReceiverStream::new(queue));
    for corr in 0..10 {
        requests.send(PushRequest { corr, ..push_request("u:a", "x") }).await.expect("room");
    }
    let mut answers = call.await.expect("a stream").into_inner();
    for corr in 0..10 {
        let result = answers.message().await.expect("no error").expect("a result");
        assert_eq!((result.corr, result.status()), (corr, PushStatus::Accepted));
    }
    let stop = tokio::spawn(node.control.stop());
    let status = answers.message().await.expect_err("the stream ends with a reason");
    assert_eq!(status.code(), Code::Unavailable);
    drop((requests, answers, client));
    stop.await.expect("stopped");
}
