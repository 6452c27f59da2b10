//! Why a store cannot be opened, and what a failure of PostgreSQL means to the partition.

use std::error::Error as _;

use tidegate_control_core::ports::StoreError;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("a schema is named by [a-z_][a-z0-9_]*, at most 63 of them, not {0:?}")]
    Schema(String),
    #[error("no thread for the connections to PostgreSQL")]
    Thread(#[source] std::io::Error),
    #[error("no randomness for the store's base epoch")]
    Randomness(#[source] std::io::Error),
    #[error("the tables are of version {found}, newer than {known}: this program is too old for them")]
    Newer { found: i32, known: i32 },
    #[error("the tables are spread over {found} partitions, not {asked}: this is decided once")]
    Partitions { found: u32, asked: u32 },
    #[error("PostgreSQL does not let the store be opened")]
    Failed(#[from] Failure),
}

/// A request that was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("PostgreSQL: {}", chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("PostgreSQL does not answer within {0:?}")]
    Late(std::time::Duration),
    /// All connections for reading are in use and none came back in time.
    #[error("no connection became free within {0:?}")]
    Busy(std::time::Duration),
    /// A row that this program cannot have written.
    #[error("the store is damaged: {0}")]
    Damaged(Box<str>),
    #[error("a newer owner has this partition")]
    Fenced,
}

impl Failure {
    pub(super) fn damaged(what: impl std::fmt::Display) -> Failure {
        Failure::Damaged(what.to_string().into())
    }

    /// Whether asking again may help: the server is away, starting, stopping, full or busy, or gave up for another's sake.
    /// All else (a missing table, a key that stands there already, a value that does not fit) stays as it is.
    pub fn may_pass(&self) -> bool {
        let Failure::Postgres(error) = self else { return !matches!(self, Failure::Damaged(_) | Failure::Fenced) };
        let Some(state) = error.code() else { return true };
        let passing = ["08", "25", "40", "53", "55", "57", "58"];
        passing.iter().any(|class| state.code().starts_with(class))
            || *state == SqlState::TOO_MANY_CONNECTIONS
            || *state == SqlState::READ_ONLY_SQL_TRANSACTION
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Fenced => StoreError::Fenced,
            failure if failure.may_pass() => StoreError::Unavailable(failure.to_string().into()),
            failure => StoreError::Fatal(failure.to_string().into()),
        }
    }
}

/// With its causes: what the server said stands only there.
fn chain(error: &tokio_postgres::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_may_pass_is_worth_trying_again() {
        let late = Failure::Late(Duration::from_secs(1));
        assert!(matches!(StoreError::from(late), StoreError::Unavailable(_)));
        assert!(matches!(StoreError::from(Failure::damaged("a row")), StoreError::Fatal(_)));
        assert!(matches!(StoreError::from(Failure::Fenced), StoreError::Fenced));
    }
}
