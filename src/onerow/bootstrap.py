"""The one place that joins services to adapters, by URL."""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.config import Alerting, Settings, Url, find_config, firestore_place, load_settings, parse_url, split_target
from onerow.core.incidents import SECOND, Policy
from onerow.errors import ConfigurationError
from onerow.services.checker import Inspecting
from onerow.services.leases import LEASE_PREFIX, Leases, LeaseSettings
from onerow.services.monitor import Monitor, MonitorLoop, MonitorSettings
from onerow.services.sightings import Limits
from onerow.services.stager import Stager
from onerow.services.store import Ports, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.adapters.staging.infer import InferredColumns
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock, Ids
    from onerow.ports.lockstore import LockStore
    from onerow.ports.notifier import Notifier
    from onerow.ports.partstore import PartStore
    from onerow.ports.warehouse import Warehouse
    from onerow.services.lookreport import LookReport

WAREHOUSES: Final = ("duckdb", "ducklake", "postgresql", "bigquery")
LOCK_STORES: Final = ("sqlite", "postgresql", "firestore")
CLAIM_S: Final = 30.0


def open_store(
    config: str | Path | Settings | None = None,
    *,
    on_rows: Callable[[int], None] | None = None,
    clock: Clock | None = None,
) -> Store:
    """Open the store that a configuration describes.

    Args:
        config: path of a ``onerow.toml`` or settings; None: found by ``ONEROW_CONFIG`` or in the working directory.
        on_rows: called with the number of rows after each batch of rows that is staged.
        clock: the process's own; the torture test gives one that is wrong.

    Raises:
        ConfigurationError: there is no configuration, it contradicts itself or names what is not offered.
    """
    if isinstance(config, Settings):
        settings = config
    else:
        settings = load_settings(find_config(None if config is None else str(config)))
    from onerow.adapters.staging.checks import RowChecks
    from onerow.adapters.staging.readers import open_source

    clock, ids = clock or SystemClock(), SystemIds()
    locks = open_locks(
        settings.locks,
        control_schema=settings.control_schema,
        documents={
            name: text for name, text in settings.lock_documents.items() if name in settings.tables
        },
    )
    warehouse, parts = open_warehouse(settings, clock=clock, ids=ids)
    check_offered(settings.tables, warehouse)
    leases = Leases(
        store=locks,
        clock=clock,
        background=Threads(),
        ids=ids,
        settings=LeaseSettings(
            duration_s=settings.lease_duration_s,
            renew_every_s=settings.renew_every_s,
            max_wait_s=settings.max_wait_s,
        ),
    )
    stager = Stager(parts=parts, checks_for=RowChecks, on_rows=on_rows)
    ports = Ports(warehouse, parts, locks, leases, clock, ids, stager, open_source)
    return Store(
        ports=ports,
        tables=settings.tables,
        holder=holder_name(),
        keep_merged_s=settings.keep_merged_s,
        keep_runs_s=settings.coordinator.keep_runs,
    )


def open_locks(
    url: Url, *, control_schema: str = "onerow", documents: Mapping[str, str] | None = None
) -> LockStore:
    """Return the lock store that ``url`` names; ``documents`` are those that tables name for their leases."""
    if url.scheme == "sqlite" and url.path is not None:
        from onerow.adapters.locks.sqlite import SqliteLocks

        return SqliteLocks(url.path)
    if url.scheme == "postgresql":
        with _extra("postgresql"):
            from onerow.adapters.locks.postgresql import PostgresLocks
        return PostgresLocks(url.secret, control_schema=control_schema)
    if url.scheme == "firestore":
        with _extra("firestore"):
            from onerow.adapters.locks.firestore import FirestoreLocks
            from onerow.adapters.locks.firestore_client import Place

        place = firestore_place(url)
        return FirestoreLocks(
            Place(place.project, place.database, place.emulator),
            collection=place.collection,
            shared={f"{LEASE_PREFIX}{name}": text for name, text in (documents or {}).items()},
        )
    raise ConfigurationError(
        f"{url} is no lock store of this version.", hint=f"It offers: {', '.join(LOCK_STORES)}."
    )


def open_warehouse(settings: Settings, *, clock: Clock, ids: Ids) -> tuple[Warehouse, PartStore]:
    """Return the warehouse that the settings name, and the staging that it reads from."""
    url = settings.warehouse
    if url.scheme == "duckdb" and url.path is not None:
        return _open_duckdb(settings, url.path, clock, ids)
    if url.scheme == "ducklake" and url.catalog is not None:
        return _open_ducklake(settings, url, url.catalog, clock, ids)
    if url.scheme == "postgresql":
        return _open_postgresql(settings, url, clock, ids)
    if url.scheme == "bigquery":
        return _open_bigquery(settings, url, clock)
    raise ConfigurationError(
        f"{url} is no warehouse of this version.", hint=f"It offers: {', '.join(WAREHOUSES)}."
    )


def _open_duckdb(settings: Settings, path: Path, clock: Clock, ids: Ids) -> tuple[Warehouse, PartStore]:
    from onerow.adapters.staging.files import FileParts
    from onerow.adapters.warehouse.duckdb.warehouse import DuckDBWarehouse

    parts = FileParts(settings.staging, clock=clock, ids=ids)
    warehouse = DuckDBWarehouse(
        path,
        locate=lambda part: str(parts.verify(part)),
        control_schema=settings.control_schema,
        busy_timeout_s=settings.busy_timeout_s,
    )
    parts.is_merged = asks_ledger(warehouse)
    return warehouse, parts


def _open_ducklake(
    settings: Settings, url: Url, catalog: Url, clock: Clock, ids: Ids
) -> tuple[Warehouse, PartStore]:
    from onerow.adapters.staging.files import FileParts

    with _extra("ducklake"):
        from onerow.adapters.warehouse.ducklake.warehouse import STAGING_SUFFIX, DuckLakeWarehouse, staging_folder

    folder = staging_folder(url.data_path)  # an object store's files are staged in a folder
    parts = FileParts(
        settings.staging if folder is None else folder, clock=clock, ids=ids, suffix=STAGING_SUFFIX
    )
    warehouse = DuckLakeWarehouse(
        catalog=catalog.path if catalog.path is not None else catalog.secret,
        data_path=url.data_path,
        locate=lambda part: str(parts.verify(part)),
        control_schema=settings.control_schema,
        busy_timeout_s=settings.busy_timeout_s,
    )
    parts.is_merged = asks_ledger(warehouse)
    return warehouse, parts


def _open_postgresql(settings: Settings, url: Url, clock: Clock, ids: Ids) -> tuple[Warehouse, PartStore]:
    with _extra("postgresql"):
        from onerow.adapters.warehouse.postgresql.parts import PostgresParts
        from onerow.adapters.warehouse.postgresql.warehouse import PostgresWarehouse

    warehouse = PostgresWarehouse(
        url.secret,
        control_schema=settings.control_schema,
        lease_s=settings.lease_duration_s,
        busy_timeout_s=settings.busy_timeout_s,
    )
    parts = PostgresParts(
        url.secret,
        control_schema=settings.control_schema,
        clock=clock,
        ids=ids,
        is_merged=asks_ledger(warehouse),
        server=warehouse.server,  # closed with the warehouse
    )
    return warehouse, parts


def _open_bigquery(settings: Settings, url: Url, clock: Clock) -> tuple[Warehouse, PartStore]:
    with _extra("bigquery"):
        from onerow.adapters.bigquery.client import BigQuery
        from onerow.adapters.warehouse.bigquery.parts import BigQueryParts
        from onerow.adapters.warehouse.bigquery.warehouse import BigQueryWarehouse

    client = BigQuery(url.secret, control=settings.control_schema)  # closed with the warehouse
    warehouse = BigQueryWarehouse(client)
    parts = BigQueryParts(
        client, clock=clock, is_merged=asks_ledger(warehouse), keep_merged_s=settings.keep_merged_s
    )
    return warehouse, parts


def asks_ledger(warehouse: Warehouse) -> Callable[[str, str, str, tuple[str | None, ...]], bool]:
    """Return what a part store asks before it calls a part merged: the warehouse's ledger."""

    def is_merged(table: str, batch: str, part_id: str, partitions: tuple[str | None, ...]) -> bool:
        merged = warehouse.merged(table, batch)
        return all((part_id, partition) in merged for partition in partitions)

    return is_merged


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say plainly which extra is to be installed."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"What this needs is not installed: {error}.", hint=f"Install it with: pip install 'onerow[{name}]'"
        ) from error


def infer_columns(path: str | Path, *, exact: Collection[str]) -> InferredColumns:
    """Return the columns of a file with the narrowest types that hold its rows.

    Args:
        path: the file, of any kind that can be staged.
        exact: columns that become decimals where they have fractions, as keys must.

    Raises:
        UsageError, InputFileError: the file is not there or cannot be read.
    """
    from onerow.adapters.staging.infer import infer_columns as infer

    return infer(path, exact=exact)


class OpenedTable(Inspecting, Protocol):
    """An existing table that is looked at without configuration."""

    @property
    def spec(self) -> TableSpec:
        """The columns that it is checked by."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def open_existing(
    warehouse: str,
    *,
    target: str,
    key: Sequence[str],
    partition_column: str | None = None,
    id_column: str | None = None,
    busy_timeout_s: float = 30.0,
) -> OpenedTable:
    """Open any existing table for a check, without configuration.

    Raises:
        UsageError: there is no such file, table or column.
        ConfigurationError: the URL or the name is none.
    """
    url = parse_url(warehouse, Path.cwd())
    if url.scheme == "duckdb" and url.path is not None:
        from onerow.adapters.warehouse.duckdb.adopt import open_existing as open_duckdb

        return open_duckdb(
            url.path,
            target=split_target(target),
            key=key,
            partition_column=partition_column,
            id_column=id_column,
            busy_timeout_s=busy_timeout_s,
        )
    if url.scheme == "ducklake" and url.catalog is not None:
        with _extra("ducklake"):
            from onerow.adapters.warehouse.ducklake.adopt import open_existing as open_ducklake

        return open_ducklake(
            url.catalog.path if url.catalog.path is not None else url.catalog.secret,
            url.data_path,
            target=split_target(target),
            key=key,
            partition_column=partition_column,
            id_column=id_column,
            busy_timeout_s=busy_timeout_s,
        )
    if url.scheme == "postgresql":
        with _extra("postgresql"):
            from onerow.adapters.warehouse.postgresql.adopt import open_existing as open_postgresql

        return open_postgresql(
            url.secret,
            target=split_target(target),
            key=key,
            partition_column=partition_column,
            id_column=id_column,
            busy_timeout_s=busy_timeout_s,
        )
    if url.scheme == "bigquery":
        with _extra("bigquery"):
            from onerow.adapters.warehouse.bigquery.adopt import open_existing as open_bigquery

        return open_bigquery(
            url.secret,
            target=split_target(target),
            key=key,
            partition_column=partition_column,
            id_column=id_column,
        )
    raise ConfigurationError(
        f"{url} is no warehouse of this version.", hint=f"It offers: {', '.join(WAREHOUSES)}."
    )


def check_offered(tables: Mapping[str, TableSpec], warehouse: Warehouse) -> None:
    """Refuse what the warehouse does not offer, before anything is done.

    Raises:
        ConfigurationError: naming the table and the setting.
    """
    for spec in tables.values():
        if spec.mode not in warehouse.capabilities.modes:
            raise ConfigurationError(
                f'Table {spec.name!r}: mode "{spec.mode}" is not offered by this warehouse yet.',
                hint=f"It offers: {', '.join(sorted(warehouse.capabilities.modes))}.",
            )
        if spec.enforce and not warehouse.capabilities.enforces:
            raise ConfigurationError(
                f"Table {spec.name!r}: enforce = true needs an engine with unique indexes; this warehouse has none.",
                hint="Leave it out: onerow keeps one row per key without it.",
            )


def open_notifiers(alerts: Alerting, environ: Mapping[str, str] = os.environ) -> list[Notifier]:
    """Return the receivers of alerts whose addresses stand in the environment; none of them: nobody is told.

    Raises:
        ConfigurationError: an address is none; it is not shown.
    """
    slack, webhook = (environ.get(name, "").strip() for name in (alerts.slack_env, alerts.webhook_env))
    if not slack and not webhook:
        return []
    with _extra("serve"):
        from onerow.adapters.notify.slack import Slack
        from onerow.adapters.notify.webhook import Webhook

    found: list[Notifier] = []
    if slack:
        found.append(Slack(slack, setting=alerts.slack_env, timeout_s=alerts.timeout))
    if webhook:
        found.append(Webhook(webhook, setting=alerts.webhook_env, timeout_s=alerts.timeout))
    return found


def alert_policy(alerts: Alerting) -> Policy:
    """Return when receivers are told, as a configuration says."""
    return Policy(
        level=alerts.level,
        repeat_us=round(alerts.repeat_after * SECOND),
        claim_us=round((CLAIM_S + 6 * alerts.timeout) * SECOND),  # sending takes at most three time-outs
    )


def open_monitor(settings: Settings, environ: Mapping[str, str] = os.environ, *, clock: Clock | None = None) -> Monitor:
    """Return the monitor that a configuration describes."""
    alerts, looks = settings.alerts, settings.monitor
    policy = alert_policy(alerts)
    limits = Limits(
        lock_wait_s=looks.lock_wait,
        consolidation_s=looks.consolidation,
        lock_held_s=looks.lock_held,
        staged_s=looks.staged,
        recent_s=looks.recent,
    )
    return Monitor(
        settings=MonitorSettings(check_every_s=looks.check_every, since_s=looks.since, limits=limits),
        notifiers=open_notifiers(alerts, environ),
        policy=policy,
        clock=clock or SystemClock(),
        who=f"{holder_name()}/{SystemIds().new_id('m')}",
    )


def open_monitor_loop(
    settings: Settings,
    lend: Callable[[], AbstractContextManager[Store]],
    *,
    on_look: Callable[[LookReport], None],
    environ: Mapping[str, str] = os.environ,
) -> MonitorLoop:
    """Return the monitor as a loop that is not started yet; ``lend`` lends a store for each look."""
    clock = SystemClock()
    return MonitorLoop(
        open_monitor(settings, environ, clock=clock),
        lend,
        every_s=settings.monitor.every,
        clock=clock,
        on_look=on_look,
    )


def holder_name() -> str:
    """Return who this process is, for people: user, host and process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"
