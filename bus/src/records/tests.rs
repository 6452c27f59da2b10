use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn metadata() -> impl Strategy<Value = String> {
    let object = |(key, number): (String, i64)| format!("{{ \"{key}\": [{number}, 2.50, \"ä\\n\"],\n\"x\":{{}} }}");
    prop_oneof![Just(String::new()), ("[a-z]{1,8}", any::<i64>()).prop_map(object)]
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)]
}

fn content() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
    prop_oneof![
        any::<String>().prop_map(|text| (text, None)),
        vec(any::<u8>(), 0..40).prop_map(|bytes| (String::new(), Some(bytes))),
    ]
}

prop_compose! {
    fn upstream()(
        ids in vec(any::<String>(), 6),
        texts in vec(any::<String>(), 3),
        (content, content_bytes) in content(),
        metadata in metadata(),
        (timestamp, ttl_s, version) in (any::<i64>(), any::<u32>(), 1..9_u32),
        backend: bool,
        ephemeral: bool,
        client_msg_id in option::of(any::<String>()),
        priority in priority(),
        platforms in vec(any::<String>(), 0..3),
    ) -> Upstream {
        let [message_id, from_user_id, to_user_id, conversation_id, gateway_id, stream] = ids.try_into().expect("six");
        let [message_type, title, traceparent] = texts.try_into().expect("three");
        let sender = if backend { Sender::Backend } else { Sender::Client };
        Upstream {
            message_id, from_user_id, to_user_id, conversation_id, content, message_type, metadata, gateway_id, timestamp,
            version, stream, sender, client_msg_id, title, ephemeral, priority, ttl_s, platforms, content_bytes, traceparent,
        }
    }
}

prop_compose! {
    fn downstream()(
        ids in vec(any::<String>(), 8),
        texts in vec(any::<String>(), 3),
        (content, content_bytes) in content(),
        metadata in metadata(),
        (timestamp, expires, version) in (any::<i64>(), any::<i64>(), 1..9_u32),
        numbers in vec(any::<u64>(), 6),
        partition: u32,
        priority in priority(),
        platforms in vec(any::<String>(), 0..3),
    ) -> Downstream {
        let [message_id, from_user_id, to_user_id, conversation_id, stream, epoch, client_msg_id, history] =
            ids.try_into().expect("eight");
        let [message_type, title, traceparent] = texts.try_into().expect("three");
        let [seq, after, upto, conv_seq, owner_epoch, lsn] = numbers.try_into().expect("six");
        Downstream {
            message_id, from_user_id, to_user_id, conversation_id, content, message_type, metadata, timestamp, version,
            stream, seq, epoch, after, upto, conv_seq, client_msg_id, title, priority, expires, platforms, content_bytes,
            partition, history, owner_epoch, lsn, traceparent,
        }
    }
}

fn payload() -> impl Strategy<Value = TaskPayload> {
    let push = vec(any::<String>(), 5).prop_map(|texts| {
        let [user_id, message_id, title, content, push_type] = texts.try_into().expect("five");
        TaskPayload::OfflinePush(OfflinePush { user_id, message_id, title, content, push_type })
    });
    let fanout = (vec(any::<String>(), 3), vec(any::<String>(), 0..4), 1..1000_u32, any::<u64>());
    let fanout = fanout.prop_map(|(texts, exclude_user_ids, batch_size, seq)| {
        let [group_id, message_id, epoch] = texts.try_into().expect("three");
        TaskPayload::GroupFanout(GroupFanout { group_id, message_id, exclude_user_ids, batch_size, epoch, seq })
    });
    prop_oneof![upstream().prop_map(|record| TaskPayload::PersistMessage(Box::new(record))), push, fanout]
}

prop_compose! {
    fn task()(
        (task_id, traceparent) in any::<(String, String)>(),
        payload in payload(),
        (timestamp, retry_count, version) in (any::<i64>(), any::<u32>(), 1..9_u32),
    ) -> Task {
        Task { task_id, payload, timestamp, retry_count, version, traceparent }
    }
}

prop_compose! {
    fn user_state()(
        texts in vec(any::<String>(), 7),
        (online, timestamp, version) in (any::<bool>(), any::<i64>(), 1..9_u32),
    ) -> UserState {
        let [user_id, device_id, platform, gateway_id, connection_id, incarnation, reason] = texts.try_into().expect("seven");
        UserState {
            user_id, device_id, platform, gateway_id, connection_id, incarnation, online, timestamp, reason, version,
        }
    }
}

prop_compose! {
    fn dead_letter()(
        (topic, group, reason) in any::<(String, String, String)>(),
        (partition, offset, attempts) in any::<(i32, i64, u32)>(),
        key in option::of(vec(any::<u8>(), 0..20)),
        headers in vec((any::<String>(), vec(any::<u8>(), 0..20)), 0..3),
        value in vec(any::<u8>(), 0..60),
        class in prop_oneof![Just(ErrorClass::Undecodable), Just(ErrorClass::Invalid), Just(ErrorClass::Refused)],
        (produced_at, failed_at) in any::<(i64, i64)>(),
    ) -> DeadLetter {
        DeadLetter {
            topic, partition, offset, key, headers, value, group, reason, class, attempts, produced_at, failed_at, version: 1,
        }
    }
}

fn returns<T: Form + PartialEq + std::fmt::Debug>(record: &T) -> Result<(), TestCaseError> {
    for format in [Format::Json, Format::Protobuf] {
        let bytes = record.encode(format);
        // The topic's readers know the form by its first byte.
        prop_assert_eq!(bytes.first() == Some(&b'{'), format == Format::Json);
        prop_assert_eq!(&T::decode(&bytes).expect("what was encoded"), record);
    }
    Ok(())
}

proptest! {
    #[test]
    fn upstream_records_lose_nothing(record in upstream()) {
        returns(&record)?;
    }

    #[test]
    fn downstream_records_lose_nothing(record in downstream()) {
        returns(&record)?;
    }

    #[test]
    fn tasks_lose_nothing(record in task()) {
        returns(&record)?;
    }

    #[test]
    fn user_states_lose_nothing(record in user_state()) {
        returns(&record)?;
    }

    #[test]
    fn dead_letters_lose_nothing(record in dead_letter()) {
        returns(&record)?;
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..80), json: bool) {
        let bytes = if json { [b"{".as_slice(), &bytes].concat() } else { bytes };
        let _ = Upstream::decode(&bytes);
        let _ = Downstream::decode(&bytes);
        let _ = Task::decode(&bytes);
        let _ = UserState::decode(&bytes);
        let _ = DeadLetter::decode(&bytes);
    }
}

/// As another system writes it: only the ten fields, in its own types.
#[test]
fn a_record_of_an_outside_producer_is_a_clients_send() {
    let record = Upstream::decode(
        br#"{"message_id": 77, "from_user_id": "ann", "to_user_id": "bob", "conversation_id": "single_ann_bob",
            "content": "hello", "message_type": "text", "metadata": "{\"format\":\"plain\"}", "gateway_id": "gw-1",
            "timestamp": 1700000000000, "version": "1.0", "unheard_of": [1, {"a": 2}]}"#,
    )
    .expect("a record");
    assert_eq!(record.sender, Sender::Client);
    assert_eq!((record.client_key(), record.target().as_deref()), ("77", Ok("u:bob")));
    assert_eq!(
        (&*record.metadata, record.version, record.content()),
        (r#"{"format":"plain"}"#, 1, b"hello".as_slice())
    );
}

#[test]
fn the_target_is_derived_where_no_stream_is_named() {
    let target = |stream: &str, to: &str, conversation: &str| {
        let [stream, to_user_id, conversation_id] = [stream, to, conversation].map(str::to_owned);
        Upstream { stream, to_user_id, conversation_id, ..Upstream::default() }.target()
    };
    assert_eq!(target("g:x", "bob", "y").as_deref(), Ok("g:x"));
    assert_eq!(target("", "bob", "y").as_deref(), Ok("u:bob"));
    assert_eq!(target("", "", "42").as_deref(), Ok("g:42"));
    assert_eq!(target("", "", "c:ann:bob").as_deref(), Ok("c:ann:bob"));
    assert_eq!(target("", "", ""), Err(BadTarget));
}

#[test]
fn a_backends_record_has_no_clients_key() {
    let record = Upstream { message_id: "7".to_owned(), sender: Sender::Backend, ..Upstream::default() };
    assert_eq!(record.client_key(), "");
}

/// Consumers of such topics know these names; a new field of ours needs a row in `docs/kafka.md`.
#[test]
fn the_json_has_the_names_that_others_know() {
    let names = |bytes: Vec<u8>| -> Vec<String> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes).expect("an object");
        object.keys().cloned().collect()
    };
    let ten = [
        "content",
        "conversation_id",
        "from_user_id",
        "gateway_id",
        "message_id",
        "message_type",
        "metadata",
        "timestamp",
        "to_user_id",
        "version",
    ];
    let upstream = names(Upstream::default().encode(Format::Json));
    assert_eq!(upstream, [ten.as_slice(), &["sender"]].concat().into_iter().sorted());
    let downstream = names(Downstream::default().encode(Format::Json));
    let nine: Vec<&str> = ten.into_iter().filter(|name| *name != "gateway_id").collect();
    assert_eq!(downstream, [nine.as_slice(), &["stream", "seq", "epoch"]].concat().into_iter().sorted());
    let push = OfflinePush { user_id: "ann".to_owned(), ..OfflinePush::default() };
    let task = Task {
        task_id: "1".to_owned(),
        payload: TaskPayload::OfflinePush(push),
        timestamp: 2,
        retry_count: 3,
        version: 1,
        traceparent: String::new(),
    };
    assert_eq!(
        String::from_utf8(task.encode(Format::Json)).expect("text"),
        "{\"task_type\":\"offline_push\",\"task_id\":\"1\",\"payload\":{\"user_id\":\"ann\",\"message_id\":\"\",\
         \"title\":\"\",\"content\":\"\",\"push_type\":\"\"},\"timestamp\":2,\"retry_count\":3,\"version\":1}"
    );
}

trait Sorted {
    fn sorted(self) -> Vec<String>;
}

impl<'a, I: Iterator<Item = &'a str>> Sorted for I {
    fn sorted(self) -> Vec<String> {
        let mut all: Vec<String> = self.map(str::to_owned).collect();
        all.sort_unstable();
        all
    }
}

#[test]
fn undecodable_bytes_say_why() {
    let why = |bytes: &[u8]| Upstream::decode(bytes).expect_err("no record").to_string();
    assert!(why(b"").contains("empty"));
    assert!(why(b"{\"message_id\": ").contains("JSON"), "{}", why(b"{\"message_id\": "));
    assert!(why(b"{\"metadata\": [1]}").contains("no object"));
    assert!(why(b"  {}").contains("white space"), "{}", why(b"  {}"));
    assert!(why(b"\xff\xff\xff").contains("protobuf"));
    let task = Task::decode(br#"{"payload": {}, "task_type": "dance", "task_id": "1"}"#);
    assert!(task.expect_err("no task").to_string().contains("dance"));
}

#[test]
fn a_tasks_payload_may_stand_before_its_type() {
    let task = Task::decode(br#"{"payload": {"group_id": 4, "message_id": "9"}, "task_type": "group_fanout"}"#);
    let TaskPayload::GroupFanout(fanout) = task.expect("a task").payload else { panic!("another payload") };
    assert_eq!((&*fanout.group_id, fanout.batch_size), ("4", FANOUT_BATCH));
}
