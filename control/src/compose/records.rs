//! The index of push records and texts that a configuration asks for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ComposeError;
use crate::adapters::opensearch::{Credentials, OpenSearchOptions, OpenSearchRecords};
use crate::adapters::postgres::records::{PostgresRecords, PostgresRecordsOptions};
use crate::api::Records;
use crate::metrics::Metrics;
use crate::records::{BREAKER, Feeding, Kind, MemoryIndex, RecordIndex, Settings};

/// Begins to feed it, on this runtime; `None`: no records are kept. Asks nothing of a server yet.
pub(crate) fn records(settings: &Settings, metrics: &Metrics) -> Result<Option<(Records, Feeding)>, ComposeError> {
    let index: Arc<dyn RecordIndex> = match settings.kind {
        Kind::None => return Ok(None),
        Kind::Memory => Arc::new(MemoryIndex::new(settings.retention_days)),
        Kind::Postgres => Arc::new(postgres(settings)?),
        Kind::OpenSearch => Arc::new(opensearch(settings)?),
    };
    let guard = metrics.guard("records", BREAKER);
    let (feed, feeding) = Feeding::start(Arc::clone(&index), settings.feed_options(), guard, metrics.records.clone());
    Ok(Some((Records { index, feed }, feeding)))
}

fn postgres(settings: &Settings) -> Result<PostgresRecords, ComposeError> {
    let url = settings.urls.first().ok_or_else(|| ComposeError::Url("records.urls is needed".to_owned()))?;
    let parsed = url.parse::<tokio_postgres::Config>();
    let mut server = parsed.map_err(|_| ComposeError::Url("records.urls: no URL of PostgreSQL".to_owned()))?;
    if let Some(file) = &settings.password_file {
        server.password(secret(file)?);
    }
    let options = PostgresRecordsOptions {
        schema: settings.schema.clone(),
        timeout: Duration::from_millis(settings.timeout_ms.into()),
        keep_days: settings.retention_days,
        ..PostgresRecordsOptions::new(server)
    };
    Ok(PostgresRecords::new(options)?)
}

fn opensearch(settings: &Settings) -> Result<OpenSearchRecords, ComposeError> {
    let credentials = match (&settings.user, &settings.password_file, &settings.api_key_file) {
        (Some(user), Some(file), _) => Credentials::Basic { user: user.clone(), password: secret(file)? },
        (_, _, Some(file)) => Credentials::ApiKey(secret(file)?),
        _ => Credentials::None,
    };
    let authority = settings.ca_file.as_deref().map(secret).transpose()?.map(String::into_bytes);
    let options = OpenSearchOptions {
        credentials,
        authority,
        prefix: settings.index_prefix.clone(),
        replicas: settings.replicas,
        keep_days: settings.retention_days,
        timeout: Duration::from_millis(settings.timeout_ms.into()),
        ..OpenSearchOptions::new(settings.urls.clone())
    };
    OpenSearchRecords::new(options).map_err(|error| ComposeError::Records(error.to_string()))
}

fn secret(file: &Path) -> Result<String, ComposeError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|source| ComposeError::File { file: file.display().to_string(), source })?;
    Ok(text.trim().to_owned())
}
