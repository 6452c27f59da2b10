-- What is looked up and replayed of a control partition's log. Streams belong to a partition by the hash of their key, so
-- lists of partitions are divided by stream hash. 64-bit epochs and fingerprints stand as signed numbers of the same bits.

create table store (
    id boolean primary key default true check (id),
    base_epoch bigint not null
);

-- One row per partition: the fence. Every commit changes this row, under its conditions, before anything else.
create table partitions (
    partition integer primary key,
    -- Raised by each opening.
    owner_epoch bigint not null,
    -- Raised by each connection that may write: what an earlier one still has on its way is void.
    writer bigint not null,
    last_lsn bigint not null,
    last_ts bigint not null
) with (fillfactor = 20);

-- Apart from `partitions`, so that retention and commits do not wait for each other.
create table retention (
    partition integer primary key,
    trimmed_lsn bigint not null
) with (fillfactor = 20);

-- The log: the truth, from which all else here could be made again.
create table records (
    partition integer not null,
    lsn bigint not null,
    ts bigint not null,
    record bytea not null,
    primary key (partition, lsn)
) partition by list (partition);

-- Where a message stands; its body is in `records`.
create table places (
    partition integer not null,
    stream text collate "C" not null,
    epoch bigint not null,
    seq bigint not null,
    lsn bigint not null,
    ts bigint not null,
    -- Bytes of content and metadata.
    size integer not null,
    primary key (partition, stream, epoch, seq)
) partition by list (partition);

create table heads (
    partition integer not null,
    stream text collate "C" not null,
    epoch bigint not null,
    head bigint not null,
    first bigint not null,
    last_lsn bigint not null,
    primary key (partition, stream)
) with (fillfactor = 70);

create table dedup (
    partition integer not null,
    key bytea not null,
    epoch bigint not null,
    seq bigint not null,
    id bigint not null,
    fingerprint bigint not null,
    ts bigint not null,
    primary key (partition, key)
);
-- Rows come in the order of time, so a few bytes per range of blocks find the old ones.
create index dedup_ts on dedup using brin (ts) with (autosummarize = on);

create table groups (
    partition integer not null,
    gid text collate "C" not null,
    epoch bigint not null,
    open boolean not null,
    name text not null,
    creator text not null,
    created bigint not null,
    dismissed boolean not null,
    primary key (partition, gid)
);

create table members (
    partition integer not null,
    gid text collate "C" not null,
    uid text collate "C" not null,
    role smallint not null,
    joined bigint not null,
    left_seq bigint,
    primary key (partition, gid, uid)
);
create index members_uid on members (partition, uid) where left_seq is null;

create table marks (
    partition integer not null,
    uid text collate "C" not null,
    stream text collate "C" not null,
    device text collate "C" not null,
    epoch bigint not null,
    seq bigint not null,
    ts bigint not null,
    lsn bigint not null,
    primary key (partition, uid, stream, device)
) with (fillfactor = 70);

create table reads (
    partition integer not null,
    uid text collate "C" not null,
    stream text collate "C" not null,
    epoch bigint not null,
    seq bigint not null,
    primary key (partition, uid, stream)
) with (fillfactor = 70);
