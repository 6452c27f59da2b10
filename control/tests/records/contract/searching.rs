//! Messages by their words, within what may be read.

use tidegate_control::records::{Batch, Readable, RecordIndex, Scope, TextPage, TextPosition, TextQuery};
use tidegate_control_core::domain::{Epoch, Seq, StreamKey};

use crate::kit::{EPOCH, Factory, id, text, words, written};

fn part(stream: &str, first: u64, head: u64) -> (StreamKey, Readable) {
    (stream.parse().expect("a stream"), Readable { epoch: EPOCH, first: Seq(first), head: Seq(head) })
}

async fn search(index: &dyn RecordIndex, query: &TextQuery) -> TextPage {
    index.search(query).await.expect("an answer")
}

async fn places(index: &dyn RecordIndex, q: &str, scope: Scope) -> Vec<String> {
    let query = TextQuery { words: words(q), scope, ..TextQuery::default() };
    let page = search(index, &query).await;
    page.hits.iter().map(|hit| format!("{}#{}", hit.stream, hit.seq)).collect()
}

pub async fn messages_are_found_in_the_readable_part(factory: &impl Factory) {
    let index = factory.index();
    let mut texts: Vec<_> = (1..=9).map(|seq| text(id(seq), "g:go", seq, &format!("hello number{seq}"))).collect();
    texts.push(text(id(20), "g:other", 1, "hello other"));
    texts.push(text(id(21), "u:ann", 1, "Hello, Ann"));
    written(&*index, &Batch { records: Vec::new(), texts }).await;
    factory.settle().await;
    let found = async |q: &str, scope: Vec<(StreamKey, Readable)>| places(&*index, q, Scope::new(scope)).await;
    assert_eq!(found("hello", vec![part("g:go", 3, 5)]).await, ["g:go#5", "g:go#4", "g:go#3"]);
    assert_eq!(found("hello", vec![part("g:go", 9, u64::MAX), part("u:ann", 1, 1)]).await, ["u:ann#1", "g:go#9"]);
    assert_eq!(found("number4 HELLO", vec![part("g:go", 1, 9)]).await, ["g:go#4"]);
    for nothing in [vec![], vec![part("g:go", 10, 20)], vec![part("g:go", 5, 4)], vec![part("g:g", 1, 9)]] {
        assert_eq!(found("hello", nothing.clone()).await, Vec::<String>::new(), "{nothing:?}");
    }
    assert_eq!(found("go", vec![part("g:go", 1, 9)]).await, Vec::<String>::new(), "a stream's name is no word");
    assert_eq!(found("other", vec![part("g:go", 1, 9)]).await, Vec::<String>::new());
}

pub async fn a_group_begun_anew_does_not_show_its_past(factory: &impl Factory) {
    let index = factory.index();
    let mut anew = text(id(2), "g:go", 1, "hello again");
    anew.place.epoch = Epoch(u64::MAX);
    written(&*index, &Batch { records: Vec::new(), texts: vec![text(id(1), "g:go", 1, "hello"), anew] }).await;
    factory.settle().await;
    let scope = |epoch| Scope::new([("g:go".parse().expect("a stream"), Readable { epoch, ..part("g:go", 1, 9).1 })]);
    for (epoch, expected) in [(EPOCH, id(1)), (Epoch(u64::MAX), id(2))] {
        let query = TextQuery { words: words("hello"), scope: scope(epoch), ..TextQuery::default() };
        let page = search(&*index, &query).await;
        assert_eq!(page.hits.iter().map(|hit| (hit.id, hit.epoch)).collect::<Vec<_>>(), [(expected, epoch)]);
    }
}

pub async fn texts_of_a_message_stand_once(factory: &impl Factory) {
    let index = factory.index();
    let texts =
        vec![text(id(1), "c:ann:bob", 1, "psst"), text(id(1), "u:ann", 7, "psst"), text(id(1), "u:bob", 3, "psst")];
    let batch = Batch { records: Vec::new(), texts };
    assert_eq!(written(&*index, &batch).await.changed, 3);
    assert_eq!(written(&*index, &batch).await.changed, 0);
    factory.settle().await;
    let scope = Scope::new([part("u:ann", 1, 9), part("c:ann:bob", 1, 9)]);
    assert_eq!(places(&*index, "psst", scope).await, ["u:ann#7", "c:ann:bob#1"]);
}

pub async fn pages_of_a_search_follow_each_other(factory: &impl Factory) {
    let index = factory.index();
    // Three streams with messages of the same moments.
    let streams = ["g:a", "g:b", "u:ann"];
    let each = |seq: u64| streams.map(|stream| text(id(seq), stream, seq, "same words"));
    written(&*index, &Batch { records: Vec::new(), texts: (1..=20).flat_map(each).collect() }).await;
    factory.settle().await;
    let scope = Scope::new(streams.map(|stream| part(stream, 3, 18)));
    let mut query = TextQuery { words: words("same"), scope, after: None, limit: 7 };
    let mut seen = Vec::new();
    for arrived in 21.. {
        let page = search(&*index, &query).await;
        assert!(page.hits.len() <= 7);
        seen.extend(page.hits.iter().map(TextPosition::of));
        let news = Batch { records: Vec::new(), texts: each(arrived).to_vec() };
        written(&*index, &news).await;
        factory.settle().await;
        query.after = page.next.map(|next| TextPosition::decode(&next.encode()).expect("its own cursor"));
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 16 * 3);
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
}

pub async fn many_streams_are_searched_at_once(factory: &impl Factory) {
    let index = factory.index();
    let name = |n: u64| format!("g:room{n}");
    let texts = (0..400).map(|n| text(id(n), &name(n), 1 + n % 2, "needle in a haystack")).collect();
    written(&*index, &Batch { records: Vec::new(), texts }).await;
    factory.settle().await;
    // Only the first message of each may be read.
    let scope = Scope::new((0..400).step_by(2).chain([7, 9]).map(|n| part(&name(n), 1, 1)));
    let mut query = TextQuery { words: words("needle"), scope, after: None, limit: 100 };
    let mut found = 0;
    loop {
        let page = search(&*index, &query).await;
        assert!(page.hits.iter().all(|hit| hit.seq == Seq(1)), "{page:?}");
        found += page.hits.len();
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(found, 200);
}
