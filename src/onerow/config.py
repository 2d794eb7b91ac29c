"""``onerow.toml`` and the environment, read into frozen settings.

The file is found in the working directory, by ``--config`` or by ``ONEROW_CONFIG``. The variables
``ONEROW_WAREHOUSE``, ``ONEROW_LOCKS`` and ``ONEROW_STAGING`` win over it. Relative paths are relative
to the file. Every mistake is a ConfigurationError that names file and place.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import ConfigurationError, OnerowError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_NAME = "onerow.toml"
MIN_LEASE_S = 0.5
FIRESTORE_DATABASE = "(default)"
FIRESTORE_COLLECTION = "onerow_locks"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FIRESTORE = re.compile(
    r"firestore://(?P<project>[a-z0-9][a-z0-9.:-]*)(?:/(?P<database>\(default\)|[a-z0-9][a-z0-9-]*))?/?"
    r"(?:\?(?P<query>[^#]*))?",
    re.ASCII,
)
_BIGQUERY = re.compile(r"bigquery://([a-z0-9.:-]+)/([A-Za-z0-9_]+)(?:\?max_bytes_billed=\d+)?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)


def parse_duration(value: object) -> float:
    """Return the seconds that ``value`` says: a number, or text such as 300ms, 30s, 5m, 24h, 7d.

    Raises:
        ValueError: it says none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNITS[match[2]]
    raise ValueError(f"{value!r} is no duration; write for example 300ms, 30s, 5m, 24h or 7d")


Seconds = Annotated[float, BeforeValidator(parse_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class _Lease(_Section):
    duration: Seconds = 30.0
    renew_every: Seconds | None = None
    max_wait: Seconds = 300.0


class _Table(_Section):
    key: list[str]
    order_by: list[str]
    columns: dict[str, str]
    partition: str | None = None
    mode: Literal["upsert", "versions"] = "upsert"
    version_column: str | None = None
    target: str | None = None
    id: str | None = None
    checks: dict[str, str] = Field(default_factory=dict)
    on_bad_row: Literal["refuse", "quarantine"] = "refuse"
    on_existing_duplicates: Literal["fail", "repair"] = "fail"
    enforce: bool | None = None
    lock_document: str | None = None


class _File(_Section):
    warehouse: str | None = None
    locks: str | None = None
    staging: str = "staging"
    control_schema: str = "onerow"
    keep_merged: Seconds = 86_400.0
    busy_timeout: Seconds = 30.0
    lease: _Lease = _Lease()
    tables: dict[str, _Table] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Url:
    """Where something is: the scheme, the part behind it, and for files the absolute path.

    The text never shows a password.

    Attributes:
        secret: the text as it was written, password included, for the driver; "" for files.
        catalog: of a DuckLake, where its catalog is.
        data_path: of a DuckLake, the absolute folder or the object store's URL of its files.
    """

    scheme: str
    text: str
    path: Path | None = None
    secret: str = field(default="", repr=False)
    catalog: Url | None = None
    data_path: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class FirestorePlace:
    """What a Firestore URL names.

    Attributes:
        collection: where onerow's documents are.
        emulator: host and port; "": the real service, or what FIRESTORE_EMULATOR_HOST names.
    """

    project: str
    database: str = FIRESTORE_DATABASE
    collection: str = FIRESTORE_COLLECTION
    emulator: str = ""


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
        model = _File.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigurationError(f"{file}:\n{_explain(error)}") from error
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
    )


def parse_url(text: str, base: Path) -> Url:
    """Return the place that ``text`` names; file paths are relative to ``base``.

    Three slashes start a relative path and four an absolute one: ``duckdb:///a.duckdb``,
    ``duckdb:////data/a.duckdb``.
    """
    scheme, separator, rest = text.partition(":")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ConfigurationError(f"{_redact(text)!r} is no URL.", hint="Write for example duckdb:///data.duckdb.")
    if scheme in {"duckdb", "sqlite"}:
        if not rest.startswith("///") or rest in {"///", "///:memory:"}:
            raise ConfigurationError(
                f"{text!r} names no file.", hint=f"Write {scheme}:///relative/path or {scheme}:////absolute/path."
            )
        return Url(scheme, text, path=(base / rest[3:]).absolute())
    if scheme == "ducklake":
        return _parse_ducklake(text, rest, base)
    if scheme in {"postgresql", "postgres"}:
        if not _is_readable(text):
            raise ConfigurationError(f"{_redact(text)!r} is no URL.", hint="Write postgresql://USER@HOST:5432/DATABASE.")
        return Url("postgresql", _redact(text), secret=text)
    found = Url(scheme, _redact(text), secret=text)
    if scheme == "bigquery" and not _BIGQUERY.fullmatch(text):
        raise ConfigurationError(f"{_redact(text)!r} names no dataset.", hint="Write bigquery://PROJECT/DATASET.")
    if scheme == "firestore":
        firestore_place(found)
    return found


def firestore_place(url: Url) -> FirestorePlace:
    """Return what ``firestore://PROJECT[/DATABASE][?collection=NAME][&emulator=HOST:PORT]`` names.

    Raises:
        ConfigurationError: it names no database.
    """
    match = _FIRESTORE.fullmatch(url.secret)
    options = parse_qs(match["query"] or "", keep_blank_values=True) if match else {}
    known = {name: values[-1] for name, values in options.items() if name in {"collection", "emulator"}}
    collection = known.get("collection", FIRESTORE_COLLECTION)
    if match is None or len(known) < len(options) or not _is_firestore_id(collection):
        raise ConfigurationError(
            f"{url} names no Firestore database.",
            hint="Write firestore://PROJECT or firestore://PROJECT/DATABASE; behind it there may be ?collection=NAME "
            f"({FIRESTORE_COLLECTION} if left out) and &emulator=HOST:PORT.",
        )
    return FirestorePlace(
        match["project"], match["database"] or FIRESTORE_DATABASE, collection, known.get("emulator", "")
    )


def _is_firestore_id(text: str) -> bool:
    """Say whether a collection or a document can be called so."""
    return bool(text) and "/" not in text and text not in {".", ".."} and not re.fullmatch("__.*__", text, re.DOTALL)


def _lock_documents(model: _File, locks: Url, file: Path) -> dict[str, str]:
    """Return the documents that tables name for their leases, by table."""
    named = {name: table.lock_document for name, table in model.tables.items() if table.lock_document is not None}
    for name, text in named.items():
        place = f"{file}: tables.{name}.lock_document"
        collection, _, document = text.partition("/")
        partitions = text.count("{partition}")
        if locks.scheme != "firestore":
            raise ConfigurationError(f"{place}: only locks in Firestore are in documents; these are in {locks}.")
        if not _is_firestore_id(collection) or not _is_firestore_id(document) or "{partition}" in collection:
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


def _parse_ducklake(text: str, rest: str, base: Path) -> Url:
    """Return the place of a DuckLake: its catalog's URL with ``data_path`` added to the query."""
    address, _, query = rest.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    data_path = options.pop("data_path", [""])[-1]
    kept = urlencode(options, doseq=True)
    catalog = parse_url(f"{address}?{kept}" if kept else address, base)
    if catalog.scheme not in {"sqlite", "postgresql"} or not data_path:
        raise ConfigurationError(
            f"{_redact(text)!r} names no DuckLake.",
            hint="Write ducklake:sqlite:///catalog.sqlite?data_path=FOLDER or ducklake:postgresql://...?data_path=FOLDER.",
        )
    folder = data_path if "://" in data_path else str((base / data_path).absolute())
    return Url("ducklake", f"ducklake:{_redact(rest)}", path=catalog.path, catalog=catalog, data_path=folder)


def companion_locks(warehouse: Url) -> Url:
    """Return the natural lock store of a warehouse."""
    if warehouse.scheme == "duckdb" and warehouse.path is not None:
        path = warehouse.path.with_suffix(".locks.sqlite")
        return Url("sqlite", f"sqlite:///{path}", path=path)
    if warehouse.scheme == "postgresql":
        return warehouse
    if match := _BIGQUERY.fullmatch(warehouse.secret):
        text = f"firestore://{match[1]}"
        return Url("firestore", text, secret=text)
    if warehouse.catalog is not None:
        catalog = warehouse.catalog
        if catalog.path is None:
            return catalog
        path = catalog.path.with_suffix(".locks.sqlite")
        return Url("sqlite", f"sqlite:///{path}", path=path)
    raise ConfigurationError(
        f"{warehouse} has no natural lock store.", hint='Name one: locks = "sqlite:///NAME.locks.sqlite".'
    )


def split_target(text: str) -> tuple[str, ...]:
    """Split ``schema.table`` at its dots; dots inside double quotes belong to the name."""
    parts = re.findall(r'"(?:[^"]|"")*"|[^."]+', text)
    if not parts or ".".join(parts) != text:
        raise ConfigurationError(f'{text!r} is no table name; write table, schema.table or "a.b".table.')
    return tuple(part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts)


def _spec(name: str, table: _Table) -> TableSpec:
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


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "is no setting." + _near_setting(problem["loc"])
        elif problem["type"] == "missing":
            message = "is missing."
        lines.append(f"  {place}: {message}")
    return "\n".join(lines)


def _near_setting(loc: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = _File
    if loc[:1] == ("lease",):
        model = _Lease
    elif loc[:1] == ("tables",):
        model = _Table
    near = difflib.get_close_matches(str(loc[-1]), list(model.model_fields), n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Settings here: {', '.join(model.model_fields)}."


def _is_readable(text: str) -> bool:
    try:
        port = urlsplit(text).port
    except ValueError:
        return False
    return port is None or port > 0


def _redact(text: str) -> str:
    try:
        parts = urlsplit(text)
        if parts.password is None:
            return text
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
    except ValueError:
        return text.partition(":")[0] + ":***"
