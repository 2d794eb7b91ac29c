"""Where things are: the URLs of warehouses and lock stores. Their text never shows a password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

FIRESTORE_DATABASE = "(default)"
FIRESTORE_COLLECTION = "onerow_locks"
_FIRESTORE = re.compile(
    r"firestore://(?P<project>[a-z0-9][a-z0-9.:-]*)(?:/(?P<database>\(default\)|[a-z0-9][a-z0-9-]*))?/?"
    r"(?:\?(?P<query>[^#]*))?",
    re.ASCII,
)
_BIGQUERY = re.compile(r"bigquery://([a-z0-9.:-]+)/([A-Za-z0-9_]+)(?:\?max_bytes_billed=\d+)?", re.ASCII)


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


def parse_url(text: str, base: Path) -> Url:
    """Return the place that ``text`` names; file paths are relative to ``base``.

    Three slashes start a relative path and four an absolute one: ``duckdb:///a.duckdb``,
    ``duckdb:////data/a.duckdb``.
    """
    scheme, separator, rest = text.partition(":")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ConfigurationError(f"{redact(text)!r} is no URL.", hint="Write for example duckdb:///data.duckdb.")
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
            raise ConfigurationError(f"{redact(text)!r} is no URL.", hint="Write postgresql://USER@HOST:5432/DATABASE.")
        return Url("postgresql", redact(text), secret=text)
    found = Url(scheme, redact(text), secret=text)
    if scheme == "bigquery" and not _BIGQUERY.fullmatch(text):
        raise ConfigurationError(f"{redact(text)!r} names no dataset.", hint="Write bigquery://PROJECT/DATASET.")
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
    if match is None or len(known) < len(options) or not is_firestore_id(collection):
        raise ConfigurationError(
            f"{url} names no Firestore database.",
            hint="Write firestore://PROJECT or firestore://PROJECT/DATABASE; behind it there may be ?collection=NAME "
            f"({FIRESTORE_COLLECTION} if left out) and &emulator=HOST:PORT.",
        )
    return FirestorePlace(
        match["project"], match["database"] or FIRESTORE_DATABASE, collection, known.get("emulator", "")
    )


def is_firestore_id(text: str) -> bool:
    """Say whether a collection or a document can be called so."""
    return bool(text) and "/" not in text and text not in {".", ".."} and not re.fullmatch("__.*__", text, re.DOTALL)


def _parse_ducklake(text: str, rest: str, base: Path) -> Url:
    """Return the place of a DuckLake: its catalog's URL with ``data_path`` added to the query."""
    address, _, query = rest.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    data_path = options.pop("data_path", [""])[-1]
    kept = urlencode(options, doseq=True)
    catalog = parse_url(f"{address}?{kept}" if kept else address, base)
    if catalog.scheme not in {"sqlite", "postgresql"} or not data_path:
        raise ConfigurationError(
            f"{redact(text)!r} names no DuckLake.",
            hint="Write ducklake:sqlite:///catalog.sqlite?data_path=FOLDER or ducklake:postgresql://...?data_path=FOLDER.",
        )
    folder = data_path if "://" in data_path else str((base / data_path).absolute())
    return Url("ducklake", f"ducklake:{redact(rest)}", path=catalog.path, catalog=catalog, data_path=folder)


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


def _is_readable(text: str) -> bool:
    try:
        port = urlsplit(text).port
    except ValueError:
        return False
    return port is None or port > 0


def redact(text: str) -> str:
    """Return ``text`` without its password."""
    try:
        parts = urlsplit(text)
        if parts.password is None:
            return text
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
    except ValueError:
        return text.partition(":")[0] + ":***"
