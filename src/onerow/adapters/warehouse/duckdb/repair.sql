-- Repair of duplicates. "touched" is a view of the target's rows in question, as in merge.sql; "removed" the table
-- of the rows that were moved aside. What a hash does not find twice does not stand twice; what it finds is
-- compared exactly.

-- name: view_touched
create or replace temp view touched as
select rowid as __onerow_target, $target_columns from target where $touched_partitions;

-- name: collect_suspects
create or replace temp table suspects as
select $key_hash as k from touched group by $key_hash having count(*) > 1;

-- name: count_suspects
select count(*) from suspects;

-- name: collect_repeated
-- Rows of keys that stand more than once, place 1 is the newest; `same`: identical to it in every column.
create or replace temp table repeated as
select *, row_number() over (partition by $identity order by $newest_first, __onerow_target) as __onerow_place,
    rank() over (partition by $identity order by $newest_first) = 1 as __onerow_same,
    null::bigint as __onerow_number, $row_hash as __onerow_hash
from (select * from touched where $key_hash in (select k from suspects)) as s
qualify count(*) over (partition by $identity) > 1;

-- name: collect_suspects_of_versions
-- In versions mode: hashes of keys that have one content twice, or one version.
create or replace temp table suspects as
select $key_hash as k from touched group by $key_hash, $content_hash having count(*) > 1
union
select $key_hash as k from touched group by $key_hash, $version having count(*) > 1;

-- name: collect_repeated_of_versions
-- Place 1 is the lowest version of a content and stays; of different contents with one version the oldest keeps it,
-- the others are numbered from the oldest on above the highest of their key.
create or replace temp table repeated as
select * exclude (__onerow_clash, __onerow_highest),
    case when __onerow_clash > 1 then __onerow_highest + row_number() over (
        partition by $identity, __onerow_clash > 1 order by $oldest_first
    ) end as __onerow_number,
    coalesce(__onerow_clash, 1) = 1 as __onerow_same,
    $row_hash as __onerow_hash
from (
    select *, max($version) over (partition by $identity) as __onerow_highest,
        case when __onerow_place = 1 then row_number() over (
            partition by $identity, $version, __onerow_place = 1 order by $oldest_first
        ) end as __onerow_clash
    from (
        select *, row_number() over (
            partition by $columns order by $version nulls last, __onerow_target
        ) as __onerow_place
        from touched where $key_hash in (select k from suspects)
    ) as p
) as c
qualify max(greatest(__onerow_place, coalesce(__onerow_clash, 1))) over (partition by $identity) > 1;

-- name: renumber
update target set $version_column = m.__onerow_number
from (select __onerow_target, __onerow_number from repeated where __onerow_number is not null) as m
where target.rowid = m.__onerow_target and $target_partitions;

-- name: collect_keys
-- One row a key; `near`: its rows were written within a second of each other.
create or replace temp table repeated_keys as
select $identity, count(*) as __onerow_rows, bool_and(__onerow_same) as __onerow_identical, $near as __onerow_near,
    count(*) filter (where __onerow_place > 1) as __onerow_extra,
    count(__onerow_number) as __onerow_renumbered,
    list($id order by $kept_first) filter (where __onerow_place = 1) as __onerow_kept,
    list($id order by __onerow_place) filter (where __onerow_place > 1) as __onerow_moved
from repeated group by $identity;

-- name: count_keys
select $partition, __onerow_identical, __onerow_near, count(*), sum(__onerow_extra)::bigint,
    sum(__onerow_renumbered)::bigint
from repeated_keys group by $partition, __onerow_identical, __onerow_near;

-- name: fingerprints
-- A sum does not depend on the order of the rows, and copies do not cancel each other out.
select $partition, concat(count(*), ':', sum(__onerow_hash::hugeint)) from repeated group by $partition;

-- name: list_keys
select $identity, __onerow_rows, __onerow_identical, __onerow_near, __onerow_kept, __onerow_moved
from repeated_keys order by $identity limit ?;

-- name: count_rows
select $partition, count(*) from touched group by $partition;

-- name: count_rounding
-- Groups of keys that are one key once a decimal column is cast to an integer.
select count(*) from (
    select 1 as one from touched where $decimal is not null
    group by $others, round($decimal, 0) having count(distinct $decimal) > 1
) as g;

-- name: move_aside
-- The reasons are four, one for each answer to: identical? written within a second?
insert into removed ($stored_list, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
select $repeated_columns, ?, make_timestamp(epoch_us(get_current_timestamp())),
    list_extract(?, 1 + 2 * k.__onerow_identical::integer + k.__onerow_near::integer), ?
from repeated as r join repeated_keys as k on $same_key
where r.__onerow_place > 1 and $repeated_partitions;

-- name: delete_moved
delete from target
using (select __onerow_target from repeated where __onerow_place > 1) as m
where target.rowid = m.__onerow_target and $target_partitions;

-- name: find_removed
select rowid, $id, __onerow_removed_at, __onerow_reason from removed
where __onerow_run = ? and $is_key order by $newest_first limit 1;

-- name: find_runs
select __onerow_run from removed where $is_key group by __onerow_run order by max(__onerow_removed_at) desc limit 5;

-- name: find_current
select $id from touched where $is_key;

-- name: put_aside
insert into removed ($column_list, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
select $columns, ?, make_timestamp(epoch_us(get_current_timestamp())), ?, ? from touched where $is_key;

-- name: delete_current
delete from target using (select __onerow_target from touched where $is_key) as m
where target.rowid = m.__onerow_target and $target_partitions;

-- name: take_back
insert into target ($column_list) select $columns from removed where rowid = ?;

-- name: forget_removed
delete from removed where rowid = ?;

-- name: count_partition
select count(*), count(distinct $key_hash) from target where $target_partitions;

-- name: find_duplicates
select $identity, count(*) as __onerow_rows from target where $target_partitions
group by $identity having count(*) > 1 order by $identity limit ?;
