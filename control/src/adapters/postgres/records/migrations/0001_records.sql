-- One row per push and target. The time follows from the id, so that it may stand in the key.
create table push_records (
    ts bigint not null,
    id text collate "C" not null,
    target text collate "C" not null,
    sender text not null,
    key text collate "C" not null,
    uids text[] not null,
    kind text not null,
    -- Null: unknown, unless it is sealed.
    body text,
    sealed boolean not null,
    epoch bigint,
    seq bigint,
    online bigint,
    ephemeral boolean not null,
    traceparent text not null,
    status text,
    changes jsonb not null,
    words tsvector not null,
    primary key (ts, id, target)
) partition by range (ts);

create index push_records_id on push_records (id);
create index push_records_key on push_records (key) where key <> '';
create index push_records_target on push_records (target, ts desc, id desc);
create index push_records_uids on push_records using gin (uids);
create index push_records_words on push_records using gin (words);

-- One row per message and place. Its words hold its stream too, marked by a colon, so that one index serves both.
create table message_texts (
    ts bigint not null,
    stream text collate "C" not null,
    seq bigint not null,
    epoch bigint not null,
    id bigint not null,
    words tsvector not null,
    primary key (ts, stream, seq, epoch)
) partition by range (ts);

create index message_texts_words on message_texts using gin (words);
