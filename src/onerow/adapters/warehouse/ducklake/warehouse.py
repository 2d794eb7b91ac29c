"""The DuckLake as a Warehouse."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

import duckdb

from onerow.adapters.warehouse.duckdb import install as installation
from onerow.adapters.warehouse.duckdb.guarded import Interventions, rollback
from onerow.adapters.warehouse.duckdb.merge import Transaction
from onerow.adapters.warehouse.duckdb.versions import VersionsTransaction
from onerow.adapters.warehouse.duckdb.warehouse import BUSY_TIMEOUT_S, EmbeddedWarehouse
from onerow.adapters.warehouse.ducklake import doctor, kept, upkeep
from onerow.adapters.warehouse.ducklake.lake import Lake, catalog_of
from onerow.core.plans import Committed, Refused, Unknown
from onerow.errors import ConflictError, NotInstalledError, OnerowError, WarehouseError
from onerow.ports.warehouse import Capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onerow.core.partitions import Scope
    from onerow.core.parts import PartManifest
    from onerow.core.plans import MergeCounts, MergePlan, Outcome
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import HistoryEntry

STAGING_NAME: Final = "onerow-staging"
STAGING_SUFFIX: Final = ".part"
MAX_ATTEMPTS: Final = 12
BACKOFF_S: Final = 0.02
MAX_BACKOFF_S: Final = 1.0

_T = TypeVar("_T")

MAX_PARTITIONS: Final = 100
"""Each is a file and some rows of the catalog: a commit of 100 takes half a second, which others wait for."""

CAPABILITIES: Final = Capabilities(
    commit_domain="table",
    max_partitions=MAX_PARTITIONS,
    max_rows=5_000_000,
    modes=frozenset({"upsert", "versions"}),
)
CAPABILITIES_OF_A_FILE: Final = Capabilities(
    commit_domain="file",
    max_partitions=MAX_PARTITIONS,
    max_rows=5_000_000,
    modes=frozenset({"upsert", "versions"}),
)


def staging_folder(data_path: str) -> Path | None:
    """Return the folder below the lake's data where parts are staged; None for an object store.

    The parts' files are called ``.part`` there: DuckLake's clean-up of orphaned files removes every file
    below the data path that is called ``.parquet`` and that the catalog does not know.
    """
    return None if "://" in data_path else Path(data_path) / STAGING_NAME


class LakeInterventions(Interventions):
    """Work that merges no parts; the catalog may be at the end of a line."""

    in_doubt = True


class DuckLakeWarehouse(EmbeddedWarehouse):
    """A DuckLake.

    Args:
        catalog: path of a SQLite file, or a PostgreSQL URL.
        data_path: absolute folder or object store URL of the lake's files.
        locate: gives the local path of a part's file, checked against its manifest.
        transaction: the steps; the test kit gives one with a step switched off.
        threads: of each instance of DuckDB; None: as many as it thinks fit.
    """

    layout = installation.Layout(own_guards=True, partitioned=True, required_later=False)

    def __init__(
        self,
        *,
        catalog: Path | str,
        data_path: str,
        locate: Callable[[PartManifest], str],
        control_schema: str = "onerow",
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        transaction: type[Transaction] = Transaction,
        versions: type[VersionsTransaction] = VersionsTransaction,
        interventions: type[LakeInterventions] = LakeInterventions,
        threads: int | None = None,
    ) -> None:
        place = catalog_of(catalog, busy_timeout_s=busy_timeout_s)
        self._folder = None if "://" in data_path else Path(data_path)
        self._lake = Lake(
            place, data_path, control_schema=control_schema, busy_timeout_s=busy_timeout_s, threads=threads
        )
        super().__init__(
            self._lake,
            locate=locate,
            control_schema=control_schema,
            transaction=transaction,
            versions=versions,
            interventions=interventions,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do: with a SQLite catalog any two commits collide, else those to one table."""
        return CAPABILITIES_OF_A_FILE if self._lake.catalog.is_file else CAPABILITIES

    def install(self, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> Sequence[str]:
        """Create what is missing; of several that do it at once, one creates and the others find it."""
        made = [*self._retried(self._create_lake), *self._retried(lambda: self._create_schema(specs))]
        made += self._retried(
            lambda: super(DuckLakeWarehouse, self).install(specs, lock_store=lock_store, adopt_locks=adopt_locks)
        )
        made += self._retried(lambda: self._create_schema(specs))  # for targets that are there only now
        return made

    def _create_lake(self) -> list[str]:
        """Create the lake if there is none; no client of a lake that we made keeps rows in the catalog."""
        try:
            with self._errors("the lake cannot be opened"), self._database.open():
                return []
        except NotInstalledError:
            with self._errors("the lake cannot be created"), self._database.open(create=True) as connection:
                doctor.switch_off_inlining(connection)
        return [f"lake {self._lake.catalog.shown}"]

    def _create_schema(self, specs: Sequence[TableSpec]) -> list[str]:
        """Create the control schema, and see that neither its rows nor those of the targets are kept in the catalog.

        DuckLake keeps few rows in the catalog instead of files, and deletions of such rows are known to be lost.
        An option of the lake wins over what a client wants, so it is set where it says so.
        """
        with self._errors("init failed"), self._database.open() as connection:
            connection.execute(self._control["create_schema"])
            return doctor.switch_off_inlining_of(connection, self._schema, specs)

    def _retried(self, work: Callable[[], _T]) -> _T:
        """Do it again while it loses against others, within a bound."""
        attempt = 0
        while True:
            try:
                return work()
            except ConflictError:
                attempt += 1
                if attempt >= MAX_ATTEMPTS:
                    raise
            _pause(attempt)

    def _commit(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: MergePlan,
        counts: Mapping[str | None, MergeCounts],
        transaction: Transaction,
    ) -> Outcome:
        """Commit, and look whether it was kept: DuckDB accepts the COMMIT of an aborted transaction without a word.

        A conflict was certainly not kept; of any other failure nobody can tell before the guard is had.
        """
        signature = f"{plan.transaction} {uuid4().hex}"
        try:
            self._lake.sign(connection, signature, f"consolidate batch {plan.batch!r} of table {plan.spec.name!r}")
        except duckdb.Error as error:
            rollback(connection)
            return Refused("conflict", self._lake.map_error(error, "the transaction was given up before its commit"))
        try:
            self._lake.commit(connection, plan.spec)
        except duckdb.Error as error:
            mapped = self._lake.map_error(error, "the commit failed")
            if self._lake.is_conflict(error):
                return Refused("conflict", mapped)
            return Unknown(mapped)
        try:
            signed = self._lake.is_signed(connection, signature)
        except duckdb.Error as error:
            return Unknown(self._lake.map_error(error, "nobody can tell whether the commit was kept"))
        if not signed:
            return Unknown(WarehouseError("The commit was accepted, but the lake has no snapshot of it."))
        return Committed(
            counts,
            merge_s=transaction.merge_s,
            verify_s=transaction.verify_s,
            duplicates_removed=transaction.duplicates_removed,
        )

    def resolve(self, plan: MergePlan) -> Committed | Refused | Unknown:
        """Take the guard, then read what the transaction has left; losing the guard is no answer."""
        outcome = super().resolve(plan)
        attempt = 0
        while isinstance(outcome, Unknown) and isinstance(outcome.error, ConflictError) and attempt < MAX_ATTEMPTS:
            _pause(attempt)
            outcome = super().resolve(plan)
            attempt += 1
        return outcome

    def raise_fence(self, spec: TableSpec, scope: Scope, *, token: int, by: str, reason: str) -> int:
        """Raise the fence of a scope, with an audit entry, in a transaction of its own."""
        return self._retried(
            lambda: super(DuckLakeWarehouse, self).raise_fence(spec, scope, token=token, by=by, reason=reason)
        )

    def record(self, entry: HistoryEntry) -> None:
        """Write an audit entry."""
        self._retried(lambda: super(DuckLakeWarehouse, self).record(entry))

    def probe(self, specs: Sequence[TableSpec]) -> Sequence[tuple[str, bool, str]]:
        """Check what is reachable, present and fitting, and free of what is known to lose rows."""
        facts = list(super().probe(specs))
        if not facts[0][1]:
            return facts
        try:
            with self._read() as connection:
                facts += doctor.look(connection, specs)
        except OnerowError as error:
            return [*facts, ("lake", False, str(error))]
        return [*facts, *doctor.look_at_folder(self._folder)]

    def upkeep(self, specs: Sequence[TableSpec], *, apply: bool) -> Sequence[str]:
        """Merge small files, rewrite heavily deleted ones, forget old snapshots and remove their files."""
        lines: list[str] = []
        for spec in specs:
            lines += self._retried(partial(self._compact, self._tables_of(spec), apply=apply))
        if specs:
            shared = [(self._schema, name) for name in ("ledger", "history")]
            lines += self._retried(partial(self._compact, shared, apply=apply))
        with self._errors("old snapshots cannot be expired"), self._database.open() as connection:
            snapshots = upkeep.old_snapshots(connection)
            if apply and snapshots:
                upkeep.expire(connection)
            files = upkeep.remove_files(connection) if apply else upkeep.old_files(connection)
            lines += upkeep.snapshot_lines(snapshots, files)
            if self._folder is not None:
                self._lake.bring_back_files(connection)
                left = kept.remove_left_over(self._folder) if apply else len(kept.left_over(self._folder))
                lines += upkeep.kept_lines(left)
        return lines

    def _tables_of(self, spec: TableSpec) -> list[tuple[str, str]]:
        """Return the target and the control table that is written as often."""
        fences = self._control.of(spec.name).real_name("fences")
        return [(installation.schema_of(spec), spec.target[-1]), (self._schema, fences)]

    def _compact(self, tables: Sequence[tuple[str, str]], *, apply: bool) -> list[str]:
        """Compact tables. The guard cannot be part of it: DuckLake lets no compaction change rows.

        It needs none: what a compaction rewrites and somebody else has deleted from meanwhile is a conflict.
        """
        with self._errors("the files cannot be compacted"), self._database.open() as connection:
            found = [upkeep.table_files(connection, schema, table) for schema, table in tables]
            todo = [files for files in found if files.line]
            for step in (upkeep.rewrite, upkeep.merge) if apply and todo else ():
                connection.execute("begin")
                try:
                    for files in todo:
                        step(connection, files.schema, files.table)
                    self._lake.commit_of(connection, tables)
                except BaseException:
                    rollback(connection)
                    raise
        return [files.line for files in todo]

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except duckdb.CatalogException as error:
            text = self._lake.redacted(str(error)).splitlines()[0]
            raise NotInstalledError(f"{doing}: {text}", hint="Run `onerow init` to create what is missing.") from None
        except duckdb.Error as error:
            raise self._lake.map_error(error, doing) from None  # the engine's own message may show a password


def _pause(attempt: int) -> None:
    pause_s = min(BACKOFF_S * 2**attempt, MAX_BACKOFF_S)
    time.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 -- only keeps two from meeting again
