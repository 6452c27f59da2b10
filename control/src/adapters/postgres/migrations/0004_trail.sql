-- Of the messages that retention took: some of each stream, with their times, so that they are found in a longer history.
create table trail (
    partition integer not null,
    stream text collate "C" not null,
    epoch bigint not null,
    seq bigint not null,
    ts bigint not null,
    primary key (partition, stream, epoch, seq)
);
-- As for `dedup`.
create index trail_ts on trail using brin (ts) with (autosummarize = on);
