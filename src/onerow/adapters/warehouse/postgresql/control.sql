-- Control tables. {schema} is their schema; {guards} and the like are their full names.

-- name: create_schema
create schema if not exists {schema};

-- name: create_meta
create table {meta} (name text collate "C" primary key, value text not null);

-- name: create_tables
-- One row a table. `origin` is "created" or "adopted".
create table {tables} (
    table_name text collate "C" primary key,
    lock_store text collate "C" not null,
    origin     text collate "C" not null check (origin in ('created', 'adopted'))
);

-- name: create_guards
-- One row a scope: every consolidating transaction changes it first. The partition of a table without is ''.
create table {guards} (
    table_name text collate "C",
    partition  text collate "C",
    attempt    bigint not null default 0,
    primary key (table_name, partition)
) with (fillfactor = 50);

-- name: create_fences
-- The highest token that has committed for a scope; of several rows the highest counts.
create table {fences} (
    table_name text collate "C" not null,
    partition  text collate "C" not null,
    token      bigint not null
);
create index on {fences} (table_name, partition);

-- name: create_ledger
-- The partition of a table without partitions is NULL; the empty text is a partition like any other.
create table {ledger} (
    table_name    text collate "C" not null,
    partition     text collate "C",
    part_id       text collate "C" not null,
    batch         text collate "C" not null,
    consolidation text collate "C" not null,
    rows_staged   bigint not null,
    constraint ledger_names_a_part_once unique nulls not distinct (table_name, batch, part_id, partition)
);

-- name: create_history
create table {history} (
    entry           bigint generated always as identity primary key,
    action          text collate "C" not null,
    table_name      text collate "C" not null,
    partition       text collate "C",
    batch           text collate "C" not null,
    consolidation   text collate "C" not null,
    attempt         integer not null,
    token           bigint,
    unlocked        boolean not null,
    holder          text not null,
    parts           bigint not null,
    rows_staged     bigint not null,
    rows_inserted   bigint not null,
    rows_updated    bigint not null,
    rows_unchanged  bigint not null,
    rows_superseded bigint not null,
    merge_s         double precision not null,
    verify_s        double precision not null,
    committed_at    timestamp with time zone not null,
    reason          text not null
);
create index on {history} (table_name, consolidation);
create index on {history} (table_name, committed_at);

-- name: create_part_numbers
create sequence {part_numbers};

-- name: create_parts
-- Manifests: a part exists when its row does. Of several revisions of a part the last one counts.
create table {parts} (
    number     bigint primary key,
    table_name text collate "C" not null,
    batch      text collate "C" not null,
    part_id    text collate "C" not null,
    revision   integer not null,
    manifest   json not null,
    state      text collate "C" not null default 'staged'
               check (state in ('staged', 'retired', 'purged', 'discarded')),
    changed_at timestamp with time zone not null default clock_timestamp(),
    changed_by text,
    reason     text,
    constraint parts_have_one_of_a_revision unique (table_name, batch, part_id, revision)
);
create index on {parts} (table_name) where state = 'retired';

-- name: create_quarantine
create table {quarantine} (
    quarantine_id text collate "C" primary key,
    table_name    text collate "C" not null,
    batch         text collate "C" not null,
    worker        text collate "C" not null,
    source        text not null,
    rows          bigint not null,
    put_aside_at  timestamp with time zone not null default clock_timestamp()
);
create index on {quarantine} (table_name);

-- name: create_quarantine_rows
create table {quarantine_rows} (
    quarantine_id text collate "C" not null,
    position      bigint not null,
    problems      json not null, -- not jsonb: it takes U+0000, which a value may have been refused for
    content       json not null,
    primary key (quarantine_id, position)
);

-- name: lock_install
-- Two inits take turns; the lock ends with the transaction.
select pg_advisory_xact_lock(hashtextextended('onerow init ' || $1, 0));

-- name: lock_table
-- Shared by every transaction on a table, alone by one that adopts another lock store.
select pg_advisory_xact_lock(hashtextextended('onerow table ' || $1 || '/' || $2, 0));

-- name: share_table
select pg_advisory_xact_lock_shared(hashtextextended('onerow table ' || $1 || '/' || $2, 0));

-- name: ensure_guards
insert into {guards} (table_name, partition) select $1, unnest($2::text[]) on conflict do nothing;

-- name: change_guards
-- In the order of the partitions, so that two groups never wait for each other.
with locked as materialized (
    select table_name, partition from {guards}
    where table_name = $1 and partition = any ($2::text[]) order by partition for update
)
update {guards} as g set attempt = g.attempt + 1
from locked as l where g.table_name = l.table_name and g.partition = l.partition;

-- name: read_table
select lock_store, origin from {tables} where table_name = $1;

-- name: insert_table
insert into {tables} (table_name, lock_store, origin) values ($1, $2, $3);

-- name: adopt_lock_store
update {tables} set lock_store = $2 where table_name = $1;

-- name: read_fences
select partition, max(token) from {fences}
where table_name = $1 and partition = any ($2::text[]) group by partition;

-- name: delete_fences
delete from {fences} where table_name = $1 and partition = any ($2::text[]);

-- name: insert_fences
insert into {fences} (table_name, partition, token) select $1, unnest($2::text[]), unnest($3::bigint[]);

-- name: read_merged_parts
select part_id, partition from {ledger} where table_name = $1 and batch = $2 and part_id = any ($3::text[]);

-- name: insert_ledger
insert into {ledger} (table_name, batch, consolidation, partition, part_id, rows_staged)
select $1, $2, $3, * from unnest($4::text[], $5::text[], $6::bigint[]);

-- name: insert_history
insert into {history} (
    action, table_name, batch, consolidation, attempt, unlocked, holder, merge_s, verify_s, reason, committed_at,
    partition, token, parts, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded
)
select $1, $2, $3, $4, $5::integer, $6::boolean, $7, $8::float8, $9::float8, $10, clock_timestamp(), *
from unnest(
    $11::text[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[],
    $18::bigint[]
);

-- name: read_committed
select partition, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s
from {history} where table_name = $1 and consolidation = $2 and attempt = $3::integer and action = 'consolidate';

-- name: read_interventions
select partition, rows_superseded from {history}
where table_name = $1 and consolidation = $2 and attempt = $3::integer and action = $4;

-- name: read_only_batches
select distinct batch from {ledger} where table_name = $1 and partition is not distinct from $2 limit 2;

-- name: read_merged
select part_id, partition from {ledger} where table_name = $1 and batch = $2;

-- name: read_batches
select batch, count(distinct part_id) from {ledger} where table_name = $1 group by batch;

-- name: read_history
select action, table_name, partition, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason
from {history}
where ($1::text is null or table_name = $1) and ($2::text is null or batch = $2)
order by committed_at desc, entry desc limit $3::bigint;

-- name: read_inserted
select partition, sum(rows_inserted)::bigint from {history}
where table_name = $1 group by partition;

-- name: read_control_tables
select c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'S');
