-- Versions mode. {staged} holds the batch's different contents; {version} numbers the versions of a key.

-- name: meet
-- For each staged content: its key's greatest version, and how many rows have that content already.
create temporary table __onerow_met on commit drop as {met};

-- name: met
select s.ctid as staged, {partition} as partition, max(t.{version})::bigint as latest,
    count(*) filter (where {newer} = 0) as same
from {staged} as s join {target} as t on {same_key}
where s.__onerow_pattern = {wanted} and {touched} group by s.ctid, {partition};

-- name: analyze_met
analyze pg_temp.__onerow_met (staged);

-- name: count_met
select partition, count(*) filter (where same > 0), count(*) filter (where same > 1) from pg_temp.__onerow_met group by 1;

-- name: insert_versions
-- New contents of one key are numbered from the oldest on, after the key's greatest version.
insert into {target} ({columns}, {version})
select {values}, coalesce(m.latest, 0) + row_number() over (partition by {identity} order by {oldest_first})
from {staged} as s left join pg_temp.__onerow_met as m on m.staged = s.ctid
where coalesce(m.same, 0) = 0;

-- name: count_unnumbered
select count(*) from {target} as t where {touched} and t.{version} is null;

-- name: verify_versions
-- Rows that have a staged content, contents that some row has, and new ones whose number does not follow the latest.
select coalesce(sum(found), 0)::bigint, count(*),
    count(*) filter (where fresh and (least_version <= latest or greatest_version > latest + fresh_of_key))
from (
    select f.*, count(*) filter (where fresh) over (partition by {identity_of_found}) as fresh_of_key
    from ({found}) as f
) as f;

-- name: count_repeated
-- Contents of staged keys that stand more than once in the touched partitions.
select coalesce(sum(n), 0)::bigint from ({repeated}) as r(n);

-- name: repeated
select count(*) from (
    select from (select distinct {identity} from {staged} as s where s.__onerow_pattern = {wanted}) as s
    join {target} as t on {same_key} where {touched} group by {all_of_target} having count(*) > 1
) as r;

-- name: found
select s.ctid, {identity_named}, count(*) as found, min(t.{version}) as least_version,
    max(t.{version}) as greatest_version, coalesce(min(m.latest), 0) as latest,
    bool_and(coalesce(m.same, 0) = 0) as fresh
from {staged} as s left join pg_temp.__onerow_met as m on m.staged = s.ctid
join {target} as t on {same_key}
where s.__onerow_pattern = {wanted} and {touched} and {newer} = 0 group by s.ctid, {identity};

-- name: find_repeated_contents
-- Keys of staged contents that stand more than once.
select {key_as_text}, count(*)
from {target} as t where {touched} group by {all_of_target} having count(*) > 1
order by {key_of_target} limit $1::bigint;
