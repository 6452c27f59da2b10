use super::*;
use crate::front_door::rules::testing::{device_token, expired_token, rules, token};

fn hello_of(identity: Identity, wishes: Wishes, params: Option<DeflateParams>) -> Result<Hello, BadWish> {
    hello(identity, wishes, Encoding::Json, params, None, &rules())
}

fn wishes(device: &str, platform: &str) -> Wishes {
    Wishes { device: Some(device.into()), platform: Some(platform.into()), ..Wishes::default() }
}

#[test]
fn the_credential_wins_over_what_the_client_says() {
    let rules = rules();
    let bound = Identity::of_token(&device_token("bob", "ios-1", "mobile"), &rules).expect("valid");
    let hello = hello_of(bound, wishes("other", "pc"), None).expect("hello");
    assert_eq!((&*hello.device, &*hello.platform_name), ("ios-1", "mobile"));
    let free = Identity::of_token(&token("bob", 60), &rules).expect("valid");
    let hello = hello_of(free, wishes("d2", "pc"), None).expect("hello");
    assert_eq!((&*hello.device, &*hello.platform_name), ("d2", "pc"));
    assert_eq!(hello.class.platform, rules.platforms.intern("pc"));
}

#[test]
fn names_are_checked() {
    let identity = || Identity::of_token(&token("bob", 60), &rules()).expect("valid");
    assert_eq!(hello_of(identity(), wishes("a\nb", ""), None).map(|_| ()), Err(BadWish::Device));
    assert_eq!(hello_of(identity(), wishes("a", "p c"), None).map(|_| ()), Err(BadWish::Platform));
    assert_eq!(hello_of(identity(), wishes("a", &"p".repeat(33)), None).map(|_| ()), Err(BadWish::Platform));
}

#[test]
fn expired_tokens_are_told_apart() {
    assert_eq!(Identity::of_token(&expired_token("bob"), &rules()), Err(TokenError::Expired));
    let hello = hello_of(Identity::of_token(&token("bob", 60), &rules()).expect("valid"), Wishes::default(), None);
    let in_ms = hello.expect("hello").expires_in_ms.expect("expires");
    assert!((1..=60_000).contains(&in_ms), "{in_ms}");
}

#[test]
fn a_small_window_is_served_plain_frames() {
    let identity = || Identity { uid: "a".parse().expect("uid"), device: None, platform: None, expires_at_ms: None };
    let params = |bits| Some(DeflateParams { server_max_window_bits: bits, client_max_window_bits: 15 });
    let deflate = |params| hello_of(identity(), Wishes::default(), params).expect("hello").class.deflate;
    assert!(deflate(params(15)));
    assert!(!deflate(params(12)));
    assert!(!deflate(None));
}

#[test]
fn the_heartbeat_is_clamped_only_if_asked_for() {
    assert_eq!(ping_interval_ms(None, 1_000), 1_000);
    assert_eq!(ping_interval_ms(Some(1), 60_000), 25_000);
    assert_eq!(ping_interval_ms(Some(1), 500), 500);
    assert_eq!(ping_interval_ms(Some(u32::MAX), 60_000), 300_000);
    assert_eq!(ping_interval_ms(Some(30_000), 60_000), 30_000);
}
