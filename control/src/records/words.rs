//! What the words of a text are: the same for every index, and for queries.
//!
//! * A word is a run of letters and digits, in lower case.
//! * In scripts that put no spaces between words each character is a word, and so is each pair of neighbours; a query asks
//!   for the pairs, or for the character that stands alone.
//! * A symbol, such as an emoji, is a word of its own. Punctuation is none.
//!
//! Texts are not normalised: a letter that was typed as base and accent is another than the one that is one character.

use std::collections::BTreeSet;

use super::form::cut;

/// Longest word; the rest of a longer one is left out, in texts and in queries.
pub const WORD_BYTES_MAX: usize = 64;
/// Most different words of one text.
pub const WORDS_MAX: usize = 4_096;
/// Most words of one query.
pub const QUERY_WORDS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    #[error("holds no word")]
    Empty,
    #[error("has more than {QUERY_WORDS_MAX} words")]
    TooMany,
}

/// Words without order, each once. None has a space, a quote or any other punctuation in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(BTreeSet<String>);

impl Words {
    /// All of a text's words.
    pub fn of(text: &str) -> Words {
        let mut words = BTreeSet::new();
        let mut add = |word: String| {
            if words.len() < WORDS_MAX {
                words.insert(word);
            }
        };
        each(text, |piece| match piece {
            Piece::Word(word) => add(word),
            Piece::Run(run) => {
                run.iter().for_each(|c| add(c.to_string()));
                run.windows(2).for_each(|pair| add(pair.iter().collect()));
            }
        });
        Words(words)
    }

    /// Words that a text must have, all of them, to be found.
    pub fn of_query(query: &str) -> Result<Words, BadQuery> {
        let mut words = BTreeSet::new();
        each(query, |piece| match piece {
            Piece::Word(word) => words.extend([word]),
            Piece::Run(run) if run.len() == 1 => words.extend(run.iter().map(char::to_string)),
            Piece::Run(run) => words.extend(run.windows(2).map(|pair| pair.iter().collect::<String>())),
        });
        match words.len() {
            0 => Err(BadQuery::Empty),
            1..=QUERY_WORDS_MAX => Ok(Words(words)),
            _ => Err(BadQuery::TooMany),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn has_all(&self, wanted: &Words) -> bool {
        wanted.0.is_subset(&self.0)
    }

    pub fn joined(&self) -> String {
        self.iter().collect::<Vec<_>>().join(" ")
    }
}

enum Piece {
    Word(String),
    Run(Vec<char>),
}

fn each(text: &str, mut take: impl FnMut(Piece)) {
    let mut word = String::new();
    let mut run = Vec::new();
    for c in text.chars() {
        let kind = kind_of(c);
        if kind != Kind::Letter && !word.is_empty() {
            take(Piece::Word(cut(&std::mem::take(&mut word), WORD_BYTES_MAX).to_owned()));
        }
        if kind != Kind::Unspaced && !run.is_empty() {
            take(Piece::Run(std::mem::take(&mut run)));
        }
        match kind {
            // Beyond the bound nothing is kept: a text may be one word.
            Kind::Letter if word.len() <= WORD_BYTES_MAX => word.extend(c.to_lowercase()),
            Kind::Letter | Kind::Nothing => {}
            Kind::Unspaced => run.push(c),
            Kind::Symbol => take(Piece::Word(c.into())),
        }
    }
    if !word.is_empty() {
        take(Piece::Word(cut(&word, WORD_BYTES_MAX).to_owned()));
    }
    if !run.is_empty() {
        take(Piece::Run(run));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Unspaced,
    Symbol,
    Nothing,
}

fn kind_of(c: char) -> Kind {
    match u32::from(c) {
        // Thai and Lao, Myanmar, Khmer, kana, Han, Hangul, and the half-wide kana.
        0x0e00..=0x0eff
        | 0x1000..=0x109f
        | 0x1780..=0x17ff
        | 0x3041..=0x30ff
        | 0x31f0..=0x31ff
        | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff
        | 0xac00..=0xd7af
        | 0xf900..=0xfaff
        | 0xff66..=0xff9f
        | 0x20000..=0x3ffff => Kind::Unspaced,
        // Combining marks belong to their letter.
        0x0300..=0x036f => Kind::Letter,
        // Skin tones belong to the emoji before them, which is found without.
        0x1f3fb..=0x1f3ff => Kind::Nothing,
        0x2190..=0x2bff | 0x1f000..=0x1faff => Kind::Symbol,
        _ if c.is_alphanumeric() => Kind::Letter,
        _ => Kind::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str, query: &str) -> bool {
        Words::of_query(query).is_ok_and(|wanted| Words::of(text).has_all(&wanted))
    }

    #[test]
    fn words_are_found_whatever_their_case_and_what_stands_around_them() {
        let text = "Rechnung Nr. 4711: ÜBERFÄLLIG (seit 3 Tagen)! O'Brien <a@b.example> C++ 🎉";
        for query in ["überfällig", "rechnung 4711", "TAGEN 3 seit", "o'brien", "brien", "a@b.example", "🎉", "c++"]
        {
            assert!(found(text, query), "{query}");
        }
        for query in ["über", "4712", "rechnung bezahlt", "🎈"] {
            assert!(!found(text, query), "{query}");
        }
    }

    #[test]
    fn scripts_without_spaces_are_found_by_any_part() {
        let text = "你好世界、こんにちは 안녕하세요 สวัสดี";
        for query in ["世界", "好世", "界", "你好世界", "にちは", "녕하", "สวัส"] {
            assert!(found(text, query), "{query}");
        }
        for query in ["世好", "你界", "世间"] {
            assert!(!found(text, query), "{query}");
        }
    }

    #[test]
    fn a_query_is_words_and_nothing_else() {
        assert_eq!(Words::of_query("  !?&|\"' \n"), Err(BadQuery::Empty));
        let many: Vec<String> = (0..=QUERY_WORDS_MAX).map(|n| format!("w{n}")).collect();
        assert_eq!(Words::of_query(&many.join(" ")), Err(BadQuery::TooMany));
        assert_eq!(Words::of_query(&many[1..].join(" & ")).map(|words| words.iter().count()), Ok(QUERY_WORDS_MAX));
    }

    #[test]
    fn one_endless_word_is_found_by_its_beginning_and_by_itself() {
        let endless = "x".repeat(100_000);
        assert!(found(&endless, &endless));
        assert!(found(&endless, &"x".repeat(WORD_BYTES_MAX)));
        assert!(!found(&endless, &"x".repeat(WORD_BYTES_MAX - 1)));
        let many: String = (0..100_000).map(|n| format!("w{n} ")).collect();
        assert!(Words::of(&many).iter().count() <= WORDS_MAX);
    }

    proptest! {
        #[test]
        fn no_word_holds_what_a_query_language_could_read(text in "\\PC{0,80}|.{0,80}") {
            for word in Words::of(&text).iter() {
                prop_assert!(!word.is_empty() && word.len() <= WORD_BYTES_MAX);
                let marks = |c: char| c.is_ascii_punctuation() || c.is_whitespace() || c.is_control();
                prop_assert!(!word.contains(marks), "{:?}", word);
            }
        }

        #[test]
        fn a_text_is_found_by_itself(text in "[a-zäß0-9 .,!世界🎉]{1,30}") {
            if let Ok(wanted) = Words::of_query(&text) {
                prop_assert!(Words::of(&text).has_all(&wanted));
            }
        }
    }
}
