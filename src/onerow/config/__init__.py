"""``onerow.toml`` and the environment, read into frozen settings.

The file is found in the working directory, by ``--config`` or by ``ONEROW_CONFIG``. The variables
``ONEROW_WAREHOUSE``, ``ONEROW_LOCKS`` and ``ONEROW_STAGING`` win over it. Relative paths are relative
to the file. Every mistake is a ConfigurationError that names file and place.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from onerow.config.sections import (
    Alerting,
    Coordination,
    File,
    Monitoring,
    Serve,
    TableSection,
    explain,
    parse_duration,
)
from onerow.config.urls import (
    FirestorePlace,
    Url,
    companion_locks,
    firestore_place,
    is_firestore_id,
    parse_url,
    split_target,
)
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import ConfigurationError, OnerowError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONFIG_NAME",
    "Alerting",
    "Coordination",
    "FirestorePlace",
    "Monitoring",
    "Serve",
    "Settings",
    "Url",
    "companion_locks",
    "find_config",
    "firestore_place",
    "load_settings",
    "parse_duration",
    "parse_settings",
    "parse_url",
    "split_target",
]

CONFIG_NAME = "onerow.toml"
MIN_LEASE_S = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration.

    Attributes:
        lock_documents: by table, the documents that hold its leases where other programs know them too (Firestore):
            COLLECTION/ID with ``{partition}`` in the id.
        file: the file it was read from; None if it was made in a program.
        keep_merged_s: how long the data of merged parts stays in staging.
        busy_timeout_s: how long to wait for a warehouse file that another process has open.
    """

    warehouse: Url
    locks: Url
    staging: Path
    tables: Mapping[str, TableSpec]
    file: Path | None = None
    control_schema: str = "onerow"
    lease_duration_s: float = 30.0
    renew_every_s: float = 10.0
    max_wait_s: float = 300.0
    keep_merged_s: float = 86_400.0
    busy_timeout_s: float = 30.0
    lock_documents: Mapping[str, str] = field(default_factory=dict)
    serve: Serve = field(default_factory=Serve)
    coordinator: Coordination = field(default_factory=Coordination)
    monitor: Monitoring = field(default_factory=Monitoring)
    alerts: Alerting = field(default_factory=Alerting)

    def table(self, name: str) -> TableSpec:
        """Return the spec of the table ``name``.

        Raises:
            ConfigurationError: there is none; near names are told.
        """
        spec = self.tables.get(name)
        if spec is not None:
            return spec
        near = difflib.get_close_matches(name, list(self.tables), n=3)
        raise ConfigurationError(
            f"No table {name!r} is configured in {self.file}.",
            hint=f"Did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"Configured are: {', '.join(self.tables) or 'none'}.",
        )


def find_config(explicit: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the configuration.

    Raises:
        ConfigurationError: there is none.
    """
    named = explicit or environ.get("ONEROW_CONFIG")
    path = Path(named) if named else Path(CONFIG_NAME)
    if path.is_dir():
        path /= CONFIG_NAME
    if not path.is_file():
        raise ConfigurationError(
            f"There is no configuration {path if named else path.absolute()}.",
            hint="`onerow init FILE --table T --key a,b --order-by c` writes one from your data; "
            "or name one with --config or ONEROW_CONFIG.",
        )
    return path


def load_settings(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration at ``path``.

    Raises:
        ConfigurationError: naming the file and the place in it.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 at byte {error.start}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error
    return parse_settings(data, file=path.absolute(), environ=environ)


def parse_settings(data: Mapping[str, Any], *, file: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings that ``data``, the content of ``file``, says.

    Raises:
        ConfigurationError: naming the place.
    """
    try:
        model = File.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigurationError(f"{file}:\n{explain(error)}") from error
    base = file.parent
    warehouse_text = environ.get("ONEROW_WAREHOUSE") or model.warehouse
    if warehouse_text is None:
        raise ConfigurationError(
            f"{file}: warehouse is missing.", hint='Write for example: warehouse = "duckdb:///predictions.duckdb"'
        )
    warehouse = parse_url(warehouse_text, base)
    locks_text = environ.get("ONEROW_LOCKS") or model.locks
    locks = parse_url(locks_text, base) if locks_text else companion_locks(warehouse)
    lease = model.lease
    renew_every_s = lease.duration / 3 if lease.renew_every is None else lease.renew_every
    if lease.duration < MIN_LEASE_S or not 0 < renew_every_s <= lease.duration / 2:
        raise ConfigurationError(
            f"{file}: [lease] duration is at least 500ms and renew_every at most half of it "
            f"(they are {lease.duration:g} s and {renew_every_s:g} s)."
        )
    try:
        tables = {name: _spec(name, table) for name, table in model.tables.items()}
    except OnerowError as error:
        raise ConfigurationError(f"{file}: {error.message}", hint=error.hint) from error
    return Settings(
        warehouse=warehouse,
        locks=locks,
        staging=(base / (environ.get("ONEROW_STAGING") or model.staging)).absolute(),
        tables=tables,
        file=file,
        control_schema=model.control_schema,
        lease_duration_s=lease.duration,
        renew_every_s=renew_every_s,
        max_wait_s=lease.max_wait,
        keep_merged_s=model.keep_merged,
        busy_timeout_s=model.busy_timeout,
        lock_documents=_lock_documents(model, locks, file),
        serve=model.serve,
        coordinator=model.coordinator,
        monitor=model.monitor,
        alerts=model.alerts,
    )


def _lock_documents(model: File, locks: Url, file: Path) -> dict[str, str]:
    """Return the documents that tables name for their leases, by table."""
    named = {name: table.lock_document for name, table in model.tables.items() if table.lock_document is not None}
    for name, text in named.items():
        place = f"{file}: tables.{name}.lock_document"
        collection, _, document = text.partition("/")
        partitions = text.count("{partition}")
        if locks.scheme != "firestore":
            raise ConfigurationError(f"{place}: only locks in Firestore are in documents; these are in {locks}.")
        if not is_firestore_id(collection) or not is_firestore_id(document) or "{partition}" in collection:
            raise ConfigurationError(
                f"{place}: {text!r} names no document.",
                hint='Write COLLECTION/ID, for example "consolidation_locks/consolidation_{partition}".',
            )
        if partitions != (0 if model.tables[name].partition is None else 1):
            raise ConfigurationError(
                f"{place}: the id of {text!r} holds {{partition}} once if the table has a partition column, and never "
                "if it has none."
            )
    return named


def _spec(name: str, table: TableSection) -> TableSpec:
    return TableSpec(
        name=name,
        target=split_target(table.target) if table.target is not None else (name,),
        key=tuple(table.key),
        order_by=tuple(table.order_by),
        columns=tuple(_column(name, column, text) for column, text in table.columns.items()),
        partition=table.partition,
        mode=table.mode,
        id_column=table.id,
        version_column=table.version_column,
        checks=tuple(table.checks.items()),
        on_bad_row=table.on_bad_row,
        on_existing_duplicates=table.on_existing_duplicates,
        enforce=table.enforce,
    )


def _column(table: str, name: str, text: str) -> Column:
    plain = re.sub(r"\s+not\s+null\s*$", "", text, flags=re.IGNORECASE)
    try:
        return Column(name, parse_type(plain), required=plain != text)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Table {table!r}, column {name!r}: {error.message}", hint=error.hint
        ) from error
