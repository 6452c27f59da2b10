//! The peer of the link: a real GatewayLink server over in-process connections, or several over TCP that own partitions
//! between them, with streams in memory. It does what a gateway's behaviour depends on (opens, pulls, sends, deliveries) and
//! nothing else of control.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tidegate_gateway_core::link::{PartitionId, Partitions};
use tidegate_proto::v1::gateway_link_server::{GatewayLink, GatewayLinkServer};
use tidegate_proto::v1::{self, link_down_item::Item as Down, link_request::Op, link_up_item::Item as Up};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

const EPOCH: &str = "e1";

/// One node of the peer. Lives as long as its runtime.
#[derive(Clone)]
pub struct Control {
    node: usize,
    acceptor: mpsc::Sender<DuplexStream>,
    state: Arc<Mutex<State>>,
}

/// What its nodes share.
struct State {
    partitions: Partitions,
    /// The node that owns each partition.
    owners: BTreeMap<PartitionId, usize>,
    streams: BTreeMap<String, Vec<v1::Message>>,
    interest: BTreeSet<String>,
    downs: BTreeMap<PartitionId, mpsc::Sender<Result<v1::LinkDown, Status>>>,
    attachments: usize,
    hellos: Vec<v1::LinkHello>,
    online: Vec<v1::LinkConnection>,
    offline: Vec<v1::LinkConnection>,
    credit: u64,
}

impl Control {
    /// Must be called inside a tokio runtime.
    pub fn start() -> Control {
        let (acceptor, incoming) = mpsc::channel(4);
        let control = Control { node: 0, acceptor, state: State::new(1, 1) };
        let service = GatewayLinkServer::new(control.clone());
        let connections = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(connections));
        control
    }

    /// So many nodes over TCP, with their addresses; partition p begins at node p modulo their number.
    pub async fn cluster(partitions: u32, nodes: usize) -> (Vec<Control>, Vec<String>) {
        let state = State::new(partitions, nodes);
        let (mut controls, mut addresses) = (Vec::new(), Vec::new());
        for node in 0..nodes {
            let (acceptor, _) = mpsc::channel(1);
            let control = Control { node, acceptor, state: Arc::clone(&state) };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            addresses.push(format!("http://{}", listener.local_addr().expect("an address")));
            let service = GatewayLinkServer::new(control.clone());
            let server = tonic::transport::Server::builder().add_service(service);
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            controls.push(control);
        }
        (controls, addresses)
    }

    /// Another node owns the partition from here on; the attachment to the one before ends.
    pub fn move_to(&self, partition: PartitionId, node: usize) {
        let mut state = self.state();
        state.owners.insert(partition, node);
        state.downs.remove(&partition);
    }

    pub fn partition_of(&self, stream: &str) -> PartitionId {
        self.state().partitions.of(stream)
    }

    /// Partitions that are attached.
    pub fn attached(&self) -> usize {
        self.state().downs.len()
    }

    pub fn acceptor(&self) -> mpsc::Sender<DuplexStream> {
        self.acceptor.clone()
    }

    /// Attachments so far.
    pub fn attachments(&self) -> usize {
        self.state().attachments
    }

    pub fn hellos(&self) -> Vec<v1::LinkHello> {
        self.state().hellos.clone()
    }

    pub fn online(&self) -> Vec<v1::LinkConnection> {
        self.state().online.clone()
    }

    pub fn offline(&self) -> Vec<v1::LinkConnection> {
        self.state().offline.clone()
    }

    /// Bytes that the gateway has said to have taken.
    pub fn credit(&self) -> u64 {
        self.state().credit
    }

    /// Whether the present attachment wants a stream.
    pub fn interested(&self, stream: &str) -> bool {
        self.state().interest.contains(stream)
    }

    /// Appends messages and delivers them in one item, if the gateway is interested.
    pub fn push(&self, stream: &str, contents: &[&str]) {
        let mut state = self.state();
        let deliver = state.append(stream, contents.iter().map(|content| text_message(content)).collect());
        state.deliver(deliver);
    }

    /// Sends one item of the first partition as it is.
    pub fn send(&self, item: Down) {
        self.state().send(PartitionId(0), vec![item]);
    }

    /// Ends the present attachments.
    pub fn cut(&self) {
        self.state().downs.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// False: it is refused.
    fn begin(&self, hello: v1::LinkHello, down: &mpsc::Sender<Result<v1::LinkDown, Status>>) -> bool {
        let mut state = self.state();
        let partition = PartitionId(hello.partition);
        state.hellos.push(hello);
        if state.owners.get(&partition) != Some(&self.node) {
            return false;
        }
        state.attachments += 1;
        let ours = state.partitions;
        state.interest.retain(|stream| ours.of(stream) != partition);
        state.downs.insert(partition, down.clone());
        let partitions = ours.count();
        state.send(partition, vec![Down::Attached(v1::LinkAttached { partitions, ..Default::default() })]);
        true
    }

    fn take(&self, partition: PartitionId, item: Up) {
        let mut state = self.state();
        match item {
            Up::Hello(_) => panic!("a second hello"),
            Up::Interest(interest) => {
                state.interest.extend(interest.add);
                state.interest.retain(|stream| !interest.remove.contains(stream));
            }
            Up::InterestEnd(_) => {}
            Up::Open(open) => state.open(partition, open),
            Up::Request(request) => state.request(partition, request),
            Up::Credit(credit) => state.credit += credit.bytes,
            Up::Presence(presence) => {
                state.online.extend(presence.online);
                state.offline.extend(presence.offline);
            }
        }
    }
}

impl State {
    fn new(partitions: u32, nodes: usize) -> Arc<Mutex<State>> {
        let partitions = Partitions::new(partitions).expect("a valid count");
        Arc::new(Mutex::new(State {
            partitions,
            owners: partitions.all().map(|of| (of, of.0 as usize % nodes)).collect(),
            streams: BTreeMap::new(),
            interest: BTreeSet::new(),
            downs: BTreeMap::new(),
            attachments: 0,
            hellos: Vec::new(),
            online: Vec::new(),
            offline: Vec::new(),
            credit: 0,
        }))
    }

    fn append(&mut self, stream: &str, messages: Vec<v1::Message>) -> v1::LinkDeliver {
        let stored = self.streams.entry(stream.to_owned()).or_default();
        let after = stored.len() as u64;
        for (message, seq) in messages.into_iter().zip(after + 1..) {
            stored.push(v1::Message { seq, id: format!("{stream}/{seq}"), ..message });
        }
        let upto = stored.len() as u64;
        v1::LinkDeliver {
            partition: self.partitions.of(stream).0,
            owner_epoch: 1,
            lsn: upto,
            stream: stream.to_owned(),
            epoch: EPOCH.into(),
            after: Some(after),
            upto: Some(upto),
            messages: wire(&stored[after as usize..]),
        }
    }

    fn deliver(&mut self, deliver: v1::LinkDeliver) {
        if self.interest.contains(&deliver.stream) {
            self.send(PartitionId(deliver.partition), vec![Down::Deliver(deliver)]);
        }
    }

    fn send(&mut self, partition: PartitionId, items: Vec<Down>) {
        let items = items.into_iter().map(|item| v1::LinkDownItem { item: Some(item) }).collect();
        if let Some(down) = self.downs.get(&partition) {
            // The channel is far larger than what a test sends.
            down.try_send(Ok(v1::LinkDown { items })).expect("room for an item");
        }
    }

    fn head(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(0, |messages| messages.len() as u64)
    }

    fn slice(&self, stream: &str, after: u64, limit: usize) -> &[v1::Message] {
        let messages = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let from = (after as usize).min(messages.len());
        &messages[from..messages.len().min(from.saturating_add(limit))]
    }

    /// With `auto_join` also the inbox and, where there are several partitions, everybody's group.
    fn open(&mut self, partition: PartitionId, open: v1::LinkOpen) {
        let mut wanted = open.streams;
        let mut items = Vec::new();
        let everybody = "g:_all".to_owned();
        if open.auto_join && self.partitions != Partitions::ONE {
            match self.partitions.of(&everybody) == partition {
                true => wanted.push(v1::LinkOpenStream { stream: everybody, auto: true, ..Default::default() }),
                false => items.push(Down::Also(v1::LinkAlso { corr: open.corr, streams: vec![everybody] })),
            }
        }
        let inbox = format!("u:{}", open.uid);
        if open.auto_join && wanted.iter().all(|stream| stream.stream != inbox) {
            wanted.push(v1::LinkOpenStream { stream: inbox, ..Default::default() });
        }
        for asked in wanted {
            let head = self.head(&asked.stream);
            let start = asked.after.unwrap_or(head).min(head);
            self.interest.insert(asked.stream.clone());
            items.push(Down::Opened(v1::LinkOpened {
                corr: open.corr,
                epoch: EPOCH.into(),
                head,
                first: 1,
                start,
                recovered: v1::Recovered::Full.into(),
                page: true,
                messages: wire(self.slice(&asked.stream, start, usize::MAX)),
                open_group: asked.stream.starts_with("g:"),
                listed: asked.after.is_some(),
                stream: asked.stream,
                error: None,
            }));
        }
        items.push(Down::OpenEnd(v1::LinkOpenEnd { corr: open.corr }));
        self.send(partition, items);
    }

    fn request(&mut self, partition: PartitionId, request: v1::LinkRequest) {
        use v1::link_reply::Ok as Reply;
        let ok = match request.op.expect("an operation") {
            Op::Send(send) => {
                let message =
                    v1::Message { from: request.uid, client_msg_id: send.client_msg_id, ..text_message(&send.content) };
                let deliver = self.append(&send.to, vec![message]);
                let seq = deliver.upto;
                let message_id = format!("{}/{}", send.to, seq.unwrap_or_default());
                self.deliver(deliver);
                Reply::Sent(v1::LinkSent { stream: send.to, epoch: EPOCH.into(), seq, message_id, duplicate: false })
            }
            Op::Pull(pull) => {
                let messages = wire(self.slice(&pull.stream, pull.after, pull.limit.max(1) as usize));
                let upto = pull.after + messages.len() as u64;
                let head = self.head(&pull.stream);
                let (after, epoch) = (pull.after, EPOCH.into());
                Reply::Pulled(v1::LinkPulled { stream: pull.stream, epoch, after, upto, messages, head, first: 1 })
            }
            Op::Heads(heads) => {
                let head = |stream: String| v1::LinkHead {
                    head: self.head(&stream),
                    stream,
                    epoch: EPOCH.into(),
                    first: 1,
                    error: None,
                };
                Reply::Heads(v1::LinkHeadsResult { streams: heads.streams.into_iter().map(head).collect() })
            }
            Op::Ack(_) | Op::Read(_) => Reply::Done(v1::LinkDone {}),
        };
        self.send(partition, vec![Down::Reply(v1::LinkReply { corr: request.corr, error: None, ok: Some(ok) })]);
    }
}

fn text_message(content: &str) -> v1::Message {
    v1::Message { r#type: "text".into(), content: content.into(), from: "billing".into(), ..Default::default() }
}

fn wire(messages: &[v1::Message]) -> Vec<v1::LinkMessage> {
    messages.iter().map(|message| v1::LinkMessage { message: Some(message.clone()), platforms: Vec::new() }).collect()
}

#[tonic::async_trait]
impl GatewayLink for Control {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::LinkDown, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<v1::LinkUp>>) -> Result<Response<Self::AttachStream>, Status> {
        let (down, from) = mpsc::channel(64 * 1024);
        let mut up = request.into_inner();
        let control = self.clone();
        tokio::spawn(async move {
            let first = up.message().await.ok().flatten().map(|batch| batch.items).unwrap_or_default();
            let mut items = first.into_iter().filter_map(|item| item.item);
            let Some(Up::Hello(hello)) = items.next() else { return };
            let partition = PartitionId(hello.partition);
            if !control.begin(hello, &down) {
                let _ = down.try_send(Err(Status::failed_precondition("another node owns the partition")));
                return;
            }
            let own = down.downgrade();
            drop(down);
            items.for_each(|item| control.take(partition, item));
            while let Ok(Some(batch)) = up.message().await {
                batch.items.into_iter().filter_map(|item| item.item).for_each(|item| control.take(partition, item));
            }
            let mut state = control.state();
            let ours = |down: &mpsc::Sender<_>| own.upgrade().is_some_and(|own| own.same_channel(down));
            if state.downs.get(&partition).is_some_and(ours) {
                state.downs.remove(&partition);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }
}
