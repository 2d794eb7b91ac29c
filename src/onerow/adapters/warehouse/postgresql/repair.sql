-- Repair of duplicates. "t" is the target, or rows that were copied from it with the same columns. Hashes of keys find
-- candidates; what stands twice is decided by the columns themselves, compared exactly.

-- name: settle
-- Rows are hashed as text: in these forms, whatever the session has set.
select set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true),
    set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true),
    set_config('IntervalStyle', 'postgres', true);

-- name: collect_suspects
create temporary table __onerow_suspects on commit drop as
select {key_hash} as k from {target} as t where {touched} group by 1 having count(*) > 1;

-- name: collect_repeated
-- Rows of keys that stand more than once, place 1 is the newest; `same`: identical to it in every column.
create temporary table __onerow_repeated on commit drop as
select * from (
    select {stored}, t.tableoid as __onerow_part, t.ctid as __onerow_row, {row_hash} as __onerow_hash,
        dense_rank() over (order by {identity}) as __onerow_key,
        row_number() over (partition by {identity} order by {newest_first}, t.tableoid, t.ctid) as __onerow_place,
        rank() over (partition by {identity} order by {newest_first}) = 1 as __onerow_same,
        count(*) over (partition by {identity}) as __onerow_rows, null::bigint as __onerow_number
    from {target} as t where {touched} and {key_hash} in (select k from pg_temp.__onerow_suspects)
) as r
where __onerow_rows > 1;

-- name: collect_suspects_of_versions
-- In versions mode: hashes of keys that have one content twice, or one version.
create temporary table __onerow_suspects on commit drop as
select {key_hash} as k from {target} as t where {touched} group by {key_hash}, {content_hash} having count(*) > 1
union
select {key_hash} from {target} as t where {touched} group by {key_hash}, {version} having count(*) > 1;

-- name: collect_repeated_of_versions
-- Place 1 is the lowest version of a content and stays; of different contents with one version the oldest keeps it,
-- the others are numbered from the oldest on above the highest of their key.
create temporary table __onerow_repeated on commit drop as
select * from (
    select {stored}, __onerow_part, __onerow_row, __onerow_hash, __onerow_key, __onerow_place,
        coalesce(__onerow_clash, 1) = 1 as __onerow_same,
        max(greatest(__onerow_place, coalesce(__onerow_clash, 1))) over (partition by __onerow_key) as __onerow_worst,
        case when __onerow_clash > 1 then __onerow_highest + row_number() over (
            partition by __onerow_key, __onerow_clash > 1 order by {oldest_first}
        ) end as __onerow_number
    from (
        select t.*, max({version}) over (partition by __onerow_key) as __onerow_highest,
            case when __onerow_place = 1 then row_number() over (
                partition by __onerow_key, {version}, __onerow_place = 1 order by {oldest_first}
            ) end as __onerow_clash
        from (
            select {stored}, t.tableoid as __onerow_part, t.ctid as __onerow_row, {row_hash} as __onerow_hash,
                dense_rank() over (order by {identity}) as __onerow_key,
                row_number() over (
                    partition by {content} order by {version} nulls last, t.tableoid, t.ctid
                ) as __onerow_place
            from {target} as t where {touched} and {key_hash} in (select k from pg_temp.__onerow_suspects)
        ) as t
    ) as t
) as r
where __onerow_worst > 1;

-- name: collect_keys
-- One row a key; `near`: its rows were written within a second of each other.
create temporary table __onerow_keys on commit drop as
select __onerow_key, {partition} as __onerow_partition, {identity_named}, count(*) as __onerow_rows,
    bool_and(__onerow_same) as __onerow_identical, {near} as __onerow_near,
    count(*) filter (where __onerow_place > 1) as __onerow_extra, count(__onerow_number) as __onerow_renumbered,
    array_agg({id} order by {kept_first}) filter (where __onerow_place = 1) as __onerow_kept,
    array_agg({id} order by __onerow_place) filter (where __onerow_place > 1) as __onerow_moved
from pg_temp.__onerow_repeated as t group by __onerow_key, {partition}, {identity};

-- name: count_keys
select __onerow_partition, __onerow_identical, __onerow_near, count(*), sum(__onerow_extra)::bigint,
    sum(__onerow_renumbered)::bigint
from pg_temp.__onerow_keys group by 1, 2, 3;

-- name: fingerprints
-- A sum does not depend on the order of the rows, and copies do not cancel each other out.
select {partition}, count(*) || ':' || sum(__onerow_hash)::text from pg_temp.__onerow_repeated as t group by 1;

-- name: list_keys
select {identity_names}, __onerow_rows, __onerow_identical, __onerow_near, __onerow_kept, __onerow_moved
from pg_temp.__onerow_keys order by __onerow_key limit $1::bigint;

-- name: count_rows
select {partition}, count(*) from {target} as t where {touched} group by 1;

-- name: count_rounding
-- Groups of keys that are one key once a decimal column is cast to an integer.
select count(*) from (
    select from {target} as t where {touched} and {decimal} is not null
    group by {others}round({decimal}, 0) having count(distinct {decimal}) > 1
) as g;

-- name: move_aside
-- The reasons are four, one for each answer to: identical? written within a second?
insert into {removed} ({stored}, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
select {stored_of_repeated}, $1, clock_timestamp(),
    ($2::text[])[1 + 2 * k.__onerow_identical::integer + k.__onerow_near::integer], $3
from pg_temp.__onerow_repeated as t join pg_temp.__onerow_keys as k using (__onerow_key)
where t.__onerow_place > 1 and {among};

-- name: delete_moved
-- A row that somebody has changed since it was read is left alone, and missed in the count.
delete from {target} as t using pg_temp.__onerow_repeated as r
where t.tableoid = r.__onerow_part and t.ctid = r.__onerow_row and r.__onerow_place > 1
    and {row_hash} = r.__onerow_hash and {among};

-- name: renumber
update {target} as t set {version_column} = r.__onerow_number from pg_temp.__onerow_repeated as r
where t.tableoid = r.__onerow_part and t.ctid = r.__onerow_row and r.__onerow_number is not null
    and {row_hash} = r.__onerow_hash and {among};

-- name: find_removed
select t.ctid::text, {id}, t.__onerow_removed_at, t.__onerow_reason from {removed} as t
where t.__onerow_run = $1 and {is_key} order by {newest_first}, t.ctid limit 1;

-- name: find_runs
select t.__onerow_run from {removed} as t where {is_key} group by 1 order by max(t.__onerow_removed_at) desc limit 5;

-- name: find_current
-- Locked, so that nobody changes it before it goes.
select {id} from {target} as t where {touched} and {is_key} for update;

-- name: see_current
select {id} from {target} as t where {touched} and {is_key};

-- name: put_aside
insert into {removed} ({columns}, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
select {columns}, $1, clock_timestamp(), $2, $3 from {target} as t where {touched} and {is_key};

-- name: delete_current
delete from {target} as t where {touched} and {is_key};

-- name: take_back
insert into {target} ({columns}) select {columns} from {removed} where ctid = $1::tid;

-- name: forget_removed
delete from {removed} where ctid = $1::tid;

-- name: count_partition
-- Rows of the partition, and keys of it that stand more than once.
select coalesce(sum(n), 0)::bigint, count(*) filter (where n > 1)
from (select count(*) as n from {target} as t where {touched} group by {row_identity}) as k;

-- name: find_duplicates
select {row_identity_as_text}, count(*) from {target} as t where {touched} group by {row_identity}
having count(*) > 1 order by {row_identity} limit $1::bigint;
