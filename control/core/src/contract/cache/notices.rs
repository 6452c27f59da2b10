//! The ring, and notices.

use bytes::Bytes;

use super::{CacheFactory, write};
use crate::ports::cache::{Bell, Cache, Channel, Fact, Notice, Published, Ring, Subscription};

pub fn a_ring_is_published_once_per_version<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let ring = |version: u64, text: &str| Ring { version, json: format!(r#"{{"members":["{text}"]}}"#).into() };
    assert_eq!(factory.wait(cache.ring()), None);
    assert_eq!(factory.wait(cache.publish_ring(ring(2, "a"))), Published::Done);
    assert_eq!(factory.wait(cache.publish_ring(ring(2, "b"))), Published::Stands(2));
    assert_eq!(factory.wait(cache.publish_ring(ring(1, "c"))), Published::Stands(2));
    assert_eq!(factory.wait(cache.ring()), Some(ring(2, "a")));
    assert_eq!(factory.wait(cache.publish_ring(ring(10, "d"))), Published::Done);
    let other = factory.beside(&cache);
    assert_eq!(factory.wait(other.ring()), Some(ring(10, "d")));
}

fn next<F: CacheFactory>(factory: &mut F, subscription: &mut dyn Subscription) -> Notice {
    factory.wait(subscription.next()).expect("open")
}

fn message(channel: &Channel, text: &'static str) -> Notice {
    Notice::Message { channel: channel.clone(), bytes: Bytes::from_static(text.as_bytes()) }
}

fn publish(channel: &Channel, text: &'static str) -> Fact {
    Fact::Publish { channel: channel.clone(), bytes: Bytes::from_static(text.as_bytes()) }
}

pub fn notices_reach_whoever_listens<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let other = factory.beside(&cache);
    let (groups, users): (Channel, Channel) = ("groups".parse().expect("ok"), "users".parse().expect("ok"));
    let mut both = other.subscribe(&[groups.clone(), users.clone()]);
    let mut one = cache.subscribe(std::slice::from_ref(&users));
    for subscription in [&mut both, &mut one] {
        assert_eq!(next(factory, &mut **subscription), Notice::Gap, "from here on nothing is missed");
    }
    write(factory, &cache, vec![publish(&groups, "a\r\n\0"), publish(&users, "b")]);
    write(factory, &other, vec![publish(&users, "c")]);
    let mut heard: Vec<Notice> = (0..3).map(|_| next(factory, &mut *both)).collect();
    heard.sort_by_key(|notice| format!("{notice:?}"));
    assert_eq!(heard, [message(&groups, "a\r\n\0"), message(&users, "b"), message(&users, "c")]);
    let heard = [next(factory, &mut *one), next(factory, &mut *one)];
    assert_eq!(heard, [message(&users, "b"), message(&users, "c")]);
}

pub fn the_downstream_has_channels<F: CacheFactory>(factory: &mut F) {
    let cache = factory.open();
    let all = Channel::downstream(Bell::All).expect("a channel");
    let mine = Channel::downstream(Bell::Gateway("gw-1")).expect("a channel");
    let others = Channel::downstream(Bell::Gateway("gw-2")).expect("a channel");
    let mut gateway = cache.subscribe(&[all.clone(), mine.clone()]);
    assert_eq!(next(factory, &mut *gateway), Notice::Gap);
    write(factory, &cache, vec![publish(&others, "not mine"), publish(&mine, "mine"), publish(&all, "everybody's")]);
    let mut heard = [next(factory, &mut *gateway), next(factory, &mut *gateway)];
    heard.sort_by_key(|notice| format!("{notice:?}").len());
    assert_eq!(heard, [message(&mine, "mine"), message(&all, "everybody's")]);
}
