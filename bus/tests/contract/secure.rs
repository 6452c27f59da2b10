//! The contract over TLS with SCRAM, where each part is played by the user that `deploy/kafka/acls.sh` made for it, and what
//! these users may not do.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate_bus::kafka::KafkaBus;
use tidegate_bus::port::{Bus, BusError, GroupOptions, PublishError, Start};
use tidegate_bus::settings::{Mechanism, Security, Settings};
use xtask::servers::{self, KafkaAccess, Server};

use crate::rig::{DEADLINE, Rig, options, outgoing, quick, read, take};

const PREFIX: &str = "secure";

fn access() -> &'static KafkaAccess {
    static ACCESS: OnceLock<KafkaAccess> = OnceLock::new();
    ACCESS.get_or_init(|| {
        let url = servers::url(Server::KafkaSecure).expect("a secure Kafka to test against");
        let access = KafkaAccess::parse(&url).expect("its URL");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka/acls.sh");
        let mut command = Command::new(script);
        command.env("BROKERS", &access.brokers).env("COMMAND_CONFIG", access.admin_config());
        command.env("KAFKA_ACLS", access.acls_command()).env("PATTERN", "prefixed").env("GATEWAYS", "one two");
        for (name, value) in [
            ("UPSTREAM_TOPIC", "secure-upstream"),
            ("DOWNSTREAM_TOPIC", "secure-down-"),
            ("TASK_TOPIC", "secure-task"),
            ("USER_STATE_TOPIC", "secure-state"),
            ("DEAD_LETTER_TOPIC", "secure-dead"),
            ("HISTORY_TOPIC", "secure-history"),
            ("LOGIC_GROUP", "secure-group"),
            ("TASK_GROUP", "secure-task-group"),
            ("PUSH_GROUP", "secure-push-group"),
        ] {
            command.env(name, value);
        }
        let done = command.output().expect("the script runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        access
    })
}

fn settings(user: &str, mechanism: Mechanism) -> Settings {
    let access = access();
    let security = Security {
        mechanism: Some(mechanism),
        username: user.to_owned(),
        password_file: Some(access.password_file(user)),
        ca_file: Some(access.ca_file()),
        ..Security::default()
    };
    quick(Settings { brokers: access.brokers.clone(), security, ..Settings::default() })
}

fn bus(user: &str, mechanism: Mechanism) -> Arc<dyn Bus> {
    Arc::new(KafkaBus::new(settings(user, mechanism)).expect("a bus"))
}

pub fn rig() -> Rig {
    let [producer, consumer, operator] = ["api", "logic", "operator"].map(|user| bus(user, Mechanism::ScramSha512));
    Rig { producer, consumer, operator, prefix: PREFIX }
}

async fn refused_to_write(user: &str, topic: &str) {
    let outcome =
        bus(user, Mechanism::Plain).publisher().publish(outgoing(topic, Some(0), "k", "v")).expect("taken").await;
    assert!(matches!(outcome, Err(PublishError::Refused(_))), "{user} writes {topic}: {outcome:?}");
}

async fn refused_to_read(user: &str, topic: &str) {
    let bus = bus(user, Mechanism::Plain);
    let mut reader = bus.open(topic, 0, Start::Earliest).expect("a reader");
    let deadline = Instant::now() + DEADLINE;
    let error = loop {
        match reader.next(1, Duration::from_millis(200)).await {
            Ok(records) => assert_eq!(records, [], "{user} reads {topic}"),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "{user} is not told that it may not read {topic}");
    };
    assert!(matches!(error, BusError::Refused(_)), "{user} reads {topic}: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_does_its_own_and_no_more() {
    let rig = rig();
    let (upstream, task) = (rig.topic_named("upstream", 1).await, rig.topic_named("task", 1).await);
    let history = rig.topic_named("history", 1).await;
    refused_to_write("nobody", &upstream).await;
    refused_to_write("task", &upstream).await;
    refused_to_write("gateway-one", &upstream).await;
    refused_to_write("api", &history).await;
    refused_to_read("api", &upstream).await;
    refused_to_read("gateway-one", &history).await;

    let logic = bus("logic", Mechanism::ScramSha256);
    for topic in [&task, &history] {
        logic.publisher().publish(outgoing(topic, Some(0), "k", "v")).expect("taken").await.expect("placed");
    }
    let group = crate::rig::unique("secure-task-group");
    let mut member = bus("task", Mechanism::Plain).join(options(&group, &task)).expect("a member");
    take(&mut *member, 1).await;
    member.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_reads_only_what_is_for_it() {
    let rig = rig();
    let [one, two] = ["secure-down-one", "secure-down-two"];
    let specs = [rig.spec(one, 1), rig.spec(two, 1)];
    rig.operator.admin().create_missing(&specs).await.expect("topics");
    let logic = rig.consumer.publisher();
    for topic in [one, two] {
        logic.publish(outgoing(topic, Some(0), "k", "v")).expect("taken").await.expect("placed");
    }
    let gateway = bus("gateway-one", Mechanism::ScramSha512);
    let mut reader = gateway.open(one, 0, Start::Earliest).expect("a reader");
    assert_eq!(read(&mut *reader, 1).await.len(), 1);
    refused_to_read("gateway-one", two).await;
    let foreign = GroupOptions { topics: vec![one.to_owned()], ..options("gateway-two-group", one) };
    let mut member = gateway.join(foreign).expect("a member");
    let deadline = Instant::now() + DEADLINE;
    let error = loop {
        match member.next(Duration::from_millis(200)).await {
            Ok(records) => assert_eq!(records, [], "another gateway's group"),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "nobody says no");
    };
    assert!(matches!(error, BusError::Refused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "not-the-password").expect("written");
    let mut settings = settings("logic", Mechanism::Plain);
    settings.security.password_file = Some(file);
    settings.request_timeout_ms = 3000;
    assert!(!format!("{settings:?}").contains("not-the-password"));
    let bus = KafkaBus::new(settings).expect("a bus");
    let error = bus.admin().describe("secure-upstream").await.expect_err("no way in");
    assert!(!error.to_string().contains("not-the-password"), "{error}");
}
