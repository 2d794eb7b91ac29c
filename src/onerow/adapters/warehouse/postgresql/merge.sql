-- The merge, step by step. A piece in braces is built from the table spec. {staged} is a temporary table with the
-- winners of the batch, one row a key; "t" is the target and "s" the staged row.

-- name: make_room
-- Memory for hashing and sorting in this transaction, in bytes, unless the server gives more.
select set_config(
    'work_mem', greatest(pg_size_bytes(current_setting('work_mem')), $1::bigint) / 1024 || 'kB', true
);

-- name: stage
-- Several partitions in order: the merge then works on one stretch of the target's index after the other.
create temporary table __onerow_staged on commit drop as
select {staged_columns}, {pattern}::smallint as __onerow_pattern from {source} where {parts} {in_order};

-- name: analyze
-- The columns of the conditions, and no others: without their statistics a batch is taken for a handful of rows and
-- met with the target one index lookup at a time.
analyze {staged} ({analyzed});

-- name: count_staged
-- Rows, and keys with several of them, by partition and by which key columns are NULL.
select k.partition, k.pattern, sum(k.count)::bigint, count(*) filter (where k.count > 1)
from (
    select {partition} as partition, s.__onerow_pattern as pattern, count(*) as count
    from {staged} as s group by 1, 2, {same}
) as k
group by 1, 2 order by 2;

-- name: collect_losers
-- All rows of repeated keys; `place` 1 is the winner; `same`: identical to the winner in every column.
create temporary table __onerow_losers on commit drop as
select s.__onerow_row, {partition} as partition, first_value(s.__onerow_row) over newest as winner,
    rank() over newest = 1 as same, row_number() over newest as place
from (
    select s.ctid as __onerow_row, s.*, count(*) over (partition by {same}) as __onerow_rows from {staged} as s
) as s
where s.__onerow_rows > 1
window newest as (partition by {same} order by {newest_first});

-- name: drop_losers
delete from {staged} as s using {losers} as l where s.ctid = l.__onerow_row and l.place > 1;

-- name: count_losers
select partition, count(*) from {losers} where place > 1 group by 1;

-- name: count_outcomes
-- Per partition: staged rows that meet one of the target, those that win, and ties.
select m.partition, count(*), count(*) filter (where m.newer = 1), count(*) filter (where m.newer = 0)
from ({met}) as m(staged, partition, newer) group by 1;

-- name: met
select s.ctid, {partition}, {newer} from {staged} as s join {target} as t on {same_key}
where s.__onerow_pattern = {wanted} and {touched};

-- name: met_again
-- The same for the winners of repeated keys alone.
select s.ctid, {partition}, {newer}
from (select * from {losers} where place = 1) as l
join {staged} as s on s.ctid = l.winner join {target} as t on {same_key}
where s.__onerow_pattern = {wanted} and {touched};

-- name: count_beaten
-- Losers by partition, and those of them that equal what stands in the table after the merge.
select l.partition, count(*), count(*) filter (where l.same and coalesce(m.newer, 1) >= 0)
from {losers} as l left join ({met}) as m(staged, partition, newer) on m.staged = l.winner
where l.place > 1 group by 1;

-- name: merge
merge into {target} as t
using (select * from {staged} where __onerow_pattern = {wanted}) as s
on {same_key} and {touched}
{when_newer}
when not matched then insert ({columns}) values ({values});

-- name: merge_and_tell
-- The same from PostgreSQL 17 on, which tells what became of the rows; those it left alone are not told.
with told as ({merge} returning merge_action() as action, {partition_of_target} as partition)
select partition, count(*) filter (where action = 'INSERT'), count(*) filter (where action = 'UPDATE')
from told group by 1;

-- name: verify_keys
-- Keys of the touched partitions that stand more than once.
select count(*) from (select from {target} as t where {touched} group by {identity_of_target} having count(*) > 1) as d;

-- name: verify_staged
-- Staged keys that are in the table, and those of them whose row is older than the staged winner.
select count(*), count(*) filter (where m.newer = 1) from ({met}) as m(staged, partition, newer);

-- name: settle
-- Values are told as text in these forms, whatever the session has set.
select set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true);

-- name: find_duplicates
select {identity_as_text}, count(*) from {target} as t where {touched} group by {identity_of_target}
having count(*) > 1 order by {identity_of_target} limit $1::bigint;
