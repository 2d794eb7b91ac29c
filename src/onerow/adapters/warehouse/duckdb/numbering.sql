-- Taking an existing table into versions mode.

-- name: count_identical
select count(*), coalesce(sum(__onerow_rows - 1), 0)::bigint from (
    select count(*) as __onerow_rows from target group by $columns having count(*) > 1
) as repeated;

-- name: number
update target set $version = n.__onerow_version from (
    select rowid as __onerow_row, row_number() over (partition by $identity order by $oldest_first) as __onerow_version
    from target
) as n
where target.rowid = n.__onerow_row;
