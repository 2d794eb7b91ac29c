"""A lock store in a PostgreSQL database.

Every read and every swap is one statement outside any transaction of ours, and nothing is set for the session: it
works behind a pooler that lends server connections for a transaction. Versions are random and never come back, not
even when the database is restored to an earlier moment. The clock is the server's.

Who waits stands in a table, in order of arrival, with a channel of its own, and is taken for dead when it has not
been seen for a while. A swap notifies the first few only, and tells them their places: the first comes at once, those
behind it some milliseconds later, in case that it is dead; all others sleep on, so that twenty waiters are no herd.
Where notifications do not arrive (behind a pooler, or when the connection that listens is lost) waiters poll.

Source: https://www.postgresql.org/docs/current/sql-notify.html and https://www.pgbouncer.org/features.html.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg import sql

from onerow.adapters.locks.deadline import in_time
from onerow.adapters.locks.listener import PROBE, Listeners
from onerow.adapters.postgresql.connection import Server, rows
from onerow.adapters.postgresql.sqlstate import classify, told
from onerow.errors import LockStoreError
from onerow.ports.lockstore import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.postgresql.connection import Connection

ANSWER_S: Final = 5.0
"""How long a statement may take; a server that nobody hears of is an error then, not a hang."""

_HEARTBEAT_S: Final = 1.0
_WAITER_SEEN_S: Final = 2.5
_POLL_S: Final = 1.0
_POLL_FIRST_S: Final = 0.02
_POLL_MAX_S: Final = 0.5
_TOLD_AT_ONCE: Final = 4
_HEAD_START_S: Final = 0.015
_CREATE_TRIES: Final = 5
_MADE_MEANWHILE: Final = frozenset({"23505", "42710", "42P06", "42P07"})
_ADVISORY_KEY: Final = 0x6F6E65726F77  # "onerow"; held for one transaction only

_CREATE: Final = """
create table if not exists {store} (
    one      boolean primary key default true check (one),
    identity text not null
);
create table if not exists {register} (
    key_hash text collate "C" primary key,
    key      text collate "C" not null,
    value    json not null,
    version  uuid not null
);
create unlogged table if not exists {waiters} (
    key_hash   text collate "C" not null,
    waiter     text collate "C" not null,
    channel    text,
    arrived_us bigint not null,
    seen_us    bigint not null,
    primary key (key_hash, waiter)
);
insert into {store} (identity) values ('postgresql:' || replace(gen_random_uuid()::text, '-', ''))
on conflict do nothing
"""
_NOW: Final = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
_IDENTITY: Final = "select identity from {store}"
_READ: Final = "select {now}, value::text, version::text from (select 1) as one left join {register} on key_hash = $1"
_ENTRIES: Final = """
select key, {now}, value::text, version::text from {register} where starts_with(key, $1) order by key
"""
_TELL: Final = """
, told as (
    select pg_notify(channel, $1 || ' ' || place)
    from (
        select channel, row_number() over (order by arrived_us, waiter) - 1 as place from {waiters}
        where key_hash = $1 and seen_us > {now} - {seen_us} and exists (select from swapped)
        order by place limit {told_at_once}
    ) as queue
    where channel is not null
)
select {now}, value::text, version::text from swapped where (select count(*) from told) >= 0
"""
_INSERT: Final = """
with swapped as (
    insert into {register} (key_hash, key, value, version) values ($1, $2, $3::json, gen_random_uuid())
    on conflict do nothing returning value, version
)
"""
_UPDATE: Final = """
with swapped as (
    update {register} set value = $2::json, version = gen_random_uuid() where key_hash = $1 and version::text = $3
    returning value, version
)
"""
_DELETE: Final = """
with swapped as (
    delete from {register} where key_hash = $1 and version::text = $2
    returning null as value, null as version
)
"""
_QUEUE: Final = """
with clock as (select {now} as now_us),
me as (
    insert into {waiters} as mine (key_hash, waiter, channel, arrived_us, seen_us)
    select $1, $2, $3, now_us, now_us from clock
    on conflict (key_hash, waiter) do update set
        channel = excluded.channel,
        seen_us = excluded.seen_us,
        arrived_us = case
            when mine.seen_us > excluded.seen_us - {seen_us} then mine.arrived_us else excluded.arrived_us
        end
    returning arrived_us
)
select
    coalesce((select version::text from {register} where key_hash = $1), ''),
    (
        select count(*) from me, clock, {waiters} as other
        where other.key_hash = $1 and other.waiter <> $2 and other.seen_us > now_us - {seen_us}
        and (other.arrived_us, other.waiter) < (me.arrived_us, $2)
    ),
    case when $4::boolean then pg_notify($3, {probe})::text end
"""
_FORGET: Final = """
delete from {waiters} where (key_hash, waiter) in (
    select key_hash, waiter from {waiters}
    where (key_hash = $1 and waiter = $2) or seen_us < {now} - 10 * {seen_us}
    for update skip locked
)
"""


class PostgresLocks:
    """A register in the database at ``url``, made if it is missing. Safe to use from several threads.

    Args:
        url: a libpq URL or connection string; it is never shown.
        control_schema: where its tables are.
        answer_s: how long the server may take to answer.
    """

    def __init__(self, url: str, *, control_schema: str = "onerow", answer_s: float = ANSWER_S) -> None:
        self._server = Server(url, errors=LockStoreError, connect_timeout_s=answer_s)
        self._schema = control_schema
        self._answer_s = answer_s
        self._identity: str | None = None
        self._listeners = Listeners(self._server, answer_s=answer_s)
        self._waited = threading.local()
        self._composed: dict[str, bytes] = {}
        self._names: dict[str, sql.Composable] = {
            "now": sql.SQL(_NOW),
            "probe": sql.Literal(PROBE),
            "told_at_once": sql.Literal(_TOLD_AT_ONCE),
            "seen_us": sql.Literal(round(_WAITER_SEEN_S * 1_000_000)),
            "store": sql.Identifier(control_schema, "lock_store"),
            "register": sql.Identifier(control_schema, "lock_register"),
            "waiters": sql.Identifier(control_schema, "lock_waiters"),
        }

    def identity(self) -> str:
        """Return the identity that was written into the database when the register was made."""
        if self._identity is None:
            self._identity = str(self._ask(_IDENTITY)[0][0])
        return self._identity

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        ((now_us, value, version),) = self._ask(_READ, _digest(key))
        return _entry(key, now_us, value, version)

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected``, in one statement."""
        text = None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if text is None and not expected:
            entry = self.read(key)
            return entry if entry.value is None else None
        if text is None:
            found = self._ask(_DELETE + _TELL, _digest(key), expected)
        elif expected:
            found = self._ask(_UPDATE + _TELL, _digest(key), text, expected)
        else:
            found = self._ask(_INSERT + _TELL, _digest(key), key, text)
        if not found:
            return None
        self._leave_queue(key)
        return _entry(key, *found[0])

    def entries(self, prefix: str) -> list[Entry]:
        """Return all keys with ``prefix``, sorted."""
        return [_entry(*found) for found in self._ask(_ENTRIES, prefix)]

    def wait(self, key: str, *, version: str, timeout_s: float, waiter: str) -> None:
        """Return when the key's version has changed; who came later gives those before it a head start.

        A server that does not answer meanwhile is asked again until the time is over: whether it can be reached
        is for the caller's next question to find out.
        """
        deadline_s = time.monotonic() + timeout_s
        if timeout_s <= 0:
            return
        self._waiters()[key] = waiter
        place, queued_s, pause_s = 0, -_HEARTBEAT_S, _POLL_FIRST_S
        with self._listeners.lend() as listener:
            while (left_s := deadline_s - (now_s := time.monotonic())) > 0:
                try:
                    if now_s - queued_s >= _HEARTBEAT_S:
                        probe = listener.channel is not None and not listener.proven
                        ((current, place, _),) = self._ask(_QUEUE, _digest(key), waiter, listener.channel, probe)
                        queued_s = now_s
                    else:
                        current = self.read(key).version
                except LockStoreError:
                    current = version  # not known; asked again below
                if current != version:
                    if place < _TOLD_AT_ONCE:
                        listener.proven = False  # it should have been told
                    break
                told = listener.hears(_digest(key), min(_POLL_S if listener.proven else pause_s, left_s))
                pause_s = min(pause_s * 2, _POLL_MAX_S)
                if told is not None:
                    place = told
                    break
        head_start_s = _HEAD_START_S * min(place, _TOLD_AT_ONCE)
        time.sleep(max(0.0, min(head_start_s, deadline_s - time.monotonic())))

    def close(self) -> None:
        """Close this process's connections."""
        self._listeners.close()
        self._server.close()

    # --- the queue ---------------------------------------------------------------------

    def _waiters(self) -> dict[str, str]:
        """Return for which key this thread has waited under which name, until it wrote to it."""
        if not hasattr(self._waited, "keys"):
            self._waited.keys = {}
        keys: dict[str, str] = self._waited.keys
        return keys

    def _leave_queue(self, key: str) -> None:
        """Let the next one come first. Where that fails, the place in the queue runs out by itself."""
        waiter = self._waiters().pop(key, None)
        if waiter is not None:
            with suppress(LockStoreError):
                self._ask(_FORGET, _digest(key), waiter)

    # --- statements --------------------------------------------------------------------

    def _ask(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement, after making the tables if they are missing."""
        try:
            return self._run(statement, *values)
        except psycopg.Error as error:
            if classify(error) != "missing":
                raise self._error(error) from error
        self._create()
        try:
            return self._run(statement, *values)
        except psycopg.Error as error:
            raise self._error(error) from error

    def _run(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        composed = self._composed.get(statement)
        if composed is None:
            composed = self._composed[statement] = sql.SQL(statement).format(**self._names).as_bytes()
        with self._server.connection() as connection, in_time(connection, self._answer_s):
            cursor = psycopg.RawCursor(connection)
            cursor.execute(composed, values or None, binary=True)
            return cursor.fetchall() if cursor.description else []

    def _create(self) -> None:
        """Make schema and tables; of several who do so at once one does and the others find them."""
        for attempt in range(_CREATE_TRIES):
            try:
                with self._server.connection() as connection, in_time(connection, self._answer_s):
                    self._create_in(connection)
            except psycopg.Error as error:
                if error.sqlstate in _MADE_MEANWHILE and attempt + 1 < _CREATE_TRIES:
                    continue
                if classify(error) == "denied":
                    raise LockStoreError(
                        f"The tables of the lock store in schema {self._schema!r} are missing, and this role may not "
                        f"create them: {told(error)}.",
                        hint="Run `onerow init` once with a role that may create a schema and tables, and grant this "
                        "one usage on the schema and select, insert, update and delete on its tables.",
                    ) from error
                raise self._error(error) from error
            return

    def _create_in(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute(sql.SQL("select pg_advisory_xact_lock({})").format(sql.Literal(_ADVISORY_KEY)))
            if not rows(connection, "select 1 from pg_namespace where nspname = $1", self._schema):
                connection.execute(sql.SQL("create schema {}").format(sql.Identifier(self._schema)))
            connection.execute(sql.SQL(_CREATE).format(**self._names))

    def _error(self, error: psycopg.Error) -> LockStoreError:
        code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
        hint = {
            "lost": "Look whether the server works and can be reached; leases that are held go on until they end.",
            "denied": f"Grant this role usage on schema {self._schema!r} and select, insert, update and delete on "
            "its tables lock_store, lock_register and lock_waiters.",
            "full": "Make room on the server.",
            "read_only": "It is a standby or set to read only; connect to the primary.",
        }.get(classify(error), "")
        return LockStoreError(f"The lock store on PostgreSQL failed: {told(error)}{code}.", hint=hint)


def _digest(text: str) -> str:
    """Return what stands for a key of any length in indexes and notifications."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _entry(key: str, now_us: int, value: str | None, version: str | None) -> Entry:
    if value is None:
        return Entry(key, None, "", now_us)
    return Entry(key, json.loads(value), str(version), now_us)
