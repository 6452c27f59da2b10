//! Texts as people, and attackers, write them.

use tidegate_control::records::{RecordQuery, Text, Words};

use crate::kit::{Factory, find, id, ids, of_ids, pushed, words, write};

fn of(query: &str) -> RecordQuery {
    RecordQuery { words: Some(words(query)), ..RecordQuery::default() }
}

pub async fn text_is_found_in_any_script(factory: &impl Factory) {
    let index = factory.index();
    let texts = [
        "Überfällige Rechnung für Zoë, 4.711,00 €",
        "你好，世界！欢迎使用。",
        "Привет, мир",
        "こんにちは世界",
        "Party 🎉🎊 today 👍🏽",
        "She said \"don't\" & left | (maybe) \\ C:\\temp 100% a_b !",
        "مرحبا بالعالم",
    ];
    let records = (0..).zip(texts).map(|(n, text)| pushed(id(n), "u:ann", text)).collect();
    write(&*index, records).await;
    factory.settle().await;
    for (query, expected) in [
        ("ÜBERFÄLLIGE zoë", vec![0]),
        ("4.711,00", vec![0]),
        ("世界", vec![3, 1]),
        ("欢迎使用", vec![1]),
        ("мир ПРИВЕТ", vec![2]),
        ("🎉", vec![4]),
        ("👍", vec![4]),
        ("don't", vec![5]),
        ("\"she\" & said", vec![5]),
        ("c:\\temp", vec![5]),
        ("بالعالم", vec![6]),
        ("uberfallige", vec![]),
        ("世好", vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(ids(&*index, of(query)).await, of_ids(&expected), "{query}");
    }
    let back =
        find(&*index, RecordQuery { message_id: Some(id(5).to_string().into()), ..RecordQuery::default() }).await;
    assert_eq!(back.records[0].text.as_str(), texts[5]);
}

/// Whatever stands in a query, it finds texts with these words, and does nothing else.
pub async fn a_hostile_query_is_only_words(factory: &impl Factory) {
    let index = factory.index();
    write(&*index, vec![pushed(id(1), "u:ann", "plain text"), pushed(id(2), "u:bob", "secret drop table or 1 1")])
        .await;
    factory.settle().await;
    for (hostile, found) in [
        ("plain' or '1'='1", false),
        ("plain' | 'secret", false),
        ("x') ; drop table push_records; --", false),
        ("plain OR secret", false),
        ("plain | secret", false),
        ("plain & !secret", false),
        ("plain:*", true),
        ("pl*", false),
        ("*", false),
        ("uids:bob", false),
        ("/.*/", false),
        ("{\"match_all\":{}}", false),
        ("\\", false),
        ("\"plain", true),
        ("plain\0text", true),
        ("plain \u{202e}text", true),
        ("u:ann", false),
        ("_exists_:text", false),
    ] {
        let Ok(words) = Words::of_query(hostile) else { continue };
        let query = RecordQuery { words: Some(words), uid: "ann".parse().ok(), ..RecordQuery::default() };
        let expected = if found { of_ids(&[id(1)]) } else { Vec::new() };
        assert_eq!(ids(&*index, query).await, expected, "{hostile}");
    }
    for hostile in ["' or 1=1 --", "*", "x\") OR (\"a", "%", "\u{0}"] {
        let query = RecordQuery { message_id: Some(hostile.into()), ..RecordQuery::default() };
        let clean: String = hostile.chars().filter(|c| !c.is_control()).collect();
        if clean == hostile {
            assert_eq!(ids(&*index, query).await, Vec::<String>::new(), "{hostile}");
        }
    }
    assert_eq!(ids(&*index, RecordQuery::default()).await.len(), 2, "all is still there");
}

pub async fn huge_texts_are_cut(factory: &impl Factory) {
    let index = factory.index();
    let huge = format!("beginning {} end", "世界 wörd ".repeat(20_000));
    let endless = format!("{} tail", "x".repeat(100_000));
    let mut many = pushed(id(3), "u:ann", "");
    many.text = Text::Shown((0..50_000).map(|n| format!("w{n} ")).collect::<String>().into());
    write(&*index, vec![pushed(id(1), "u:ann", &huge), pushed(id(2), "u:ann", &endless), many]).await;
    factory.settle().await;
    let page = find(&*index, RecordQuery::default()).await;
    assert_eq!(page.records.len(), 3);
    assert!(page.records.iter().all(|record| record.text.as_str().len() <= 4_096));
    assert_eq!(ids(&*index, of("beginning wörd")).await, of_ids(&[id(1)]));
    assert_eq!(ids(&*index, of("end")).await, Vec::<String>::new(), "what was cut is not found");
    assert_eq!(ids(&*index, of("w1 w200")).await, of_ids(&[id(3)]));
}

pub async fn control_characters_split_nothing(factory: &impl Factory) {
    let index = factory.index();
    let mut record = pushed(id(1), "u:ann", "one\r\ntwo\0three\u{1b}[31mfour\u{85}five\u{7f}");
    record.from = "a\nb".into();
    record.key = "k\0\r".into();
    record.kind = "t\tt".into();
    record.traceparent = "\u{0}".into();
    record.changes[0].reason = "r\n\nr".into();
    record.changes[0].by = "g\0".into();
    write(&*index, vec![record]).await;
    factory.settle().await;
    let page = find(&*index, of("two three")).await;
    let [record] = page.records.as_slice() else { panic!("{page:?}") };
    let change = &record.changes[0];
    for field in [&record.from, &record.key, &record.kind, &record.traceparent, &change.reason, &change.by] {
        assert!(!field.contains(char::is_control), "{field:?}");
    }
    assert!(!record.text.as_str().contains(char::is_control), "{:?}", record.text);
    assert_eq!(ids(&*index, of("five")).await, of_ids(&[id(1)]));
}

pub async fn what_is_sealed_is_neither_kept_nor_found(factory: &impl Factory) {
    let index = factory.index();
    let mut sealed = pushed(id(1), "u:ann", "");
    sealed.text = Text::Sealed;
    let open = pushed(id(1), "u:ann", "pin 1234");
    for order in [[sealed.clone(), open.clone()], [open, sealed]] {
        for record in order {
            write(&*index, vec![record]).await;
        }
        factory.settle().await;
        assert_eq!(ids(&*index, of("1234")).await, Vec::<String>::new());
        let page = find(&*index, RecordQuery::default()).await;
        assert_eq!((page.records.len(), &page.records[0].text), (1, &Text::Sealed));
    }
}
