//! Writes markup that is well-formed by construction: every element is closed, and whatever comes from outside is escaped.

use std::fmt::{self, Display, Write as _};

use serde::Serialize;

pub type Attribute<'a> = (&'static str, &'a dyn Display);

#[derive(Default)]
pub struct Markup {
    written: String,
}

impl Markup {
    pub fn element(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        inside: impl FnOnce(&mut Markup),
    ) -> &mut Markup {
        self.open(name, attributes, ">");
        inside(self);
        self.push(format_args!("</{name}>"))
    }

    /// An element with nothing but text.
    pub fn leaf(&mut self, name: &'static str, attributes: &[Attribute<'_>], text: impl Display) -> &mut Markup {
        self.element(name, attributes, |inner| {
            inner.text(text);
        })
    }

    pub fn empty(&mut self, name: &'static str, attributes: &[Attribute<'_>]) -> &mut Markup {
        self.open(name, attributes, "/>");
        self
    }

    pub fn text(&mut self, text: impl Display) -> &mut Markup {
        write!(Escaped(&mut self.written), "{text}").expect("a String takes every write");
        self
    }

    /// Our own style and script, which hold nothing of the result.
    pub fn verbatim(&mut self, text: &'static str) -> &mut Markup {
        self.written.push_str(text);
        self
    }

    /// Data for the page's script. A `<` is escaped, so that no string can end the script element.
    pub fn data(&mut self, value: &impl Serialize) -> &mut Markup {
        let json = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()).replace('<', "\\u003c");
        self.push(format_args!("<script type=\"application/json\">{json}</script>"))
    }

    pub fn finish(self) -> String {
        self.written
    }

    fn open(&mut self, name: &'static str, attributes: &[Attribute<'_>], end: &'static str) {
        self.push(format_args!("<{name}"));
        for (attribute, value) in attributes {
            self.push(format_args!(" {attribute}=\""));
            self.text(value);
            self.written.push('"');
        }
        self.written.push_str(end);
    }

    fn push(&mut self, text: fmt::Arguments<'_>) -> &mut Markup {
        self.written.write_fmt(text).expect("a String takes every write");
        self
    }
}

struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                // No markup can carry these, not even escaped.
                control if control.is_control() => self.0.push('\u{fffd}'),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_attributes_and_data_cannot_become_markup() {
        let hostile = "</script><b a=\"'&\u{0}";
        let mut markup = Markup::default();
        markup.element("p", &[("title", &hostile)], |p| {
            p.text(hostile).data(&hostile).empty("br", &[]);
        });
        let escaped = "&lt;/script&gt;&lt;b a=&quot;&#39;&amp;\u{fffd}";
        let json = r#"<script type="application/json">"\u003c/script>\u003cb a=\"'&\u0000"</script>"#;
        assert_eq!(markup.finish(), format!("<p title=\"{escaped}\">{escaped}{json}<br/></p>"));
    }
}
