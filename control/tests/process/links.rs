//! The link, seen by a scripted gateway.

use hyper_util::rt::TokioIo;
use serde_json::json;
use tidegate_proto::v1::gateway_link_client::GatewayLinkClient;
use tidegate_proto::v1::{
    LinkConnection, LinkCredit, LinkCursor, LinkDeliver, LinkDown, LinkDownItem, LinkHello, LinkInterest,
    LinkInterestEnd, LinkOpen, LinkOpenStream, LinkOpened, LinkPresence, LinkPull, LinkReply, LinkRequest, LinkSend,
    LinkUp, LinkUpItem, PresenceRequest, link_down_item, link_reply, link_request, link_up_item,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::support::{DEADLINE, Node, config};

/// One attachment of a gateway that does what the test says.
struct Gateway {
    up: mpsc::Sender<LinkUp>,
    down: Streaming<LinkDown>,
    items: std::collections::VecDeque<link_down_item::Item>,
    /// The place of the last record that came.
    cursor: Option<LinkCursor>,
}

async fn tcp(node: &Node) -> Channel {
    Endpoint::new(node.grpc()).expect("address").connect().await.expect("connected")
}

async fn pipe(node: &Node) -> Channel {
    let acceptor = node.control.link_acceptor();
    let connector = tower::service_fn(move |_| {
        let acceptor = acceptor.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            acceptor.send(theirs).await.map_err(|_| std::io::Error::other("control has gone"))?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    Endpoint::from_static("http://in-process").connect_with_connector(connector).await.expect("connected")
}

impl Gateway {
    async fn dial(
        channel: Channel,
        request: impl FnOnce(&mut Request<ReceiverStream<LinkUp>>),
    ) -> Result<Gateway, Status> {
        let (up, queue) = mpsc::channel(64);
        let mut call = Request::new(ReceiverStream::new(queue));
        request(&mut call);
        let down = GatewayLinkClient::new(channel).attach(call).await?.into_inner();
        Ok(Gateway { up, down, items: Default::default(), cursor: None })
    }

    async fn attach(channel: Channel, incarnation: u64) -> Gateway {
        let mut gateway = Gateway::dial(channel, |_| {}).await.expect("attached");
        let hello = LinkHello { gateway: "gw-1".into(), incarnation, credit_bytes: 1 << 20, partition: 0 };
        gateway.send([link_up_item::Item::Hello(hello)]).await;
        match gateway.next().await.expect("an item") {
            link_down_item::Item::Attached(attached) => assert_eq!(attached.partitions, 1),
            other => panic!("attached comes first, not {other:?}"),
        }
        gateway
    }

    async fn send(&self, items: impl IntoIterator<Item = link_up_item::Item>) {
        let items = items.into_iter().map(|item| LinkUpItem { item: Some(item) }).collect();
        self.up.send(LinkUp { items }).await.expect("attached");
    }

    /// The next item that is not a position; positions move the cursor.
    async fn next(&mut self) -> Result<link_down_item::Item, Status> {
        loop {
            if let Some(item) = self.items.pop_front() {
                match &item {
                    link_down_item::Item::Position(position) => {
                        self.cursor = position.positions.first().copied();
                        continue;
                    }
                    link_down_item::Item::Deliver(deliver) if deliver.lsn > 0 => {
                        let LinkDeliver { partition, owner_epoch, lsn, .. } = *deliver;
                        self.cursor = Some(LinkCursor { partition, owner_epoch, lsn });
                    }
                    _ => {}
                }
                return Ok(item);
            }
            let message = tokio::time::timeout(DEADLINE, self.down.message()).await.expect("an item in time")?;
            let message = message.ok_or_else(|| Status::cancelled("the link ended"))?;
            self.items.extend(message.items.into_iter().filter_map(|LinkDownItem { item }| item));
        }
    }

    /// How the attachment ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// Opens streams for a connection and returns what is said of each.
    async fn open(&mut self, uid: &str, streams: &[(&str, Option<(u64, &str)>)]) -> Vec<LinkOpened> {
        let stream = |(stream, cursor): &(&str, Option<(u64, &str)>)| LinkOpenStream {
            stream: (*stream).to_owned(),
            after: cursor.map(|(after, _)| after),
            epoch: cursor.map(|(_, epoch)| epoch.to_owned()).unwrap_or_default(),
            auto: false,
        };
        let open = LinkOpen {
            corr: 7,
            uid: uid.into(),
            device: "d1".into(),
            streams: streams.iter().map(stream).collect(),
            auto_join: true,
        };
        self.send([link_up_item::Item::Open(open)]).await;
        let mut opened = Vec::new();
        loop {
            match self.next().await.expect("an item") {
                link_down_item::Item::Opened(stream) => opened.push(stream),
                link_down_item::Item::OpenEnd(end) => {
                    assert_eq!(end.corr, 7);
                    return opened;
                }
                other => panic!("not an answer to open: {other:?}"),
            }
        }
    }

    /// The seqs of one stream up to `upto`, each exactly once and in order.
    async fn deliveries(&mut self, stream: &str, mut last: u64, upto: u64) {
        while last < upto {
            match self.next().await.expect("an item") {
                link_down_item::Item::Deliver(deliver) if deliver.stream == stream => {
                    assert_eq!(deliver.after, Some(last), "a hole or a repetition");
                    for message in &deliver.messages {
                        last += 1;
                        assert_eq!(message.message.as_ref().map(|m| m.seq), Some(last));
                    }
                    assert_eq!(deliver.upto, Some(last));
                }
                link_down_item::Item::Deliver(_) => {}
                other => panic!("not a delivery: {other:?}"),
            }
        }
    }

    async fn ask(&mut self, corr: u64, uid: &str, op: link_request::Op) -> LinkReply {
        let request = LinkRequest { corr, uid: uid.into(), device: "d1".into(), op: Some(op) };
        self.send([link_up_item::Item::Request(request)]).await;
        loop {
            if let link_down_item::Item::Reply(reply) = self.next().await.expect("an item") {
                assert_eq!(reply.corr, corr);
                return reply;
            }
        }
    }
}

fn find<'a>(opened: &'a [LinkOpened], stream: &str) -> &'a LinkOpened {
    opened.iter().find(|opened| opened.stream == stream).unwrap_or_else(|| panic!("{stream} is not in {opened:?}"))
}

async fn opens_delivers_breaks_and_catches_up(node: Node, first: Channel, second: Channel) {
    for n in 1..=3 {
        node.push("u:alice", &format!("before {n}")).await;
    }
    let mut gateway = Gateway::attach(first, 1).await;
    gateway.send([link_up_item::Item::InterestEnd(LinkInterestEnd { cursors: Vec::new() })]).await;
    let epoch = node.push("g:talk", "made").await["epoch"].as_str().expect("epoch").to_owned();
    let opened = gateway
        .open("alice", &[("u:alice", Some((1, &inbox_epoch(&node).await))), ("g:talk", Some((0, &epoch)))])
        .await;
    let inbox = find(&opened, "u:alice");
    let page: Vec<u64> = inbox.messages.iter().filter_map(|m| m.message.as_ref()).map(|m| m.seq).collect();
    assert_eq!((inbox.head, inbox.start, page, inbox.page), (3, 1, vec![2, 3], true), "{inbox:?}");
    assert_eq!(find(&opened, "g:talk").messages.len(), 1);

    for n in 4..=53 {
        node.push("u:alice", &format!("live {n}")).await;
    }
    gateway.deliveries("u:alice", 3, 53).await;
    let cursor = gateway.cursor.expect("a place in the log");
    drop(gateway);

    for n in 54..=80 {
        node.push("u:alice", &format!("missed {n}")).await;
    }
    node.push("u:bob", "nobody's interest").await;
    let mut gateway = Gateway::attach(second, 1).await;
    let add = vec!["u:alice".to_owned(), "g:talk".to_owned()];
    gateway
        .send([
            link_up_item::Item::Interest(LinkInterest { add, remove: Vec::new() }),
            link_up_item::Item::InterestEnd(LinkInterestEnd { cursors: vec![cursor] }),
        ])
        .await;
    gateway.deliveries("u:alice", 53, 80).await;
    node.push("u:alice", "live again").await;
    gateway.deliveries("u:alice", 80, 81).await;
    node.control.stop().await;
    assert_eq!(gateway.end().await.code(), Code::Unavailable);
}

async fn inbox_epoch(node: &Node) -> String {
    let page = node.get("/api/v1/streams/u:alice/messages?limit=1").await;
    page.body["epoch"].as_str().expect("an epoch").to_owned()
}

#[tokio::test]
async fn a_gateway_that_comes_back_gets_exactly_what_it_missed() {
    let node = Node::start().await;
    let (first, second) = (tcp(&node).await, tcp(&node).await);
    opens_delivers_breaks_and_catches_up(node, first, second).await;
}

#[tokio::test]
async fn a_pipe_within_the_process_is_the_same_link() {
    let node = Node::start().await;
    let (first, second) = (pipe(&node).await, pipe(&node).await);
    opens_delivers_breaks_and_catches_up(node, first, second).await;
}

#[tokio::test]
async fn clients_send_and_pull_through_the_link() {
    let node = Node::start().await;
    let mut gateway = Gateway::attach(tcp(&node).await, 1).await;
    gateway.send([link_up_item::Item::InterestEnd(LinkInterestEnd { cursors: Vec::new() })]).await;
    let send = |to: &str, content: &str| {
        let (to, content, client_msg_id) = (to.to_owned(), content.to_owned(), format!("c-{content}"));
        link_request::Op::Send(LinkSend { to, content, client_msg_id, r#type: "text".into(), ..Default::default() })
    };
    let reply = gateway.ask(1, "alice", send("u:bob", "hi")).await;
    let Some(link_reply::Ok::Sent(sent)) = reply.ok else { panic!("{reply:?}") };
    assert_eq!((sent.stream.as_str(), sent.seq, sent.duplicate), ("c:alice:bob", Some(1), false));
    let again = gateway.ask(2, "alice", send("u:bob", "hi")).await;
    assert!(
        matches!(again.ok, Some(link_reply::Ok::Sent(again)) if again.duplicate && again.message_id == sent.message_id)
    );
    let refused = gateway.ask(3, "alice", send("nowhere", "hi")).await;
    assert_eq!(refused.error.expect("an error").code, "BAD_REQUEST");

    let pull =
        |stream: &str| link_request::Op::Pull(LinkPull { stream: stream.into(), limit: 10, ..Default::default() });
    let reply = gateway.ask(4, "bob", pull("u:bob")).await;
    let Some(link_reply::Ok::Pulled(pulled)) = reply.ok else { panic!("{reply:?}") };
    let message = pulled.messages[0].message.as_ref().expect("a message");
    assert_eq!((message.from.as_str(), message.conv.as_str(), message.conv_seq), ("alice", "c:alice:bob", 1));
    let refused = gateway.ask(5, "mallory", pull("u:bob")).await;
    assert!(refused.ok.is_none() && refused.error.is_some());
    gateway.send([link_up_item::Item::Credit(LinkCredit { bytes: 100 })]).await;
    node.control.stop().await;
}

#[tokio::test]
async fn a_gateway_that_breaks_the_protocol_is_ended_with_a_status() {
    let node = Node::start().await;
    let bad_stream = LinkInterest { add: vec!["nonsense".into()], remove: Vec::new() };
    let no_corr = LinkOpen { uid: "a".into(), ..Default::default() };
    for item in [
        Some(link_up_item::Item::Interest(bad_stream)),
        Some(link_up_item::Item::Open(no_corr)),
        Some(link_up_item::Item::Hello(LinkHello::default())),
        None,
    ] {
        let mut gateway = Gateway::attach(tcp(&node).await, 1).await;
        gateway.up.send(LinkUp { items: vec![LinkUpItem { item }] }).await.expect("attached");
        assert_eq!(gateway.end().await.code(), Code::InvalidArgument);
    }
    let mut rude = Gateway::dial(tcp(&node).await, |_| {}).await.expect("dialled");
    rude.send([link_up_item::Item::Credit(LinkCredit { bytes: 1 })]).await;
    assert_eq!(rude.end().await.code(), Code::InvalidArgument);
    // The node is none the worse.
    node.push("u:a", "hi").await;
    node.control.stop().await;
}

#[tokio::test]
async fn presence_follows_the_gateways() {
    let node = Node::start().await;
    let connection = |id: &str| LinkConnection { uid: "alice".into(), connection_id: id.into(), ..Default::default() };
    let online = |ids: &[&str]| {
        let online = ids.iter().map(|id| connection(id)).collect();
        link_up_item::Item::Presence(LinkPresence { online, offline: Vec::new() })
    };
    let mut old = Gateway::attach(tcp(&node).await, 1).await;
    old.send([online(&["1", "2"])]).await;
    connections_become(&node, 2).await;
    assert_eq!(node.push("u:alice", "hi").await["online"], 2);
    assert_eq!(node.push("g:_all", "hi").await["online"], 2);
    assert!(node.push("g:talk", "hi").await.get("online").is_none());

    // The same gateway, started anew: what its older incarnation told is void, and its attachment ends.
    let new = Gateway::attach(tcp(&node).await, 2).await;
    assert_eq!(old.end().await.code(), Code::Aborted);
    connections_become(&node, 0).await;
    new.send([online(&["3"])]).await;
    connections_become(&node, 1).await;
    let offline = vec![connection("3")];
    new.send([link_up_item::Item::Presence(LinkPresence { online: Vec::new(), offline })]).await;
    connections_become(&node, 0).await;
    node.control.stop().await;
}

async fn connections_become(node: &Node, wanted: u32) {
    let mut client = node.query_client().await;
    let wait = async {
        loop {
            let asked = PresenceRequest { uids: vec!["alice".into()] };
            let users = client.presence(asked).await.expect("answered").into_inner().users;
            assert_eq!(users[0].online, users[0].connections > 0);
            if users[0].connections == wanted {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never {wanted} connections"));
}

#[tokio::test]
async fn a_configured_link_token_is_asked_for() {
    const TOKEN: &str = "link-token-link-token-link-token-1";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("link-token");
    std::fs::write(&file, TOKEN).expect("written");
    let node =
        Node::start_with(tidegate_control::Config { link_token_file: Some(file), ..config(folder.path()) }).await;
    let status = Gateway::dial(tcp(&node).await, |_| {}).await.err().expect("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    let wrong = |call: &mut Request<ReceiverStream<LinkUp>>| {
        call.metadata_mut().insert("authorization", "Bearer wrong".parse().expect("metadata"));
    };
    assert_eq!(Gateway::dial(tcp(&node).await, wrong).await.err().expect("refused").code(), Code::Unauthenticated);
    let right = |call: &mut Request<ReceiverStream<LinkUp>>| {
        call.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("metadata"));
    };
    Gateway::dial(tcp(&node).await, right).await.expect("attached");
    // Within the process nobody else can dial.
    Gateway::attach(pipe(&node).await, 1).await;
    let push = node.post("/api/v1/push", &json!({"to": ["u:a"], "message": {}})).await;
    assert_eq!(push.body["results"][0]["status"], "accepted");
    node.control.stop().await;
}

#[tokio::test]
async fn in_development_a_users_place_is_the_attached_gateway() {
    let node = Node::start().await;
    node.control.set_client_port(4_321);
    let _gateway = Gateway::attach(tcp(&node).await, 1).await;
    let place = node.get("/api/v1/endpoint?uid=alice").await;
    let expected = json!({
        "uid": "alice", "gateway": "gw-1", "endpoint": "ws://127.0.0.1:4321/api/v1/ws", "ring_version": 0,
    });
    assert_eq!(place.body, expected, "{}", place.text);
    node.control.stop().await;
}
