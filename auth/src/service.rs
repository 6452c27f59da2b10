//! Tokens of backends and nodes: kept as digests, compared, never shown.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Shortest service token.
pub const SERVICE_TOKEN_BYTES_MIN: usize = 32;
/// Most tokens of one file.
pub const SERVICE_TOKENS_MAX: usize = 256;
/// Largest file of tokens that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ServiceTokensError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: every token needs at least {SERVICE_TOKEN_BYTES_MIN} characters and no spaces, and there may be {SERVICE_TOKENS_MAX}", path.display())]
    BadToken { path: PathBuf },
}

/// The tokens that are accepted.
#[derive(Clone)]
pub struct ServiceTokens(Vec<[u8; 32]>);

impl ServiceTokens {
    /// One token a line; empty lines and those that begin with `#` are left out.
    pub fn load(path: &Path) -> Result<ServiceTokens, ServiceTokensError> {
        Ok(ServiceTokens::of(&read(path)?))
    }

    pub fn of(tokens: &[String]) -> ServiceTokens {
        ServiceTokens(tokens.iter().map(|token| digest(token)).collect())
    }

    pub fn contains(&self, token: &str) -> bool {
        self.place_of(token).is_some()
    }

    /// Which of the file's tokens it is, from 1, for logs. Digests are compared, so the time taken says nothing about a token.
    pub fn place_of(&self, token: &str) -> Option<usize> {
        let digest = digest(token);
        self.0.iter().position(|known| *known == digest).map(|at| at + 1)
    }
}

impl std::fmt::Debug for ServiceTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

/// The tokens of a file, in the clear.
pub fn read(path: &Path) -> Result<Vec<String>, ServiceTokensError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    file.map_err(|source| ServiceTokensError::Unreadable { path: path.to_owned(), source })?;
    let bad = || ServiceTokensError::BadToken { path: path.to_owned() };
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<String> = lines.map(str::to_owned).collect();
    let good = |token: &String| token.len() >= SERVICE_TOKEN_BYTES_MIN && !token.contains(char::is_whitespace);
    if tokens.is_empty() || tokens.len() > SERVICE_TOKENS_MAX || !tokens.iter().all(good) {
        return Err(bad());
    }
    Ok(tokens)
}

/// The token of an `Authorization`. The scheme's case does not matter (RFC 9110, 11.1).
pub fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<ServiceTokens, ServiceTokensError> {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("tokens");
        fs::write(&path, text).expect("written");
        ServiceTokens::load(&path)
    }

    #[test]
    fn the_lines_of_a_file_are_accepted_and_nothing_else() {
        let (one, two) = ("a".repeat(32), "b".repeat(40));
        let tokens = of(&format!("# ours\n{one}\n\n  {two} \n")).expect("tokens");
        assert_eq!((tokens.place_of(&one), tokens.place_of(&two)), (Some(1), Some(2)));
        assert!(!tokens.contains("# ours") && !tokens.contains("") && !tokens.contains(&"a".repeat(33)));
        assert!(!format!("{tokens:?}").contains(&one));
    }

    #[test]
    fn short_tokens_and_files_without_any_are_refused() {
        for text in ["", "# none\n", "short", &format!("{} {}", "a".repeat(32), "b".repeat(32)), &"x\n".repeat(300)] {
            let error = of(text).expect_err("refused");
            assert!(matches!(error, ServiceTokensError::BadToken { .. }), "{error}");
        }
        let missing = ServiceTokens::load(Path::new("/nonexistent/tokens"));
        assert!(matches!(missing, Err(ServiceTokensError::Unreadable { .. })));
    }

    #[test]
    fn a_bearer_is_one_word_behind_the_scheme() {
        assert_eq!(bearer_token("bEARER  abc "), Some("abc"));
        for not in ["abc", "Basic abc", "Bearer", "Bearer  ", ""] {
            assert_eq!(bearer_token(not), None, "{not:?}");
        }
    }
}
