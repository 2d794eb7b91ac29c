-- The merge, step by step. A dollar names a piece that is built from the table spec: "$columns" is a list of
-- columns, "$same_key" a condition. "staged" are the winners of the batch, one row a key; "touched" is a view
-- of the target's rows in the plan's partitions. $key_hash is a 64-bit hash of partition and key: equal keys have
-- equal hashes, so what a hash does not find twice does not stand twice; what it does find is compared exactly.

-- name: stage
create or replace temp table staged as
select *, $key_hash as __onerow_key, $order_hash as __onerow_order from $source;

-- name: stage_sorted
-- Several partitions: sorted, so that the target's row groups stay within few of them and can be skipped later.
create or replace temp table staged as
select *, $key_hash as __onerow_key, $order_hash as __onerow_order from $source order by $sorting;

-- name: count_staged
select $partition, count(*), (select count(distinct __onerow_key) from staged) from staged group by $partition;

-- name: collect_losers
-- Rows of a key below its newest; `same`: identical to the newest in every column.
create or replace temp table losers as
select __onerow_row, $partition as __onerow_partition, __onerow_key,
    rank() over (partition by $identity order by $newest_first) = 1 as same
from (
    select rowid as __onerow_row, * from staged
    where __onerow_key in (select __onerow_key from staged group by __onerow_key having count(*) > 1)
)
qualify row_number() over (partition by $identity order by $newest_first) > 1;

-- name: count_losers
select __onerow_partition, count(*) from losers group by __onerow_partition;

-- name: drop_losers
delete from staged where rowid in (select __onerow_row from losers);

-- name: view_touched
create or replace temp view touched as
select rowid as __onerow_target, $target_columns from target where $touched_partitions;

-- name: count_touched
select $partition, count(*) from touched group by $partition;

-- name: classify
-- Which staged row meets which row of the target, and which is the newer by the first order column: 1 the staged
-- one, -1 the target's, 0 a tie so far.
create or replace temp table met as
select s.rowid as __onerow_staged, s.__onerow_key, t.__onerow_target, $staged_partition as __onerow_partition,
    $compare_first as newer
from staged as s join (select __onerow_target, $classify_columns from touched) as t on $same_key;

-- name: break_ties
create or replace temp table broken_ties as
select m.__onerow_staged, $compare_all as newer
from (select * from met where newer = 0) as m
join staged as s on s.rowid = m.__onerow_staged
join touched as t on t.__onerow_target = m.__onerow_target;

-- name: apply_ties
update met set newer = b.newer from broken_ties as b
where b.__onerow_staged = met.__onerow_staged and b.newer <> 0;

-- name: count_outcomes
select __onerow_partition, count(*), count(*) filter (where newer = 1), count(*) filter (where newer = 0),
    (select count(distinct __onerow_staged) from met)
from met group by __onerow_partition;

-- name: count_beaten
select l.__onerow_partition, count(*), count(*) filter (where l.same and coalesce(m.newer, 1) >= 0)
from losers as l left join met as m on m.__onerow_key = l.__onerow_key group by l.__onerow_partition;

-- name: delete_replaced
delete from target using (select __onerow_target from met where newer = 1) as m
where target.rowid = m.__onerow_target and $touched_partitions;

-- name: insert_all
insert into target ($column_list) select $columns from staged;

-- name: insert_newest
insert into target ($column_list) select $columns from staged
where rowid not in (select __onerow_staged from met where newer <> 1);

-- name: look_back
-- The touched partitions as they are now, read once: in a lake every look costs a look into its catalog too. For each,
-- rows, different keys, rows of staged keys, and those of them that differ from the staged winner in the order columns.
-- A key belongs to one partition: its hash is also of that.
select t.__onerow_partition, count(*), count(distinct t.__onerow_key), count(s.__onerow_key),
    count(*) filter (where s.__onerow_order <> t.__onerow_order)
from (
    select $partition as __onerow_partition, $key_hash as __onerow_key, $order_hash as __onerow_order from touched
) as t left join staged as s on s.__onerow_key = t.__onerow_key
group by t.__onerow_partition;

-- name: count_older
-- Of those that differ, how many stored rows are older than the staged winner: none may be.
select count(*) from staged as s
join (select *, $key_hash as __onerow_key, $order_hash as __onerow_order from touched) as t
    on t.__onerow_key = s.__onerow_key
where s.__onerow_order <> t.__onerow_order and $compare_all = 1;

-- name: find_duplicates
select $identity, count(*) as __onerow_rows from touched group by $identity having count(*) > 1
order by $identity limit ?;
