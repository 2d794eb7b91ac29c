-- Statements on the control tables. The schema "control" and the table "target" stand for real names.

-- name: create_schema
create schema if not exists control;

-- name: create_guards
-- One row a table: every consolidating transaction changes it first. `origin` is "created" or "adopted".
create table if not exists control.guards (
    table_name varchar not null,
    attempt    bigint not null,
    lock_store varchar,
    origin     varchar not null
);

-- name: create_fences
-- The highest token that has committed for a scope. The partition of a table without partitions is ''.
create table if not exists control.fences (
    table_name varchar not null,
    partition  varchar not null,
    token      bigint not null
);

-- name: create_ledger
-- The partition of a table without partitions is NULL; the empty text is a partition like any other.
create table if not exists control.ledger (
    table_name    varchar not null,
    partition     varchar,
    part_id       varchar not null,
    batch         varchar not null,
    consolidation varchar not null,
    rows_staged   bigint not null
);

-- name: create_history
create table if not exists control.history (
    action          varchar not null,
    table_name      varchar not null,
    partition       varchar,
    batch           varchar not null,
    consolidation   varchar not null,
    attempt         integer not null,
    token           bigint,
    unlocked        boolean not null,
    holder          varchar not null,
    parts           bigint not null,
    rows_staged     bigint not null,
    rows_inserted   bigint not null,
    rows_updated    bigint not null,
    rows_unchanged  bigint not null,
    rows_superseded bigint not null,
    merge_s         double not null,
    verify_s        double not null,
    committed_at    timestamp not null,
    reason          varchar not null
);

-- name: create_meta
create table if not exists control.meta (name varchar not null, value varchar not null);

-- name: count_installs
-- Where many may write at once, two installations that create something change this row and so conflict.
update control.meta set value = (value::bigint + 1)::varchar where name = 'installs';

-- name: first_install
insert into control.meta (name, value) values ('installs', '1');

-- name: change_guard
update control.guards set attempt = attempt + 1 where table_name = ?;

-- name: read_guard
select lock_store, origin from control.guards where table_name = ?;

-- name: insert_guard
insert into control.guards (table_name, attempt, lock_store, origin) values (?, 0, ?, ?);

-- name: adopt_lock_store
update control.guards set lock_store = ?, attempt = attempt + 1 where table_name = ?;

-- name: read_fences
select partition, max(token) from control.fences
where table_name = ? and partition in (select unnest(?)) group by partition;

-- name: delete_fences
delete from control.fences where table_name = ? and partition in (select unnest(?));

-- name: insert_fences
insert into control.fences (table_name, partition, token) select ?, unnest(?), unnest(?);

-- name: insert_ledger
insert into control.ledger (table_name, batch, consolidation, partition, part_id, rows_staged)
select ?, ?, ?, unnest(?), unnest(?), unnest(?);

-- name: insert_history
insert into control.history (
    action, table_name, batch, consolidation, attempt, unlocked, holder, merge_s, verify_s, reason, committed_at,
    partition, token, parts, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded
)
select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, make_timestamp(epoch_us(get_current_timestamp())),
    unnest(?), unnest(?), unnest(?), unnest(?), unnest(?), unnest(?), unnest(?), unnest(?);

-- name: read_committed
select partition, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s
from control.history
where table_name = ? and consolidation = ? and attempt = ? and action = 'consolidate';

-- name: read_interventions
select partition, rows_superseded from control.history
where table_name = ? and consolidation = ? and attempt = ? and action = ?;

-- name: read_only_batches
select distinct batch from control.ledger where table_name = ? and partition is not distinct from ? limit 2;

-- name: read_merged
select part_id, partition from control.ledger where table_name = ? and batch = ?;

-- name: read_batches
select batch, count(distinct part_id) from control.ledger where table_name = ? group by batch;

-- name: read_history
select action, table_name, partition, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason
from control.history
where ($1 is null or table_name = $1) and ($2 is null or batch = $2)
order by committed_at desc, consolidation, partition limit $3;

-- name: read_inserted
select partition, sum(rows_inserted)::bigint from control.history
where table_name = ? group by partition;

-- name: read_control_tables
select table_name from duckdb_tables() where database_name = ? and schema_name = ?;
