"""The lake, attached to private instances of DuckDB, and what its errors mean.

A lake stays attached between calls: transactions of many processes run at once, and the catalog decides at the
commit. What it decides on, and what follows (measured with DuckDB 1.5.5):

- With a PostgreSQL catalog two transactions conflict if both change one table and one of them deletes or updates,
  whichever rows; two that only insert never do. DuckLake repeats by itself only the write of a snapshot whose changes
  conflict with nothing; a real conflict is raised at once and never settled behind our back.
- With a SQLite catalog in write-ahead mode any two transactions that write conflict: the catalog itself refuses a
  write that is based on an older snapshot, as "database is locked". Without that mode a reader keeps a writer from
  committing, and a commit that failed so leaves the connection useless; so the mode is set.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
from psycopg import ProgrammingError, conninfo

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import Database, map_error
from onerow.adapters.warehouse.duckdb.install import schema_of
from onerow.adapters.warehouse.ducklake import extensions
from onerow.adapters.warehouse.ducklake.kept import KEPT_NAME, KeptFiles, bring_back_named
from onerow.errors import ConfigurationError, ConflictError, NotInstalledError, OnerowError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from onerow.adapters.warehouse.duckdb.database import Instance
    from onerow.core.spec import TableSpec

logger = logging.getLogger("onerow")

AUTHOR: Final = "onerow"
METADATA: Final = f"__ducklake_metadata_{sql.DATABASE}"
"""Name under which DuckLake attaches the catalog's own tables."""

ONE_MOMENT: Final = "set global sqlite_disable_multithreaded_scans = true"
"""Without it every scan of a SQLite catalog has a connection of its own, and so a moment of its own: a look that meets
a commit takes the list of files from before it and the list of deletions from after it. It costs time, too."""
_QUICK_LOOKS: Final = "set disabled_optimizers = 'join_order,statistics_propagation'"
_ALL_OPTIMIZERS: Final = "set disabled_optimizers = ''"
"""To plan what DuckLake asks its catalog takes longer than to run it, 40 instead of 16 ms for a look into the ledger.
Statements of ours need neither optimizer: each joins two relations, and the engine still chooses which one to hash."""
MAX_COMMIT_RETRIES: Final = 30
RETRY_WAIT_MS: Final = 10
ATTACH_ATTEMPTS: Final = 8
IDLE_S: Final = 1.0
"""A connection that was not used for so long is tried before it is used."""
IDLE_TRANSACTION_MS: Final = 600_000
MAX_IDLE_INSTANCES: Final = 8

_CONFLICTS = re.compile(
    r"Transaction conflict|database is locked|could not serialize|deadlock detected|lock timeout"
    r"|Exceeded the maximum retry count|duplicate key value violates unique constraint \"ducklake_"
)
_GONE = re.compile(
    r"does not exist - and creating a new DuckLake is explicitly disabled|unable to open database file", re.IGNORECASE
)
_MADE_MEANWHILE = re.compile(r"already exists|duplicate key value|database is locked|tuple concurrently updated")

_idle: dict[tuple[int, tuple[str, ...], int | None], list[duckdb.DuckDBPyConnection]] = {}
_idle_guard = threading.Lock()


@dataclass(frozen=True)
class Catalog:
    """Where the catalog of a lake is.

    Attributes:
        source: what DuckDB's ATTACH takes, with passwords.
        shown: what people may see.
        secrets: texts that no message may show.
        options: of ATTACH, for this kind of catalog.
        extensions: what DuckDB needs.
        settings: statements for every instance that reads it.
    """

    source: str
    shown: str
    secrets: tuple[str, ...]
    options: tuple[str, ...]
    extensions: tuple[str, ...]
    settings: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a SQLite file, where any two writing transactions conflict."""
        return self.path is not None


def catalog_of(place: Path | str, *, busy_timeout_s: float) -> Catalog:
    """Return the catalog at a SQLite file's path or a PostgreSQL URL.

    Raises:
        ConfigurationError: the text is no connection string of PostgreSQL.
    """
    wait_ms = max(1, int(busy_timeout_s * 1000))
    if isinstance(place, Path):
        path = place.absolute()
        options = ("META_JOURNAL_MODE 'WAL'", f"META_BUSY_TIMEOUT {wait_ms}")
        return Catalog(
            f"sqlite:{path}", str(path), (), options, ("ducklake", "sqlite_scanner"), (ONE_MOMENT,), path
        )
    try:
        given = conninfo.conninfo_to_dict(place)
    except ProgrammingError as error:
        raise ConfigurationError("The catalog's URL is no connection string of PostgreSQL.") from error
    settings = {
        "connect_timeout": max(2, int(min(busy_timeout_s, 30))),
        "application_name": "onerow",
        "keepalives_idle": 30,
        "tcp_user_timeout": 30_000,
        # A frozen process must not keep the others out for ever.
        "options": f"-c lock_timeout={wait_ms} -c idle_in_transaction_session_timeout={IDLE_TRANSACTION_MS}",
        **given,
    }
    text = conninfo.make_conninfo("", **settings)
    password = str(given.get("password") or "")
    shown = conninfo.make_conninfo("", **{key: value for key, value in given.items() if key != "password"})
    secrets = tuple(dict.fromkeys((text, place, password, _quoted(password)))) if password else (text,)
    return Catalog(f"postgres:{text}", shown, secrets, (), ("ducklake", "postgres_scanner"))


def _quoted(password: str) -> str:
    """Return a password as a connection string writes it."""
    return conninfo.make_conninfo("", password=password).removeprefix("password=")


class Lake(Database):
    """A DuckLake; each thread has an instance with the lake attached.

    Args:
        catalog: where the catalog is.
        data_path: absolute folder or object store URL of the lake's files.
        busy_timeout_s: how long to wait for others, in seconds.
        control_schema: where the control tables are.
        only_looks: attached so that nothing can be changed, whatever the catalog calls the folder of the files.
        threads: that an instance uses; None: as many as the engine thinks fit. With few rows one is cheapest.
    """

    def __init__(
        self,
        catalog: Catalog,
        data_path: str,
        *,
        busy_timeout_s: float,
        control_schema: str = "onerow",
        only_looks: bool = False,
        threads: int | None = None,
    ) -> None:
        scratch = catalog.path or Path(tempfile.gettempdir()) / f"onerow-{os.getuid()}"
        super().__init__(scratch, busy_timeout_s=busy_timeout_s)
        self.catalog = catalog
        self.data_path = data_path
        self._only_looks = only_looks
        self._threads = threads
        self._control_schema = control_schema
        self._folders: dict[tuple[str, str | None], Path] = {}

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Return an instance with the extensions loaded; an idle one if there is, loading them takes long."""
        with _idle_guard:
            waiting = _idle.get(self._kind())
            connection = waiting.pop() if waiting else None
        if connection is None:
            connection = duckdb.connect(
                config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
            )
            if self._threads is not None:
                connection.execute("set threads = ?", [self._threads])
            extensions.load(connection, self.catalog.extensions)
            for statement in self.catalog.settings:
                connection.execute(statement)
            connection.execute("set python_enable_replacements = false")
            connection.execute("set TimeZone = 'UTC'")
            connection.execute("set enable_progress_bar = false")
            connection.execute(_QUICK_LOOKS)
            connection.execute("set ducklake_max_retry_count = ?", [MAX_COMMIT_RETRIES])
            connection.execute("set ducklake_retry_wait_ms = ?", [RETRY_WAIT_MS])
            connection.execute("set ducklake_retry_backoff = 1.2")
        connection.execute("set temp_directory = ?", [f"{self.path}.tmp"])
        return connection

    def _kind(self) -> tuple[int, tuple[str, ...], int | None]:
        """Return what tells instances that may stand for each other."""
        return (os.getpid(), self.catalog.extensions, self._threads)

    @contextmanager
    def open(self, *, read_only: bool = False, create: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:  # noqa: ARG002 -- one way to attach
        """Have the lake attached; it stays so for the next call of this thread. ``create``: also one that is not there.

        Raises:
            NotInstalledError: there is no lake.
            WarehouseError: it cannot be attached.
        """
        mine = self._mine()
        connection = mine.connection
        if mine.attached and not self._is_well(mine):
            self._let_go(mine)
        if not mine.attached:
            self._attach_lake(mine, create=create)
            try:
                self._learn_folders(connection)
                self.bring_back_files(connection)
            except duckdb.Error as error:
                raise self.map_error(error, f"the lake at {self.catalog.shown} cannot be read") from None
            except OSError as error:
                mine.suspect = True
                raise WarehouseError(
                    f"Files of an interrupted commit cannot be brought back: {error}",
                    hint=f"Their second names are in {self.data_path}/{KEPT_NAME}; see that the folder can be written.",
                ) from error
        mine.opened_s = time.time()
        try:
            yield connection
        finally:
            mine.used_s = time.monotonic()

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Have this thread's instance with all optimizers, for statements of people."""
        instance = self.instance()
        instance.execute(_ALL_OPTIMIZERS)
        try:
            yield
        finally:
            instance.execute(_QUICK_LOOKS)

    def commit(self, connection: duckdb.DuckDBPyConnection, *specs: TableSpec) -> None:
        """Commit; if nobody can tell whether it was kept, see that the files that it names are there."""
        self.commit_of(connection, [(schema_of(spec), spec.target[-1]) for spec in specs])

    def commit_of(self, connection: duckdb.DuckDBPyConnection, tables: Sequence[tuple[str, str]]) -> None:
        """Commit what has changed ``tables``, by schema and name, or the control tables."""
        if "://" in self.data_path:
            connection.execute("commit")
            return
        folders = {self._folder(self._control_schema, None), *(self._folder(schema, table) for schema, table in tables)}
        kept = KeptFiles(Path(self.data_path), folders, since_s=self._mine().opened_s)
        try:
            connection.execute("commit")
        except duckdb.Error as error:
            if not self.is_conflict(error):
                self._restore(kept)
            else:
                kept.forget()
            raise
        kept.forget()

    def sign(self, connection: duckdb.DuckDBPyConnection, signature: str, message: str) -> None:
        """Have the snapshot of this transaction tell who made it; ``signature`` is nobody else's.

        Raises:
            duckdb.Error: also if the transaction is aborted, whose COMMIT the engine would accept without a word.
        """
        connection.execute(
            "call ducklake_set_commit_message(?, ?, ?, extra_info => ?)", [sql.DATABASE, AUTHOR, message, signature]
        )

    def is_signed(self, connection: duckdb.DuckDBPyConnection, signature: str) -> bool:
        """Say whether the catalog has a snapshot with this signature. Asked past the lake, which would load more."""
        found = connection.execute(
            f"select snapshot_id from {METADATA}.ducklake_snapshot_changes where commit_extra_info = ?",  # noqa: S608 -- the name is ours
            [signature],
        ).fetchall()
        return bool(found)

    def _restore(self, kept: KeptFiles) -> None:
        """Bring files back after a commit whose end nobody knows; what fails is tried again at the next opening."""
        try:
            restored = kept.restore()
        except OSError as error:
            logger.error("onerow.files_not_restored", extra={"facts": {"error": str(error)}})  # noqa: TRY400 -- a fact
            return
        logger.warning("onerow.files_restored", extra={"facts": {"files": restored}})
        kept.forget()

    def bring_back_files(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Bring back files that the catalog names and that a process which died in a commit has left without a name.

        Raises:
            OSError: they cannot be.
            duckdb.Error: the catalog cannot be read.
        """
        if "://" in self.data_path or self._only_looks:
            return

        def named(names: Collection[str]) -> set[str]:
            found = connection.execute(
                "select name from (select parse_filename(path) as name "  # noqa: S608 -- the names are ours
                f"from (select path from {METADATA}.ducklake_data_file "
                f"union all select path from {METADATA}.ducklake_delete_file)) where name in (select unnest(?))",
                [list(names)],
            ).fetchall()
            return {name for (name,) in found}

        restored = bring_back_named(Path(self.data_path), named)
        if restored:
            logger.warning("onerow.files_restored", extra={"facts": {"files": restored}})

    def _learn_folders(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Read where the tables' files are. Never inside a transaction: it would then have two in the catalog."""
        found = connection.execute(
            "select lower(s.schema_name), lower(t.table_name), s.path, t.path "  # noqa: S608 -- the names are ours
            f"from {METADATA}.ducklake_schema s left join {METADATA}.ducklake_table t "
            "on t.schema_id = s.schema_id and t.end_snapshot is null where s.end_snapshot is null"
        ).fetchall()
        root = Path(self.data_path)
        for schema, table, schema_path, table_path in found:
            self._folders[schema, None] = root / schema_path
            if table is not None:
                self._folders[schema, table] = root / schema_path / table_path

    def _folder(self, schema: str, table: str | None) -> Path:
        """Return the folder of a table's files, or of a schema's; as DuckLake calls it if it is younger."""
        key = (schema.lower(), None if table is None else table.lower())
        return self._folders.get(key) or Path(self.data_path) / schema / (table or "")

    def _is_well(self, instance: Instance) -> bool:
        """Say whether what is attached can be used; asks only after a failure or a pause."""
        if instance.suspect:
            return False
        if time.monotonic() - instance.used_s < IDLE_S:
            return True
        try:
            instance.connection.execute(f"select max(snapshot_id) from {METADATA}.ducklake_snapshot").fetchall()  # noqa: S608 -- the name is ours
        except duckdb.Error:
            return False
        return True

    def _attach_lake(self, instance: Instance, *, create: bool) -> None:
        catalog = self.catalog
        if catalog.path is not None and not catalog.path.exists():
            if not create:
                raise self._no_lake()
            catalog.path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTACH_ATTEMPTS):
            try:
                instance.connection.execute(self._attach_statement(create=create))
            except duckdb.Error as error:
                text = str(error)
                if _GONE.search(text) and not create:
                    raise self._no_lake() from None
                made_meanwhile = _MADE_MEANWHILE.search(text) is not None
                if not made_meanwhile or attempt + 1 == ATTACH_ATTEMPTS:
                    raise self.map_error(error, f"the lake at {catalog.shown} cannot be attached") from None
                time.sleep(0.05 * (attempt + 1))
            else:
                break
        instance.attached, instance.suspect, instance.used_s = True, False, time.monotonic()

    def _attach_statement(self, *, create: bool) -> str:
        # ATTACH takes no parameters: paths are literals of the tree.
        def literal(text: str) -> str:
            return sql.exp.Literal.string(text).sql(sql.DIALECT)

        options = [
            f"DATA_PATH {literal(self.data_path)}",
            "DATA_INLINING_ROW_LIMIT 0",
            f"CREATE_IF_NOT_EXISTS {'true' if create else 'false'}",
            *(("READ_ONLY", "OVERRIDE_DATA_PATH true") if self._only_looks else self.catalog.options),
        ]
        return f"ATTACH {literal(f'ducklake:{self.catalog.source}')} AS {sql.DATABASE} ({', '.join(options)})"

    def _no_lake(self) -> NotInstalledError:
        return NotInstalledError(f"There is no lake at {self.catalog.shown}.", hint="`onerow init` creates it.")

    def _let_go(self, instance: Instance) -> None:
        """Detach, whatever state it is in."""
        instance.attached = False
        with suppress(duckdb.Error):
            instance.connection.execute("rollback")
        instance.connection.execute(f"DETACH DATABASE IF EXISTS {sql.DATABASE}")

    def is_conflict(self, error: duckdb.Error) -> bool:
        """Say whether a transaction lost against another one and certainly has not committed."""
        return _CONFLICTS.search(str(error)) is not None

    def map_error(self, error: duckdb.Error, doing: str) -> OnerowError:
        """Return our error for the engine's, without secrets; what is attached is doubted from now on."""
        text = self.redacted(str(error))
        if self.is_conflict(error):
            return ConflictError(f"{doing}: {_lines(text)}", hint="Nothing of it was committed.")
        self._mine().suspect = True
        if "does not match existing data path" in text:
            return ConfigurationError(
                f"{doing}: {_lines(text)}", hint="Write the data_path that the lake was created with."
            )
        if "Unable to connect" in text or "onnection" in text:
            return WarehouseError(
                f"{doing}: the catalog cannot be reached: {_lines(text)}",
                hint="Look whether its server runs and the URL is right. Staging is kept.",
            )
        return map_error(type(error)(_lines(text)), doing)

    def redacted(self, text: str) -> str:
        """Return a message without the catalog's secrets."""
        for secret in self.catalog.secrets:
            text = text.replace(secret, "***")
        return text

    def close(self) -> None:
        """Detach from the instances of all threads; some are kept for the next lake of this process."""
        for instance in self._instances:
            if not self._keep(instance):
                instance.connection.close()
        self._instances.clear()
        self._local = threading.local()

    def _keep(self, instance: Instance) -> bool:
        try:
            self._let_go(instance)
        except duckdb.Error:
            return False
        with _idle_guard:
            waiting = _idle.setdefault(self._kind(), [])
            if len(waiting) >= MAX_IDLE_INSTANCES:
                return False
            waiting.append(instance.connection)
        return True


def _lines(text: str) -> str:
    """Return a message of several lines as one."""
    return " ".join(line.strip() for line in text.splitlines()[:3])
