-- Statements on staged parts. {parts} and the like are full names; {staging} is the staging table of a target.

-- name: next_number
select nextval({part_numbers_text}::regclass);

-- name: current_part
select number, revision, manifest::text, state from {parts}
where table_name = $1 and batch = $2 and part_id = $3 order by revision desc limit 1;

-- name: insert_part
insert into {parts} (number, table_name, batch, part_id, revision, manifest)
values ($1::bigint, $2, $3, $4, $5::integer, $6::json) on conflict do nothing returning number;

-- name: list_batches
select distinct batch from {parts} where table_name = $1 order by batch;

-- name: list_parts
select distinct on (part_id) part_id, number, manifest::text, state from {parts}
where table_name = $1 and batch = $2 order by part_id, revision desc;

-- name: list_retired
select p.part_id, p.number, p.manifest::text, p.state from {parts} as p
where p.table_name = $1 and p.state = 'retired'
    and p.changed_at <= clock_timestamp() - make_interval(secs => $2::float8)
    and not exists (
        select from {parts} as later
        where later.table_name = p.table_name and later.batch = p.batch and later.part_id = p.part_id
            and later.revision > p.revision
    )
order by p.part_id;

-- name: retire_parts
update {parts} set state = 'retired', changed_at = clock_timestamp()
where number = any ($1::bigint[]) and state = 'staged';

-- name: purge_parts
update {parts} set state = 'purged', changed_at = clock_timestamp()
where number = any ($1::bigint[]) and state = 'retired' returning number;

-- name: discard_parts
update {parts} set state = 'discarded', changed_at = clock_timestamp(), reason = $2, changed_by = $3
where number = any ($1::bigint[]) and state = 'staged' returning number;

-- name: insert_quarantine
insert into {quarantine} (quarantine_id, table_name, batch, worker, source, rows)
values ($1, $2, $3, $4, $5, $6::bigint) on conflict do nothing returning quarantine_id;

-- name: insert_quarantine_rows
insert into {quarantine_rows} (quarantine_id, position, problems, content)
select $1, * from unnest($2::bigint[], $3::json[], $4::json[]);

-- name: list_quarantined
select quarantine_id, table_name, batch, worker, source, rows, put_aside_at from {quarantine}
where table_name = $1 order by batch, worker, quarantine_id;

-- name: find_quarantined
select rows from {quarantine} where table_name = $1 and quarantine_id = $2;

-- name: read_quarantined
select position, problems::text, content::text from {quarantine_rows}
where quarantine_id = $1 and position > $2::bigint order by position limit $3::bigint;

-- name: list_remains
select p.part_id, p.number, p.manifest::text, p.state from {parts} as p
where p.state in ('staged', 'retired') and p.changed_at <= clock_timestamp() - make_interval(secs => $1::float8)
    and exists (
        select from {parts} as later
        where later.table_name = p.table_name and later.batch = p.batch and later.part_id = p.part_id
            and later.revision > p.revision
    )
order by p.number;

-- name: forget_parts
update {parts} set state = 'purged', changed_at = clock_timestamp()
where number = any ($1::bigint[]) and state in ('staged', 'retired') returning number;

-- name: probe_parts
select greatest(reltuples, 0)::bigint,
    has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'select')
from pg_catalog.pg_class as c where c.oid = {parts_text}::regclass;
