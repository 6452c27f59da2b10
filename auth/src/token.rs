//! JSON Web Tokens: who a bearer is, for how long, and how we issue one.

use std::fmt;

use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// Longest token that is looked at; longer ones are refused unread.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Most keys of one verifier.
pub const KEYS_MAX: usize = 32;
/// Largest clock difference that `exp` and `nbf` forgive.
pub const LEEWAY_S_MAX: u64 = 60;
/// Life of the tokens that we issue unless told otherwise: 24 h.
pub const TTL_S_DEFAULT: u64 = 24 * 3600;

/// Signature algorithms that a key can be configured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    HS256,
    RS256,
    ES256,
    EdDSA,
}

impl Algorithm {
    fn jwt(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`.
    pub uid: String,
    /// `dev`.
    pub device: Option<String>,
    /// `platform`.
    pub platform: Option<String>,
    /// `exp`, in milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// One verification key. Its algorithm is fixed here; what a token's header claims must agree.
pub struct Key {
    algorithm: Algorithm,
    id: Option<String>,
    key: DecodingKey,
}

impl Key {
    /// `material` is the secret's bytes for HS256 (at least 32) and a PEM public key for the others.
    /// With an `id`, tokens that carry a `kid` use this key only if it matches.
    pub fn new(algorithm: Algorithm, id: Option<String>, material: &[u8]) -> Result<Key, KeyError> {
        let key = match algorithm {
            Algorithm::HS256 if material.len() < 32 => return Err(KeyError::ShortSecret),
            Algorithm::HS256 => DecodingKey::from_secret(material),
            Algorithm::RS256 => DecodingKey::from_rsa_pem(material).map_err(|_| KeyError::BadPem(algorithm))?,
            Algorithm::ES256 => DecodingKey::from_ec_pem(material).map_err(|_| KeyError::BadPem(algorithm))?,
            Algorithm::EdDSA => DecodingKey::from_ed_pem(material).map_err(|_| KeyError::BadPem(algorithm))?,
        };
        Ok(Key { algorithm, id, key })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("an HS256 secret needs at least 32 bytes")]
    ShortSecret,
    #[error("not a PEM public key for {0:?}")]
    BadPem(Algorithm),
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

/// What a verifier checks besides the signature.
#[derive(Clone, Debug, Default)]
pub struct VerifierConfig {
    /// If not empty, `aud` must name one of them.
    pub audiences: Vec<String>,
    /// If not empty, `iss` must be one of them.
    pub issuers: Vec<String>,
    /// At most [`LEEWAY_S_MAX`].
    pub leeway_s: u64,
}

/// Verifies tokens against a fixed set of keys.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<(Key, Validation)>,
    leeway_s: u64,
}

/// Why a token was refused. Never holds any part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's signature or key is not accepted")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token is not meant for this service")]
    Audience,
    #[error("the token's subject is not a valid uid")]
    Subject,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    sub: String,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
}

impl Verifier {
    pub fn new(keys: Vec<Key>, config: &VerifierConfig) -> Result<Verifier, KeyError> {
        if keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let keys = keys.into_iter().map(|key| {
            let validation = validation(key.algorithm, config);
            (key, validation)
        });
        Ok(Verifier { keys: keys.collect(), leeway_s: config.leeway_s.min(LEEWAY_S_MAX) })
    }

    /// `now_ms`: milliseconds since the Unix epoch.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX || token.contains('=') {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Keys that a token brings along or points to are never used, and saying so is better than ignoring them.
        if header.jku.is_some() || header.jwk.is_some() || header.x5u.is_some() || header.x5c.is_some() {
            return Err(TokenError::Signature);
        }
        let mut refusal = TokenError::Signature;
        for (key, validation) in &self.keys {
            let other_key = matches!((&key.id, &header.kid), (Some(own), Some(kid)) if own != kid);
            if other_key || header.alg != key.algorithm.jwt() {
                continue;
            }
            match jsonwebtoken::decode::<Wire>(token, &key.key, validation) {
                Ok(data) => return self.check_times(data.claims, now_ms),
                Err(error) => refusal = strongest(refusal, refusal_of(&error)),
            }
        }
        Err(refusal)
    }

    fn check_times(&self, wire: Wire, now_ms: i64) -> Result<Claims, TokenError> {
        let leeway_ms = self.leeway_s as i64 * 1000;
        let expires_at_ms = wire.exp.saturating_mul(1000);
        if expires_at_ms.saturating_add(leeway_ms) <= now_ms {
            return Err(TokenError::Expired);
        }
        if wire.nbf.is_some_and(|nbf| nbf.saturating_mul(1000) > now_ms.saturating_add(leeway_ms)) {
            return Err(TokenError::NotYet);
        }
        if !crate::dev::is_name(&wire.sub) {
            return Err(TokenError::Subject);
        }
        Ok(Claims { uid: wire.sub, device: wire.dev, platform: wire.platform, expires_at_ms })
    }
}

fn validation(algorithm: Algorithm, config: &VerifierConfig) -> Validation {
    let mut validation = Validation::new(algorithm.jwt());
    // Times are checked by us against the caller's clock, so that tests and the simulator own time.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let mut required = vec!["exp", "sub"];
    if config.audiences.is_empty() {
        validation.validate_aud = false;
    } else {
        validation.set_audience(&config.audiences);
        required.push("aud");
    }
    if !config.issuers.is_empty() {
        validation.set_issuer(&config.issuers);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// With several keys the answer that says most wins: a good signature with a wrong audience over a bad signature.
fn strongest(one: TokenError, other: TokenError) -> TokenError {
    if one == TokenError::Signature { other } else { one }
}

fn refusal_of(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::Signature,
        ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" || claim == "iss" => TokenError::Audience,
        _ => TokenError::Malformed,
    }
}

/// Signs tokens with HS256.
pub struct Issuer {
    key: EncodingKey,
    id: Option<String>,
}

impl Issuer {
    /// `secret`: at least 32 bytes.
    pub fn new(secret: &[u8], id: Option<String>) -> Result<Issuer, KeyError> {
        if secret.len() < 32 {
            return Err(KeyError::ShortSecret);
        }
        Ok(Issuer { key: EncodingKey::from_secret(secret), id })
    }

    /// A token for `uid`, good from `now_ms` for `ttl_s` seconds.
    pub fn issue(
        &self,
        uid: &str,
        device: Option<&str>,
        platform: Option<&str>,
        now_ms: i64,
        ttl_s: u64,
    ) -> Result<String, TokenError> {
        if !crate::dev::is_name(uid) {
            return Err(TokenError::Subject);
        }
        let now_s = now_ms / 1000;
        let wire = Wire {
            sub: uid.to_owned(),
            exp: now_s.saturating_add(ttl_s as i64),
            nbf: None,
            iat: Some(now_s),
            dev: device.map(str::to_owned),
            platform: platform.map(str::to_owned),
        };
        let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid.clone_from(&self.id);
        jsonwebtoken::encode(&header, &wire, &self.key).map_err(|_| TokenError::Malformed)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
