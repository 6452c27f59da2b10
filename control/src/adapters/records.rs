//! The index of records that the settings name.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::adapters::opensearch::{self, Credentials, OpenSearchOptions, OpenSearchRecords};
use crate::adapters::postgres;
use crate::adapters::postgres::records::{PostgresRecords, PostgresRecordsOptions};
use crate::records::{Kind, MemoryIndex, RecordIndex, Settings};

/// Largest file of a secret or of certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum OpenIndexError {
    #[error("the settings of records have problems: {0}")]
    Settings(String),
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the URL of PostgreSQL cannot be read")]
    Url(#[source] tokio_postgres::Error),
    #[error("records in PostgreSQL")]
    Postgres(#[from] postgres::OpenError),
    #[error("records in OpenSearch")]
    OpenSearch(#[from] opensearch::OpenError),
}

/// `None`: no records are kept. Reads files, and asks no server yet: one that is away holds up no start.
pub fn open_index(settings: &Settings) -> Result<Option<Arc<dyn RecordIndex>>, OpenIndexError> {
    let problems = settings.problems();
    if !problems.is_empty() {
        let texts: Vec<String> = problems.iter().map(|(key, text)| format!("{key}: {text}")).collect();
        return Err(OpenIndexError::Settings(texts.join("; ")));
    }
    let timeout = Duration::from_millis(u64::from(settings.timeout_ms));
    let index: Arc<dyn RecordIndex> = match settings.kind {
        Kind::None => return Ok(None),
        Kind::Memory => Arc::new(MemoryIndex::new(settings.retention_days)),
        Kind::Postgres => {
            let url = settings.urls.first().map(String::as_str).unwrap_or_default();
            let mut server: tokio_postgres::Config = url.parse().map_err(OpenIndexError::Url)?;
            if let Some(path) = &settings.password_file {
                server.password(secret(path)?);
            }
            let options = PostgresRecordsOptions {
                schema: settings.schema.clone(),
                timeout,
                keep_days: settings.retention_days,
                ..PostgresRecordsOptions::new(server)
            };
            Arc::new(PostgresRecords::new(options)?)
        }
        Kind::OpenSearch => {
            let options = OpenSearchOptions {
                credentials: credentials(settings)?,
                authority: settings.ca_file.as_deref().map(read).transpose()?,
                prefix: settings.index_prefix.clone(),
                replicas: settings.replicas,
                keep_days: settings.retention_days,
                timeout,
                ..OpenSearchOptions::new(settings.urls.clone())
            };
            Arc::new(OpenSearchRecords::new(options)?)
        }
    };
    Ok(Some(index))
}

fn credentials(settings: &Settings) -> Result<Credentials, OpenIndexError> {
    Ok(match (&settings.user, &settings.password_file, &settings.api_key_file) {
        (Some(user), Some(password), _) => Credentials::Basic { user: user.clone(), password: secret(password)? },
        (_, _, Some(key)) => Credentials::ApiKey(secret(key)?),
        _ => Credentials::None,
    })
}

/// The text of a file, without the line end that editors add.
fn secret(path: &Path) -> Result<String, OpenIndexError> {
    let text = String::from_utf8(read(path)?).map_err(|error| OpenIndexError::File {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, OpenIndexError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|source| OpenIndexError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<bool, OpenIndexError> {
        open_index(&toml::from_str(text).expect("settings")).map(|index| index.is_some())
    }

    #[test]
    fn each_kind_opens_without_its_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let password = folder.path().join("password");
        fs::write(&password, "s3cret\n").expect("written");
        assert_eq!(secret(&password).expect("a secret"), "s3cret");
        let password = password.display();
        assert!(!open("").expect("none"));
        for text in [
            "kind = \"memory\"".to_owned(),
            format!("kind = \"postgres\"\nurls = [\"postgres://t@127.0.0.1:1/t\"]\npassword_file = \"{password}\""),
            format!("kind = \"opensearch\"\nurls = [\"http://a\"]\nuser = \"u\"\npassword_file = \"{password}\""),
            format!("kind = \"opensearch\"\nurls = [\"http://a\"]\napi_key_file = \"{password}\""),
        ] {
            assert!(open(&text).expect("opened"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(matches!(open("kind = \"postgres\""), Err(OpenIndexError::Settings(_))));
        let missing = "kind = \"opensearch\"\nurls = [\"http://a\"]\nca_file = \"/does/not/exist\"";
        assert!(matches!(open(missing), Err(OpenIndexError::File { .. })));
    }
}
