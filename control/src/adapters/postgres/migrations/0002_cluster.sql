-- Several partitions, each with an owner that reads its own place of the upstream topic.

alter table partitions
    -- Partition of the upstream topic that this partition's messages are read from, and the next offset there.
    add column source integer,
    add column next_offset bigint,
    -- What the log up to here owes to other partitions has arrived there.
    add column routed_lsn bigint not null default 0;

-- How many partitions streams are spread over. Said once, with the first owner.
alter table store add column partitions integer;

-- Groups of a user lie in all partitions, whose lsns cannot be compared; times can.
alter table heads add column last_ts bigint not null default 0;
create index members_of_user on members (uid) where left_seq is null;
drop index members_uid;
