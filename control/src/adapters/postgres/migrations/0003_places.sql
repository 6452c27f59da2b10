-- How far those have come who follow a partition's log and tell others of it.
create table followers (
    partition integer not null,
    name text collate "C" not null,
    lsn bigint not null,
    primary key (partition, name)
) with (fillfactor = 20);
