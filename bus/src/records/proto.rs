//! Between our records and their protobuf forms, and the choice between these and JSON.

use prost::Message;
use tidegate_proto::v1;

use super::dead_letter::Json as DeadLetterJson;
use super::{
    DeadLetter, Downstream, ErrorClass, Form, Format, GroupFanout, OfflinePush, Priority, Sender, Task, TaskPayload,
    Undecodable, Upstream, UserState, fields,
};

/// JSON begins so. Read as protobuf it would be a group of field 15, and no record of ours has such a field.
const JSON_BEGINS: u8 = b'{';

fn is_json(bytes: &[u8]) -> Result<bool, Undecodable> {
    bytes.first().map(|first| *first == JSON_BEGINS).ok_or(Undecodable::Empty)
}

fn from_proto<P: Message + Default>(bytes: &[u8]) -> Result<P, Undecodable> {
    P::decode(bytes).map_err(|error| match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(&JSON_BEGINS) => Undecodable::Json("white space before the object".to_owned()),
        _ => Undecodable::Protobuf(error.to_string()),
    })
}

fn version(version: u32) -> u32 {
    if version == 0 { super::VERSION } else { version }
}

fn priority(priority: v1::Priority) -> Priority {
    match priority {
        v1::Priority::High => Priority::High,
        v1::Priority::Low => Priority::Low,
        v1::Priority::Unspecified | v1::Priority::Normal => Priority::Normal,
    }
}

impl From<Priority> for v1::Priority {
    fn from(priority: Priority) -> v1::Priority {
        match priority {
            Priority::High => v1::Priority::High,
            Priority::Normal => v1::Priority::Normal,
            Priority::Low => v1::Priority::Low,
        }
    }
}

fn checked(metadata: String) -> Result<String, Undecodable> {
    fields::check(&metadata).map_err(Undecodable::Protobuf)?;
    Ok(fields::unless_empty(&metadata))
}

impl Form for Upstream {
    fn encode(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Json => super::to_json(self),
            Format::Protobuf => v1::BusUpstream::from(self.clone()).encode_to_vec(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Upstream, Undecodable> {
        if is_json(bytes)? { super::from_json(bytes) } else { from_proto::<v1::BusUpstream>(bytes)?.try_into() }
    }
}

impl From<Upstream> for v1::BusUpstream {
    fn from(record: Upstream) -> v1::BusUpstream {
        let sender = match record.sender {
            Sender::Client => v1::BusSender::Client,
            Sender::Backend => v1::BusSender::Backend,
        };
        let class = if record.ephemeral { v1::MessageClass::Ephemeral } else { v1::MessageClass::Unspecified };
        v1::BusUpstream {
            message_id: record.message_id,
            from_user_id: record.from_user_id,
            to_user_id: record.to_user_id,
            conversation_id: record.conversation_id,
            content: record.content,
            message_type: record.message_type,
            metadata: record.metadata,
            gateway_id: record.gateway_id,
            timestamp: record.timestamp,
            version: record.version,
            stream: record.stream,
            sender: sender.into(),
            client_msg_id: record.client_msg_id,
            title: record.title,
            class: class.into(),
            priority: v1::Priority::from(record.priority).into(),
            ttl_s: record.ttl_s,
            platforms: record.platforms,
            content_bytes: record.content_bytes.map(Into::into),
            traceparent: record.traceparent,
        }
    }
}

impl TryFrom<v1::BusUpstream> for Upstream {
    type Error = Undecodable;

    fn try_from(record: v1::BusUpstream) -> Result<Upstream, Undecodable> {
        Ok(Upstream {
            sender: match record.sender() {
                v1::BusSender::Backend => Sender::Backend,
                v1::BusSender::Unspecified | v1::BusSender::Client => Sender::Client,
            },
            ephemeral: record.class() == v1::MessageClass::Ephemeral,
            priority: priority(record.priority()),
            message_id: record.message_id,
            from_user_id: record.from_user_id,
            to_user_id: record.to_user_id,
            conversation_id: record.conversation_id,
            content: record.content,
            message_type: record.message_type,
            metadata: checked(record.metadata)?,
            gateway_id: record.gateway_id,
            timestamp: record.timestamp,
            version: version(record.version),
            stream: record.stream,
            client_msg_id: record.client_msg_id,
            title: record.title,
            ttl_s: record.ttl_s,
            platforms: record.platforms,
            content_bytes: record.content_bytes.map(Into::into),
            traceparent: record.traceparent,
        })
    }
}

impl Form for Downstream {
    fn encode(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Json => super::to_json(self),
            Format::Protobuf => v1::BusDownstream::from(self.clone()).encode_to_vec(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Downstream, Undecodable> {
        if is_json(bytes)? { super::from_json(bytes) } else { from_proto::<v1::BusDownstream>(bytes)?.try_into() }
    }
}

impl From<Downstream> for v1::BusDownstream {
    fn from(record: Downstream) -> v1::BusDownstream {
        v1::BusDownstream {
            message_id: record.message_id,
            from_user_id: record.from_user_id,
            to_user_id: record.to_user_id,
            conversation_id: record.conversation_id,
            content: record.content,
            message_type: record.message_type,
            metadata: record.metadata,
            timestamp: record.timestamp,
            version: record.version,
            stream: record.stream,
            seq: record.seq,
            epoch: record.epoch,
            client_msg_id: record.client_msg_id,
            title: record.title,
            after: record.after,
            upto: record.upto,
            conv_seq: record.conv_seq,
            priority: v1::Priority::from(record.priority).into(),
            expires: record.expires,
            platforms: record.platforms,
            content_bytes: record.content_bytes.map(Into::into),
            partition: record.partition,
            history: record.history,
            owner_epoch: record.owner_epoch,
            lsn: record.lsn,
            traceparent: record.traceparent,
        }
    }
}

impl TryFrom<v1::BusDownstream> for Downstream {
    type Error = Undecodable;

    fn try_from(record: v1::BusDownstream) -> Result<Downstream, Undecodable> {
        Ok(Downstream {
            priority: priority(record.priority()),
            message_id: record.message_id,
            from_user_id: record.from_user_id,
            to_user_id: record.to_user_id,
            conversation_id: record.conversation_id,
            content: record.content,
            message_type: record.message_type,
            metadata: checked(record.metadata)?,
            timestamp: record.timestamp,
            version: version(record.version),
            stream: record.stream,
            seq: record.seq,
            epoch: record.epoch,
            client_msg_id: record.client_msg_id,
            title: record.title,
            after: record.after,
            upto: record.upto,
            conv_seq: record.conv_seq,
            expires: record.expires,
            platforms: record.platforms,
            content_bytes: record.content_bytes.map(Into::into),
            partition: record.partition,
            history: record.history,
            owner_epoch: record.owner_epoch,
            lsn: record.lsn,
            traceparent: record.traceparent,
        })
    }
}

impl Form for Task {
    fn encode(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Json => self.to_json(),
            Format::Protobuf => v1::BusTask::from(self.clone()).encode_to_vec(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Task, Undecodable> {
        if is_json(bytes)? { Task::from_json(bytes) } else { from_proto::<v1::BusTask>(bytes)?.try_into() }
    }
}

impl From<Task> for v1::BusTask {
    fn from(task: Task) -> v1::BusTask {
        use v1::bus_task::Payload;
        v1::BusTask {
            task_id: task.task_id,
            payload: Some(match task.payload {
                TaskPayload::PersistMessage(message) => Payload::PersistMessage((*message).into()),
                TaskPayload::OfflinePush(push) => Payload::OfflinePush(v1::BusOfflinePush {
                    user_id: push.user_id,
                    message_id: push.message_id,
                    title: push.title,
                    content: push.content,
                    push_type: push.push_type,
                }),
                TaskPayload::GroupFanout(fanout) => Payload::GroupFanout(v1::BusGroupFanout {
                    group_id: fanout.group_id,
                    message_id: fanout.message_id,
                    exclude_user_ids: fanout.exclude_user_ids,
                    batch_size: fanout.batch_size,
                    epoch: fanout.epoch,
                    seq: fanout.seq,
                }),
            }),
            timestamp: task.timestamp,
            retry_count: task.retry_count,
            version: task.version,
            traceparent: task.traceparent,
        }
    }
}

impl TryFrom<v1::BusTask> for Task {
    type Error = Undecodable;

    fn try_from(task: v1::BusTask) -> Result<Task, Undecodable> {
        use v1::bus_task::Payload;
        let payload = match task.payload {
            None => return Err(Undecodable::Protobuf("a task without a known payload".to_owned())),
            Some(Payload::PersistMessage(message)) => TaskPayload::PersistMessage(Box::new(message.try_into()?)),
            Some(Payload::OfflinePush(push)) => TaskPayload::OfflinePush(OfflinePush {
                user_id: push.user_id,
                message_id: push.message_id,
                title: push.title,
                content: push.content,
                push_type: push.push_type,
            }),
            Some(Payload::GroupFanout(fanout)) => TaskPayload::GroupFanout(GroupFanout {
                group_id: fanout.group_id,
                message_id: fanout.message_id,
                exclude_user_ids: fanout.exclude_user_ids,
                batch_size: if fanout.batch_size == 0 { super::FANOUT_BATCH } else { fanout.batch_size },
                epoch: fanout.epoch,
                seq: fanout.seq,
            }),
        };
        Ok(Task {
            task_id: task.task_id,
            payload,
            timestamp: task.timestamp,
            retry_count: task.retry_count,
            version: version(task.version),
            traceparent: task.traceparent,
        })
    }
}

impl Form for UserState {
    fn encode(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Json => super::to_json(self),
            Format::Protobuf => v1::BusUserState {
                user_id: self.user_id.clone(),
                device_id: self.device_id.clone(),
                platform: self.platform.clone(),
                gateway_id: self.gateway_id.clone(),
                connection_id: self.connection_id.clone(),
                incarnation: self.incarnation.clone(),
                online: self.online,
                timestamp: self.timestamp,
                reason: self.reason.clone(),
                version: self.version,
            }
            .encode_to_vec(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<UserState, Undecodable> {
        if is_json(bytes)? {
            return super::from_json(bytes);
        }
        let state: v1::BusUserState = from_proto(bytes)?;
        Ok(UserState {
            user_id: state.user_id,
            device_id: state.device_id,
            platform: state.platform,
            gateway_id: state.gateway_id,
            connection_id: state.connection_id,
            incarnation: state.incarnation,
            online: state.online,
            timestamp: state.timestamp,
            reason: state.reason,
            version: version(state.version),
        })
    }
}

impl Form for DeadLetter {
    fn encode(&self, format: Format) -> Vec<u8> {
        let letter = self.clone();
        if format == Format::Json {
            return super::to_json(&DeadLetterJson::from(letter));
        }
        let headers = letter.headers.into_iter();
        v1::BusDeadLetter {
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            key: letter.key.map(Into::into),
            headers: headers.map(|(name, value)| v1::BusHeader { name, value: value.into() }).collect(),
            value: letter.value.into(),
            group: letter.group,
            reason: letter.reason,
            error_class: letter.class.as_str().to_owned(),
            attempts: letter.attempts,
            produced_at: letter.produced_at,
            failed_at: letter.failed_at,
            version: letter.version,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<DeadLetter, Undecodable> {
        if is_json(bytes)? {
            return super::from_json::<DeadLetterJson>(bytes).map(Into::into);
        }
        let letter: v1::BusDeadLetter = from_proto(bytes)?;
        let classes = [ErrorClass::Undecodable, ErrorClass::Invalid, ErrorClass::Refused];
        let class = classes.into_iter().find(|class| class.as_str() == letter.error_class);
        let unknown = || Undecodable::Protobuf(format!("unknown error_class {:?}", letter.error_class));
        let headers = letter.headers.into_iter();
        Ok(DeadLetter {
            class: class.ok_or_else(unknown)?,
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            key: letter.key.map(Into::into),
            headers: headers.map(|header| (header.name, header.value.into())).collect(),
            value: letter.value.into(),
            group: letter.group,
            reason: letter.reason,
            attempts: letter.attempts,
            produced_at: letter.produced_at,
            failed_at: letter.failed_at,
            version: version(letter.version),
        })
    }
}
