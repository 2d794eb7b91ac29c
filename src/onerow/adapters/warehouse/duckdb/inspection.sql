-- Looking at a table without changing it. "touched" is a view of the rows that are looked at.

-- name: view_touched
create or replace temp view touched as select $target_columns from target where $touched_partitions;

-- name: count_rows
select $partition, count(*) from touched group by $partition;

-- name: suspects
-- Hashes of keys that stand more than once; without one there is no duplicate.
create or replace temp table suspects as
select $key_hash as k from touched group by $key_hash having count(*) > 1;

-- name: count_suspects
select count(*) from suspects;

-- name: duplicates
create or replace temp table duplicates as
select $identity, count(*) as __onerow_rows, $ids as __onerow_ids from touched
where $key_hash in (select k from suspects)
group by $identity having count(*) > 1;

-- name: count_duplicates
select count(*), coalesce(sum(__onerow_rows - 1), 0)::bigint from duplicates;

-- name: list_duplicates
select * from duplicates order by $identity limit ?;

-- name: wandering_keys
-- Keys that stand in several partitions.
select count(*) from (
    select $business_key from touched group by $business_key having count(distinct $partition) > 1
) as w;

-- name: broken_check
select count(*) from touched where not $condition;

-- name: repeated_contents
-- Rows that agree with another one in every declared column, beyond one of each.
select coalesce(sum(__onerow_rows - 1), 0)::bigint from (
    select count(*) as __onerow_rows from touched
    where $content_hash in (select $content_hash from touched group by $content_hash having count(*) > 1)
    group by $columns having count(*) > 1
) as repeated;
