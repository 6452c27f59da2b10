//! Tables whose columns appear only if some row has something in them.

use super::markup::Markup;

pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Option<String>>>,
}

struct Column {
    head: &'static str,
    class: &'static str,
}

impl Table {
    /// Columns of words first, then those of numbers.
    pub fn new(words: &[&'static str], numbers: &[&'static str]) -> Table {
        let column = |class| move |head: &&'static str| Column { head, class };
        Table {
            columns: words.iter().map(column("")).chain(numbers.iter().map(column("n"))).collect(),
            rows: Vec::new(),
        }
    }

    /// One cell for each column; `None` where it does not apply.
    pub fn row(&mut self, cells: Vec<Option<String>>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    pub fn write(&self, markup: &mut Markup) {
        let used = |column: &usize| self.rows.iter().any(|row| row.get(*column).is_some_and(Option::is_some));
        let used: Vec<usize> = (0..self.columns.len()).filter(used).collect();
        markup.element("div", &[("class", &"wide"), ("tabindex", &"0")], |wide| {
            wide.element("table", &[], |table| {
                table.element("thead", &[], |head| {
                    head.element("tr", &[], |tr| {
                        for column in used.iter().map(|column| &self.columns[*column]) {
                            tr.leaf("th", &[("scope", &"col"), ("class", &column.class)], column.head);
                        }
                    });
                });
                table.element("tbody", &[], |body| {
                    for row in &self.rows {
                        body.element("tr", &[], |tr| {
                            for column in &used {
                                let text = row[*column].as_deref().unwrap_or("–");
                                tr.leaf("td", &[("class", &self.columns[*column].class)], text);
                            }
                        });
                    }
                });
            });
        });
    }
}
