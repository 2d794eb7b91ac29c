-- Numbering versions, step by step: what differs from merge.sql, whose other statements and pieces are used as they
-- are. "staged" holds the different contents of the batch, "held" the target's rows of the staged keys as they were,
-- "stored" the same as they are now. A content is all declared columns of a row; $content_hash is a 64-bit hash of it,
-- which only ever finds candidates. $version is the column of the numbers.

-- name: stage
create or replace temp table staged as
select *, $key_hash as __onerow_key, $content_hash as __onerow_content from $source;

-- name: stage_sorted
create or replace temp table staged as
select *, $key_hash as __onerow_key, $content_hash as __onerow_content from $source order by $sorting;

-- name: count_staged
select $partition, count(*), (select count(distinct __onerow_content) from staged) from staged group by $partition;

-- name: collect_losers
-- Rows that repeat a content of the batch: all but one of each.
create or replace temp table losers as
select __onerow_row, $partition as __onerow_partition
from (
    select rowid as __onerow_row, * from staged
    where __onerow_content in (select __onerow_content from staged group by __onerow_content having count(*) > 1)
)
qualify row_number() over (partition by $columns) > 1;

-- name: hold
create or replace temp table held as
select *, $key_hash as __onerow_key, $content_hash as __onerow_content from touched
where $key_hash in (select __onerow_key from staged);

-- name: classify
-- The staged contents that the table has already.
create or replace temp table met as
select s.rowid as __onerow_staged, $staged_partition as __onerow_partition
from staged as s join held as t on t.__onerow_content = s.__onerow_content and $same_content;

-- name: count_met
select __onerow_partition, count(*), (select count(distinct __onerow_staged) from met) from met
group by __onerow_partition;

-- name: find_latest
create or replace temp table latest as
select $identity, __onerow_key, greatest(max($version), 0) as __onerow_version from held
group by $identity, __onerow_key;

-- name: insert_versions
-- New contents of one key are numbered from the oldest on, after the latest version that is there.
insert into target ($stored_columns)
select $columns, __onerow_before + row_number() over (partition by $identity order by $oldest_first)
from (
    select s.*, coalesce(t.__onerow_version, 0) as __onerow_before
    from staged as s left join latest as t on t.__onerow_key = s.__onerow_key and $same_key
    where s.rowid not in (select __onerow_staged from met)
) as fresh;

-- name: verify_versions
-- The touched partitions as they are now: rows of each; and in all, different pairs of key and version, and rows
-- without a version.
select $partition, count(*), (select count(distinct $row_hash) from touched),
    (select count(*) from touched where $version is null)
from touched group by $partition;

-- name: look_again
create or replace temp table stored as
select *, $key_hash as __onerow_key, $content_hash as __onerow_content from touched
where $key_hash in (select __onerow_key from staged);

-- name: count_contents
select count(*), count(distinct __onerow_content) from stored;

-- name: verify_staged
-- Staged contents that are there, compared exactly.
select count(*) from staged as s join stored as t on t.__onerow_content = s.__onerow_content and $same_content;

-- name: count_misnumbered
-- Keys whose new versions are not the numbers that follow their latest one.
select count(*) from (
    select __onerow_before, max($version) as __onerow_last,
        count(*) filter (where $version > __onerow_before) as __onerow_new
    from (
        select s.*, coalesce(t.__onerow_version, 0) as __onerow_before
        from stored as s left join latest as t on t.__onerow_key = s.__onerow_key and $same_key
    ) as numbered
    group by $identity, __onerow_before
) as checked
where __onerow_new > 0 and __onerow_last <> __onerow_before + __onerow_new;

-- name: find_duplicates
select $row_identity, count(*) as __onerow_rows from touched group by $row_identity having count(*) > 1
order by $row_identity limit ?;

-- name: find_repeated
-- Keys that have one content under several versions.
select $identity, sum(__onerow_rows)::bigint as __onerow_rows from (
    select $columns, count(*) as __onerow_rows from stored group by $columns having count(*) > 1
) as repeated
group by $identity order by $identity limit ?;
