use super::*;

const NOW_MS: i64 = 1_790_000_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn verifier() -> Verifier {
    let key = Key::new(Algorithm::HS256, Some("k1".into()), SECRET).expect("key");
    Verifier::new(vec![key], &VerifierConfig::default()).expect("verifier")
}

fn issue(ttl_s: u64) -> String {
    Issuer::new(SECRET, Some("k1".into()))
        .expect("issuer")
        .issue("alice", Some("ios-1"), None, NOW_MS, ttl_s)
        .expect("token")
}

fn encode(header: &str, claims: &str, secret: &[u8]) -> String {
    use base64::Engine as _;
    let b64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", b64(header), b64(claims));
    let key = EncodingKey::from_secret(secret);
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).expect("signature");
    format!("{message}.{signature}")
}

#[test]
fn an_issued_token_is_accepted() {
    let claims = verifier().verify(&issue(60), NOW_MS).expect("claims");
    assert_eq!(claims.uid, "alice");
    assert_eq!(claims.device.as_deref(), Some("ios-1"));
    assert_eq!(claims.expires_at_ms, NOW_MS + 60_000);
}

#[test]
fn times_are_checked() {
    assert_eq!(verifier().verify(&issue(60), NOW_MS + 60_000), Err(TokenError::Expired));
    let future = encode(r#"{"alg":"HS256"}"#, r#"{"sub":"alice","exp":1790001000,"nbf":1790000500}"#, SECRET);
    assert_eq!(verifier().verify(&future, NOW_MS), Err(TokenError::NotYet));
    let eternal = encode(r#"{"alg":"HS256"}"#, r#"{"sub":"alice"}"#, SECRET);
    assert_eq!(verifier().verify(&eternal, NOW_MS), Err(TokenError::Malformed));
}

#[test]
fn forged_tokens_are_refused() {
    let claims = r#"{"sub":"alice","exp":1790001000}"#;
    let other_secret = encode(r#"{"alg":"HS256"}"#, claims, b"another secret of thirty-two byte");
    let other_kid = encode(r#"{"alg":"HS256","kid":"k2"}"#, claims, SECRET);
    let own_key = encode(r#"{"alg":"HS256","jku":"http://evil.example/keys"}"#, claims, SECRET);
    let wrong_alg = encode(r#"{"alg":"HS512"}"#, claims, SECRET);
    for token in [other_secret, other_kid, own_key, wrong_alg] {
        assert_eq!(verifier().verify(&token, NOW_MS), Err(TokenError::Signature));
    }
    let none = encode(r#"{"alg":"none"}"#, claims, SECRET);
    assert_eq!(verifier().verify(&none, NOW_MS), Err(TokenError::Malformed));
    for junk in ["", "a", "a.b", "a.b.c", "....", &format!("{}=", issue(60)), &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert_eq!(verifier().verify(junk, NOW_MS), Err(TokenError::Malformed), "{junk}");
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    // HS/RS confusion: a token signed by HMAC with the public key's text must not pass an RS256 key.
    let pem = include_bytes!("testdata/rsa.pub.pem");
    let key = Key::new(Algorithm::RS256, None, pem).expect("key");
    let verifier = Verifier::new(vec![key], &VerifierConfig::default()).expect("verifier");
    let token = encode(r#"{"alg":"HS256"}"#, r#"{"sub":"alice","exp":1790001000}"#, pem);
    assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::Signature));
}

#[test]
fn asymmetric_algorithms_are_accepted() {
    let claims = Wire { sub: "alice".into(), exp: NOW_MS / 1000 + 60, nbf: None, iat: None, dev: None, platform: None };
    let cases: [(Algorithm, EncodingKey, &[u8]); 3] = [
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(include_bytes!("testdata/rsa.key.pem")).expect("rsa"),
            include_bytes!("testdata/rsa.pub.pem"),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(include_bytes!("testdata/ec.key.pem")).expect("ec"),
            include_bytes!("testdata/ec.pub.pem"),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(include_bytes!("testdata/ed.key.pem")).expect("ed"),
            include_bytes!("testdata/ed.pub.pem"),
        ),
    ];
    for (algorithm, signer, public) in cases {
        let token = jsonwebtoken::encode(&Header::new(algorithm.jwt()), &claims, &signer).expect("token");
        let key = Key::new(algorithm, None, public).expect("key");
        let verifier = Verifier::new(vec![key], &VerifierConfig::default()).expect("verifier");
        assert_eq!(verifier.verify(&token, NOW_MS).expect("claims").uid, "alice", "{algorithm:?}");
    }
}

#[test]
fn audience_and_issuer_are_checked_when_configured() {
    let config = VerifierConfig { audiences: vec!["edge".into()], issuers: vec!["us".into()], leeway_s: 0 };
    let key = Key::new(Algorithm::HS256, None, SECRET).expect("key");
    let verifier = Verifier::new(vec![key], &config).expect("verifier");
    let good = encode(r#"{"alg":"HS256"}"#, r#"{"sub":"a","exp":1790001000,"aud":"edge","iss":"us"}"#, SECRET);
    assert!(verifier.verify(&good, NOW_MS).is_ok());
    for claims in [
        r#"{"sub":"a","exp":1790001000,"aud":"other","iss":"us"}"#,
        r#"{"sub":"a","exp":1790001000,"aud":"edge","iss":"them"}"#,
        r#"{"sub":"a","exp":1790001000}"#,
    ] {
        let token = encode(r#"{"alg":"HS256"}"#, claims, SECRET);
        assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::Audience));
    }
}

#[test]
fn a_subject_must_be_a_uid() {
    for sub in ["", "a b", "a:b", &"x".repeat(65), "ä", "a\n"] {
        let claims = serde_json::json!({"sub": sub, "exp": 1_790_001_000}).to_string();
        let token = encode(r#"{"alg":"HS256"}"#, &claims, SECRET);
        assert_eq!(verifier().verify(&token, NOW_MS), Err(TokenError::Subject), "{sub:?}");
    }
}

#[test]
fn secrets_do_not_appear_in_debug_output() {
    let key = Key::new(Algorithm::HS256, None, SECRET).expect("key");
    let issuer = Issuer::new(SECRET, None).expect("issuer");
    for text in [format!("{key:?}"), format!("{issuer:?}"), format!("{:?}", verifier())] {
        assert!(!text.contains("0123456789abcdef"), "{text}");
    }
}
