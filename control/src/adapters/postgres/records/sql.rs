//! Statements. Those that write are fixed; a query is put together from fixed pieces, one for each field that it names, and
//! all that callers gave is a parameter.

use tokio_postgres::types::{ToSql, Type};

use crate::records::{RecordQuery, TextQuery, Words};

/// One array per column, so that a statement is the same whatever a batch holds.
pub const INSERT: &str = "insert into push_records (ts, id, target, sender, key, uids, kind, body, sealed, epoch, seq,
         online, ephemeral, traceparent, status, changes, words)
     select ts, id, target, sender, key, string_to_array(uids, ' '), kind, body, sealed, epoch, seq, online, ephemeral,
         traceparent, status, changes::jsonb, array_to_tsvector(string_to_array(words, ' '))
     from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
         $9::boolean[], $10::bigint[], $11::bigint[], $12::bigint[], $13::boolean[], $14::text[], $15::text[],
         $16::text[], $17::text[])
         as u (ts, id, target, sender, key, uids, kind, body, sealed, epoch, seq, online, ephemeral, traceparent,
             status, changes, words)
     on conflict do nothing
     returning id, target";

pub const UPDATE: &str =
    "update push_records p set sender = u.sender, key = u.key, uids = string_to_array(u.uids, ' '),
         kind = u.kind, body = u.body, sealed = u.sealed, epoch = u.epoch, seq = u.seq, online = u.online,
         ephemeral = u.ephemeral, traceparent = u.traceparent, status = u.status, changes = u.changes::jsonb,
         words = array_to_tsvector(string_to_array(u.words, ' '))
     from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
         $9::boolean[], $10::bigint[], $11::bigint[], $12::bigint[], $13::boolean[], $14::text[], $15::text[],
         $16::text[], $17::text[])
         as u (ts, id, target, sender, key, uids, kind, body, sealed, epoch, seq, online, ephemeral, traceparent,
             status, changes, words)
     where p.ts = u.ts and p.id = u.id and p.target = u.target";

/// In the order in which every writer takes its rows, so that two never wait for each other.
pub const LOCK: &str =
    "select p.id, p.target, p.sender, p.key, p.uids, p.kind, p.body, p.sealed, p.epoch, p.seq, p.online,
         p.ephemeral, p.traceparent, p.changes::text
     from push_records p
     join unnest($1::bigint[], $2::text[], $3::text[]) as u (ts, id, target)
         on p.ts = u.ts and p.id = u.id and p.target = u.target
     order by p.ts, p.id, p.target
     for update of p";

pub const INSERT_TEXTS: &str = "insert into message_texts (ts, stream, seq, epoch, id, words)
     select ts, stream, seq, epoch, id, array_to_tsvector(string_to_array(words, ' '))
     from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[])
         as u (ts, stream, seq, epoch, id, words)
     on conflict do nothing";

const RECORDS: &str = "select id, target, sender, key, uids, kind, body, sealed, epoch, seq, online, ephemeral,
         traceparent, changes::text
     from push_records";

/// A query that is planned for its parameters: what a fixed plan is good for differs from one to the next.
pub(super) struct Asked {
    pub text: String,
    params: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
}

impl Asked {
    fn new(text: &str) -> Asked {
        Asked { text: text.to_owned(), params: Vec::new() }
    }

    pub fn params(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.params.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect()
    }

    /// Its number in the text, with the `$`.
    fn param(&mut self, value: impl ToSql + Sync + Send + 'static, kind: Type) -> String {
        self.params.push((Box::new(value), kind));
        format!("${}", self.params.len())
    }

    fn add(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// All conditions must hold.
    fn filter(&mut self, conditions: &[String]) {
        if !conditions.is_empty() {
            self.add(" where ");
            self.add(&conditions.join(" and "));
        }
    }
}

pub(super) fn records(query: &RecordQuery) -> Asked {
    let mut asked = Asked::new(RECORDS);
    let mut conditions = Vec::new();
    if let Some(uid) = &query.uid {
        let uid = asked.param(vec![uid.to_string()], Type::TEXT_ARRAY);
        conditions.push(format!("uids @> {uid}"));
    }
    if let Some(id) = &query.message_id {
        let id = asked.param(String::from(&**id), Type::TEXT);
        // The index of keys leaves out the empty ones.
        conditions.push(format!("(id = {id} or (key = {id} and key <> ''))"));
    }
    if let Some(stream) = &query.stream {
        let stream = asked.param(stream.to_string(), Type::TEXT);
        conditions.push(format!("target = {stream}"));
    }
    if let Some(words) = &query.words {
        let words = asked.param(all_of(words), Type::TEXT);
        conditions.push(format!("words @@ {words}::tsquery"));
    }
    if let Some(from) = query.from {
        let from = asked.param(from.0, Type::INT8);
        conditions.push(format!("ts >= {from}"));
    }
    if let Some(to) = query.to {
        let to = asked.param(to.0, Type::INT8);
        conditions.push(format!("ts < {to}"));
    }
    if let Some(after) = &query.after {
        let ts = asked.param(after.ts.0, Type::INT8);
        let id = asked.param(after.id.clone(), Type::TEXT);
        let to = asked.param(String::from(&*after.to), Type::TEXT);
        // The first condition alone chooses the parts.
        conditions.push(format!("ts <= {ts} and (ts, id, target) < ({ts}, {id}, {to})"));
    }
    asked.filter(&conditions);
    let limit = asked.param(query.limit() as i64 + 1, Type::INT8);
    asked.add(&format!(" order by ts desc, id desc, target desc limit {limit}"));
    asked
}

pub(super) fn search(query: &TextQuery) -> Asked {
    let mut asked = Asked::new("select m.stream, m.epoch, m.seq, m.id, m.ts from message_texts m join unnest(");
    let (mut streams, mut epochs, mut firsts, mut heads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (stream, part) in query.scope.iter() {
        streams.push(stream.to_string());
        epochs.push(part.epoch.0 as i64);
        firsts.push(i64::try_from(part.first.0).unwrap_or(i64::MAX));
        heads.push(i64::try_from(part.head.0).unwrap_or(i64::MAX));
    }
    let within = streams.iter().map(|stream| quoted(stream)).collect::<Vec<_>>().join(" | ");
    let wanted = format!("({within}) & {}", all_of(&query.words));
    let columns = [
        asked.param(streams, Type::TEXT_ARRAY),
        asked.param(epochs, Type::INT8_ARRAY),
        asked.param(firsts, Type::INT8_ARRAY),
        asked.param(heads, Type::INT8_ARRAY),
    ];
    asked.add(&columns.join(", "));
    asked.add(
        ") as r (stream, epoch, first, head)
         on m.stream = r.stream and m.epoch = r.epoch and m.seq between r.first and r.head",
    );
    let wanted = asked.param(wanted, Type::TEXT);
    let mut conditions = vec![format!("m.words @@ {wanted}::tsquery")];
    if let Some(after) = &query.after {
        let ts = asked.param(after.ts.0, Type::INT8);
        let stream = asked.param(after.stream.to_string(), Type::TEXT);
        let seq = asked.param(after.seq.0 as i64, Type::INT8);
        conditions.push(format!("m.ts <= {ts} and (m.ts, m.stream, m.seq) < ({ts}, {stream}, {seq})"));
    }
    asked.filter(&conditions);
    let limit = asked.param(query.limit() as i64 + 1, Type::INT8);
    asked.add(&format!(" order by m.ts desc, m.stream desc, m.seq desc limit {limit}"));
    asked
}

fn all_of(words: &Words) -> String {
    words.iter().map(quoted).collect::<Vec<_>>().join(" & ")
}

/// A lexeme as `tsquery` reads it. Words have neither quotes nor backslashes; should that change, they still cannot get out.
fn quoted(lexeme: &str) -> String {
    format!("'{}'", lexeme.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_give_is_a_parameter() {
        let hostile = "x'; drop table push_records; --";
        let query = RecordQuery {
            message_id: Some(hostile.into()),
            words: Words::of_query(hostile).ok(),
            uid: "ann".parse().ok(),
            stream: "u:ann".parse().ok(),
            ..RecordQuery::default()
        };
        let asked = records(&query);
        assert!(!asked.text.contains("drop"), "{}", asked.text);
        assert_eq!(asked.params().len(), 5);
        assert_eq!(quoted("a'b\\c"), "'a''b\\\\c'");
    }
}
