-- Looking at a table without changing it. {touched} is the condition of the rows that are looked at.

-- name: settle
select set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true),
    set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true);

-- name: count_rows
select {partition_text}, count(*) from {target} as t where {touched} group by 1;

-- name: count_duplicates
select count(*), coalesce(sum(n - 1), 0)::bigint from (
    select count(*) as n from {target} as t where {touched} group by {identity} having count(*) > 1
) as d;

-- name: list_duplicates
select {identity_text}, count(*), {ids} from {target} as t where {touched} group by {identity}
having count(*) > 1 order by {identity} limit $1::bigint;

-- name: repeated_contents
-- Versions mode: rows that have the content of another one.
select coalesce(sum(n - 1), 0)::bigint from (
    select count(*) as n from {target} as t where {touched} group by {content} having count(*) > 1
) as d;

-- name: wandering_keys
select count(*) from (
    select from {target} as t where {touched} group by {business_key} having count(distinct {partition}) > 1
) as w;

-- name: broken_check
select count(*) from {target} as t where {touched} and not ({condition});
