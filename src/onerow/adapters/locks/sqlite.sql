create table if not exists meta (name text primary key, value text not null) strict;

-- The host's clock, milliseconds as microseconds; unixepoch('subsec') would need SQLite 3.42.
create view if not exists clock as
select cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000 as now_us;

-- A deleted key keeps its row with a NULL value, so that its version goes on growing.
create table if not exists register (
    key     text primary key,
    value   text,
    version integer not null
) strict;

-- Who waits for a key, in order of arrival. A row whose waiter has not been seen for a while is dead.
create table if not exists waiters (
    key        text not null,
    waiter     text not null,
    arrived_us integer not null,
    seen_us    integer not null,
    primary key (key, waiter)
) strict, without rowid;
