//! Every statement. `$1` is the partition throughout; lists come as arrays, one per column.

pub const TAKE: &str = "insert into partitions as p (partition, owner_epoch, writer, last_lsn, last_ts)
     values ($1, 1, 0, 0, 0)
     on conflict (partition) do update set owner_epoch = p.owner_epoch + 1
     returning owner_epoch, last_ts, source, next_offset, routed_lsn";

pub const COUNT: &str = "update store set partitions = coalesce(partitions, $1) returning partitions";

pub const OWNER: &str = "select owner_epoch, last_lsn from partitions where partition = $1";

pub const NEXT_WRITER: &str = "update partitions set writer = writer + 1 where partition = $1 and owner_epoch = $2
     returning writer, last_lsn";

/// What is null was not said, and stays.
pub const ADVANCE: &str = "update partitions set last_lsn = $5, last_ts = greatest(last_ts, $6),
         source = coalesce($7::integer, source), next_offset = coalesce($8::bigint, next_offset),
         routed_lsn = greatest(routed_lsn, coalesce($9::bigint, 0))
     where partition = $1 and owner_epoch = $2 and writer = $3 and last_lsn = $4";

/// Of every batch, or of most; prepared when a connection begins.
pub const WRITES: [&str; 7] = [ADVANCE, RECORDS, PLACES, COPY_RECORDS, COPY_PLACES, HEADS, DEDUP];

pub const RECORDS: &str = "insert into records (partition, lsn, ts, record)
     select $1::integer, * from unnest($2::bigint[], $3::bigint[], $4::bytea[])";

pub const PLACES: &str = "insert into places (partition, stream, epoch, seq, lsn, ts, size)
     select $1::integer, * from unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
         $7::integer[])";

/// As [`RECORDS`] and [`PLACES`], for many rows.
pub const COPY_RECORDS: &str = "copy records (partition, lsn, ts, record) from stdin (format binary)";

pub const COPY_PLACES: &str = "copy places (partition, stream, epoch, seq, lsn, ts, size) from stdin (format binary)";

pub const HEADS: &str = "insert into heads as h (partition, stream, epoch, head, first, last_lsn, last_ts)
     select $1::integer, * from unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
         $7::bigint[])
     on conflict (partition, stream) do update set
         first = case when h.epoch = excluded.epoch then h.first else excluded.first end,
         epoch = excluded.epoch, head = excluded.head, last_lsn = excluded.last_lsn, last_ts = excluded.last_ts";

pub const DEDUP: &str = "insert into dedup (partition, key, epoch, seq, id, fingerprint, ts)
     select $1::integer, * from unnest($2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
         $7::bigint[])
     on conflict (partition, key) do update set
         epoch = excluded.epoch, seq = excluded.seq, id = excluded.id, fingerprint = excluded.fingerprint,
         ts = excluded.ts";

pub const END_MEMBERS: &str = "delete from members where partition = $1 and gid = any($2::text[])";

pub const GROUPS: &str = "insert into groups as g (partition, gid, epoch, open, name, creator, created, dismissed)
     select $1::integer, * from unnest($2::text[], $3::bigint[], $4::boolean[], $5::text[], $6::text[],
         $7::bigint[], $8::boolean[])
     on conflict (partition, gid) do update set
         created = case when g.epoch = excluded.epoch then g.created else excluded.created end,
         epoch = excluded.epoch, open = excluded.open, name = excluded.name, creator = excluded.creator,
         dismissed = excluded.dismissed";

pub const LEFT: &str = "update members m set left_seq = u.left_seq
     from unnest($2::text[], $3::text[], $4::bigint[]) as u (gid, uid, left_seq)
     where m.partition = $1 and m.gid = u.gid and m.uid = u.uid";

/// A present member keeps the place of joining, unless it is a new one in any case.
pub const JOINED: &str = "insert into members (partition, gid, uid, role, joined, left_seq)
     select $1::integer, u.gid, u.uid, u.role,
         case when u.anew or m.left_seq is not null then u.joined else coalesce(m.joined, u.joined) end, u.left_seq
     from unnest($2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::bigint[], $7::boolean[])
         as u (gid, uid, role, joined, left_seq, anew)
     left join members m on m.partition = $1 and m.gid = u.gid and m.uid = u.uid
     on conflict (partition, gid, uid) do update set
         role = excluded.role, joined = excluded.joined, left_seq = excluded.left_seq";

/// Says of each row whether it is new.
pub const MARKS: &str = "insert into marks as m (partition, uid, stream, device, epoch, seq, ts, lsn)
     select $1::integer, * from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
         $7::bigint[], $8::bigint[])
     on conflict (partition, uid, stream, device) do update set
         epoch = excluded.epoch, seq = excluded.seq, ts = excluded.ts, lsn = excluded.lsn
     returning uid, stream, xmax = 0";

pub const BOUND_MARKS: &str = "delete from marks m using (
         select uid, stream, device, row_number() over (partition by uid, stream order by ts desc, lsn desc) as place
         from marks
         where partition = $1 and (uid, stream) in (select * from unnest($2::text[], $3::text[]))
     ) as o
     where o.place > $4 and m.partition = $1 and m.uid = o.uid and m.stream = o.stream and m.device = o.device";

pub const READS: &str = "insert into reads (partition, uid, stream, epoch, seq)
     select $1::integer, * from unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[])
     on conflict (partition, uid, stream) do update set epoch = excluded.epoch, seq = excluded.seq";

pub const HEAD: &str = "select epoch, head, first from heads where partition = $1 and stream = $2";

/// Row by row, as is [`FIND_DEDUP_MANY`]: with `= any(…)` the planner reads all of the partition's rows for as long as the
/// statistics of a new table say that it is empty.
pub const HEADS_OF: &str = "select h.* from unnest($2::text[]) as u (wanted), lateral (
         select stream, epoch, head, first from heads where partition = $1 and stream = u.wanted limit 1
     ) as h";

pub const FIND_DEDUP_MANY: &str = "select d.* from unnest($2::bytea[]) as u (wanted), lateral (
         select key, epoch, seq, id, fingerprint from dedup where partition = $1 and key = u.wanted limit 1
     ) as d";

pub const FIND_DEDUP: &str = "select epoch, seq, id, fingerprint from dedup where partition = $1 and key = $2";

/// One statement, so that where the page begins and what it holds are of one moment: retention may move both.
pub const PAGE: &str = "select h.first, p.seq, p.record
     from heads h left join lateral (
         select s.seq, r.record
         from (
             select seq, lsn, sum(size) over (order by seq) as bytes, row_number() over (order by seq) as place
             from (
                 select seq, lsn, size from places
                 where partition = $1 and stream = $2 and epoch = h.epoch and seq > greatest($3, h.first - 1)
                 order by seq limit $4
             ) as few
         ) as s
         join records r on r.partition = $1 and r.lsn = s.lsn
         where s.bytes <= $5 or s.place = 1
     ) as p on true
     where h.partition = $1 and h.stream = $2
     order by p.seq";

pub const PLACE_FROM: &str = "select seq, ts from places
     where partition = $1 and stream = $2 and epoch = $3 and seq >= $4
     order by seq limit 1";

pub const GROUP: &str =
    "select epoch, open, name, creator, created, dismissed from groups where partition = $1 and gid = $2";

pub const MEMBER: &str =
    "select uid, role, joined, left_seq from members where partition = $1 and gid = $2 and uid = $3";

pub const MEMBERS: &str = "select uid, role, joined, left_seq from members
     where partition = $1 and gid = $2 and uid > $3 and left_seq is null
     order by uid limit $4";

/// In all partitions.
pub const GROUPS_OF: &str = "select m.gid
     from members m left join heads h on h.partition = m.partition and h.stream = 'g:' || m.gid
     where m.uid = $1 and m.left_seq is null
     order by coalesce(h.last_ts, 0) desc, coalesce(h.last_lsn, 0) desc, m.gid desc limit $2";

pub const FIND_MARKS: &str =
    "select device, epoch, seq, ts from marks where partition = $1 and uid = $2 and stream = $3";

pub const READ_CURSOR: &str = "select epoch, seq from reads where partition = $1 and uid = $2 and stream = $3";

/// One statement, for the same reason as [`PAGE`].
pub const REPLAY: &str = "select t.trimmed_lsn, s.lsn, s.record
     from retention t left join lateral (
         select lsn, record, sum(octet_length(record)) over (order by lsn) as bytes,
             row_number() over (order by lsn) as place
         from (
             select lsn, record from records
             where partition = $1 and lsn > $2 and lsn <= $3
             order by lsn limit $4
         ) as few
     ) as s on s.bytes <= $5 or s.place = 1
     where t.partition = $1
     order by s.lsn";

pub const TRIMMABLE: &str = "select lsn, ts, record from records
     where partition = $1 and lsn > (select trimmed_lsn from retention where partition = $1) and lsn <= $2
     order by lsn limit $3";

/// In the order of streams, as commits take them: two that lock the same rows must do so in the same order.
pub const LOCK_HEADS: &str =
    "select 1 from heads where partition = $1 and stream = any($2::text[]) order by stream for update";

pub const RAISE_FIRST: &str = "update heads h set first = u.seq + 1
     from unnest($2::text[], $3::bigint[], $4::bigint[]) as u (stream, epoch, seq)
     where h.partition = $1 and h.stream = u.stream and h.epoch = u.epoch and h.first <= u.seq";

pub const TRIM_PLACES: &str = "delete from places p
     using unnest($2::text[], $3::bigint[], $4::bigint[]) as u (stream, epoch, seq)
     where p.partition = $1 and p.stream = u.stream and p.epoch = u.epoch and p.seq = u.seq";

pub const TRIM_RECORDS: &str = "delete from records where partition = $1 and lsn <= $2";

pub const TRIMMED: &str = "update retention set trimmed_lsn = $2 where partition = $1 and trimmed_lsn < $2";

pub const PLACE_OF: &str = "select lsn from followers where partition = $1 and name = $2";

pub const KEEP_PLACE: &str = "insert into followers as f (partition, name, lsn) values ($1, $2, $3)
     on conflict (partition, name) do update set lsn = greatest(f.lsn, excluded.lsn)";

pub const TRIM_DEDUP: &str = "delete from dedup where ctid in (
         select ctid from dedup where partition = $1 and ts < $2 limit $3
     )";

/// None where the stream has one near enough before it.
pub const LAY_TRAIL: &str = "insert into trail (partition, stream, epoch, seq, ts)
     select $1::integer, u.* from unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) as u (stream, epoch, seq, ts)
     where not exists (
         select 1 from trail t
         where t.partition = $1 and t.stream = u.stream and t.epoch = u.epoch and t.seq <= u.seq
             and t.seq > u.seq - $6 and t.ts > u.ts - $7
     )
     on conflict do nothing";

/// The nearest one that is not after a seq, and the nearest after it.
pub const FIND_TRAIL: &str = "(
         select seq, ts from trail where partition = $1 and stream = $2 and epoch = $3 and seq <= $4
         order by seq desc limit 1
     ) union all (
         select seq, ts from trail where partition = $1 and stream = $2 and epoch = $3 and seq > $4
         order by seq limit 1
     ) order by seq";

pub const TRIM_TRAIL: &str = "delete from trail where ctid in (
         select ctid from trail where partition = $1 and ts < $2 limit $3
     )";
