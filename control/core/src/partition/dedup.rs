//! Callers' keys: what makes two pushes the same one.
//!
//! Both hashes stand in the log, so their definition never changes. Each is the beginning of a SHA-256 over fields that are
//! each preceded by their length (8 bytes, little-endian): a caller who chooses keys can neither meet another's key nor hide
//! other content behind the same fingerprint.

use sha2::{Digest, Sha256};

use super::api::Push;
use crate::domain::record::Dedup;
use crate::domain::{Content, Fingerprint, Place, StreamKey};

/// Who chose the key: keys of different callers never meet.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    Backend,
    Client(&'a str),
}

/// The hashes of a push into `stream`, or `None` if the caller gave no key.
///
/// A backend's key is `message_id`; a client's is its `client_msg_id`, apart from other senders' keys.
pub(super) fn of_push(push: &Push, stream: &StreamKey) -> Option<Dedup> {
    let (scope, key) = match &push.sender {
        Some(sender) => (Scope::Client(sender.as_str()), &*push.client_msg_id),
        None => (Scope::Backend, push.message_id.as_deref().unwrap_or("")),
    };
    if key.is_empty() {
        return None;
    }
    Some(Dedup { key: key_hash(scope, stream, key), fingerprint: fingerprint(push) })
}

/// Of a conversation's message in one inbox: its place names it for good.
pub(super) fn of_entry(place: &Place, inbox: &StreamKey) -> Dedup {
    let mut hasher = Sha256::new();
    field(&mut hasher, b"e");
    field(&mut hasher, inbox.as_str().as_bytes());
    field(&mut hasher, place.stream.as_str().as_bytes());
    field(&mut hasher, &place.epoch.0.to_le_bytes());
    field(&mut hasher, &place.seq.0.to_le_bytes());
    Dedup { key: first_bytes(&hasher.finalize()), fingerprint: Fingerprint(place.seq.0) }
}

fn key_hash(scope: Scope<'_>, stream: &StreamKey, key: &str) -> [u8; 16] {
    let mut hasher = Sha256::new();
    match scope {
        Scope::Backend => field(&mut hasher, b"b"),
        Scope::Client(uid) => {
            field(&mut hasher, b"c");
            field(&mut hasher, uid.as_bytes());
        }
    }
    field(&mut hasher, stream.as_str().as_bytes());
    field(&mut hasher, key.as_bytes());
    first_bytes(&hasher.finalize())
}

/// Of what the recipients would see.
fn fingerprint(push: &Push) -> Fingerprint {
    let mut hasher = Sha256::new();
    // A client is its own sender, whatever `from` says.
    let from = if push.sender.is_some() { "" } else { &*push.from };
    for text in [from, &*push.kind, &*push.title, &*push.metadata] {
        field(&mut hasher, text.as_bytes());
    }
    match &push.content {
        Content::Text(text) => {
            field(&mut hasher, b"t");
            field(&mut hasher, text.as_bytes());
        }
        Content::Binary(bytes) => {
            field(&mut hasher, b"b");
            field(&mut hasher, bytes);
        }
    }
    Fingerprint(u64::from_le_bytes(first_bytes(&hasher.finalize())))
}

fn field(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn first_bytes<const N: usize>(digest: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> StreamKey {
        name.parse().expect("a valid stream key")
    }

    /// Logs of earlier versions hold these: a changed definition would forget every key.
    #[test]
    fn the_definition_is_pinned() {
        let hash = |scope| key_hash(scope, &stream("g:go"), "k-1").map(|b| format!("{b:02x}")).concat();
        assert_eq!(hash(Scope::Backend), PINNED_BACKEND);
        assert_eq!(hash(Scope::Client("ann")), PINNED_CLIENT);
    }

    const PINNED_BACKEND: &str = "8e8f696ef4bdb57167822eddc4606655";
    const PINNED_CLIENT: &str = "9cd8982c38388a60a722707ef74da083";

    #[test]
    fn fields_do_not_run_into_each_other() {
        let one = key_hash(Scope::Client("ann"), &stream("g:go"), "k");
        let hashes = [
            key_hash(Scope::Client("an"), &stream("g:go"), "k"),
            key_hash(Scope::Client("ann"), &stream("g:gok"), "k"),
            key_hash(Scope::Client("ann"), &stream("g:go"), "kk"),
            key_hash(Scope::Backend, &stream("g:go"), "k"),
        ];
        assert!(hashes.iter().all(|h| *h != one));
    }
}
