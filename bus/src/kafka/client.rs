//! What all clients of Kafka share: configuration, the meaning of errors, logs.

use std::fs;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::port::{BusError, PublishError};
use crate::settings::{RECORD_BYTES_MAX, Settings};

/// New partitions are known after this at the latest.
const METADATA_REFRESH_MS: u32 = 10_000;

/// Brokers, security and what keeps connections healthy. Holds the password, so it is never printed.
pub fn config(settings: &Settings) -> Result<ClientConfig, BusError> {
    settings.check().map_err(|problems| BusError::Settings(problems.join("; ")))?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers);
    config.set("client.id", "tidegate");
    config.set("socket.keepalive.enable", "true");
    config.set("reconnect.backoff.ms", "50");
    config.set("reconnect.backoff.max.ms", "2000");
    config.set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS.to_string());
    config.set("metadata.max.age.ms", (3 * METADATA_REFRESH_MS).to_string());
    // A topic that was just made is not everywhere known at once; one that is not there after this is unknown.
    config.set("topic.metadata.propagation.max.ms", "3000");
    config.set_log_level(RDKafkaLogLevel::Warning);
    let security = &settings.security;
    config.set("security.protocol", security.protocol());
    if let (Some(mechanism), Some(file)) = (security.mechanism, &security.password_file) {
        let password = fs::read_to_string(file)
            .map_err(|error| BusError::Settings(format!("security.password_file {}: {error}", file.display())))?;
        config.set("sasl.mechanism", mechanism.as_str());
        config.set("sasl.username", &security.username);
        config.set("sasl.password", password.trim_end_matches(['\r', '\n']));
    }
    for (key, file) in [
        ("ssl.ca.location", &security.ca_file),
        ("ssl.certificate.location", &security.cert_file),
        ("ssl.key.location", &security.key_file),
    ] {
        if let Some(file) = file {
            config.set(key, file.display().to_string());
        }
    }
    Ok(config)
}

fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::PolicyViolation
            | Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidTopic
            | Code::InvalidRequest
            | Code::InvalidArgument
    )
}

fn is_unknown(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

/// `about`: the topic or group that was asked about.
pub fn bus_error(error: &KafkaError, about: &str) -> BusError {
    match error.rdkafka_error_code() {
        Some(code) => code_error(code, about),
        None => BusError::Unavailable(format!("{about}: {error}")),
    }
}

pub fn code_error(code: Code, about: &str) -> BusError {
    match code {
        code if is_unknown(code) => BusError::UnknownTopic(about.to_owned()),
        code if is_refusal(code) => BusError::Refused(format!("{about}: {code}")),
        Code::NonEmptyGroup | Code::UnknownMemberId | Code::IllegalGeneration => BusError::GroupActive,
        code => BusError::Unavailable(format!("{about}: {code}")),
    }
}

pub fn publish_error(error: &KafkaError, topic: &str, bytes: usize) -> PublishError {
    match error.rdkafka_error_code() {
        Some(Code::QueueFull) => PublishError::BufferFull,
        Some(Code::MessageTimedOut) => PublishError::TimedOut,
        Some(Code::PurgeQueue | Code::PurgeInflight) => PublishError::Closed,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
            PublishError::TooLarge { bytes, max: RECORD_BYTES_MAX }
        }
        Some(code) if is_unknown(code) => PublishError::UnknownTopic(topic.to_owned()),
        Some(code) if is_refusal(code) => PublishError::Refused(format!("{topic}: {code}")),
        _ => PublishError::Failed(format!("{topic}: {error}")),
    }
}

/// What librdkafka wants to say goes where our own lines go.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "kafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(target: "kafka", facility, "{message}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", facility, "{message}"),
    }
}
