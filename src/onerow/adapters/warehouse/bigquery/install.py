"""Creating what is missing, and looking first whether what is there fits.

DDL of BigQuery takes part in no transaction, so everything is looked at before anything is made, and each thing is made
by one request that does nothing if it is there: an init that was killed is finished by the next one, and two at once
make everything once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.cloud import bigquery
from sqlglot import exp

from onerow.adapters.bigquery.client import REQUEST_TIMEOUT_S
from onerow.adapters.bigquery.names import (
    DIALECT,
    SHARED_TABLES,
    TableName,
    bigquery_type,
    check_names,
    column,
    schema_field,
)
from onerow.adapters.bigquery.patience import ONCE
from onerow.adapters.warehouse.bigquery import companions
from onerow.adapters.warehouse.bigquery.control_tables import GUARDS, create_control_table, create_guard
from onerow.adapters.warehouse.bigquery.fitting import misfits
from onerow.adapters.warehouse.bigquery.numbering import number_rows, refuse_identical
from onerow.core.spec import Column
from onerow.core.types import ColumnType
from onerow.errors import ConfigurationError, LockStoreMismatchError, NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.tables import Table
    from onerow.core.spec import TableSpec

REMOVED_SUFFIX: Final = "_removed_duplicates"
REMOVED_COLUMNS: Final = (
    Column("__onerow_run", ColumnType("string")),
    Column("__onerow_removed_at", ColumnType("timestamp")),
    Column("__onerow_reason", ColumnType("string")),
    Column("__onerow_batch", ColumnType("string")),
)
MAX_CLUSTERING: Final = 4
MAX_KEY_COLUMNS: Final = 16


@dataclass
class _Work:
    """What is there of a target before anything is made."""

    spec: TableSpec
    target: Table | None
    removed: Table | None
    guard: tuple[str, str] | None
    views: list[tuple[companions.View, str]] = field(default_factory=list)

    @property
    def lacking(self) -> list[Column]:
        """Declared columns that the target lacks."""
        there = self.target.by_name if self.target is not None else {}
        return [declared for declared in self.spec.stored_columns if declared.name not in there]


def install(client: BigQuery, specs: Sequence[TableSpec], *, lock_store: str, adopt_locks: bool) -> list[str]:
    """Create control tables, targets, missing columns, views and guard rows; see ``Warehouse.install``."""
    for spec in specs:
        check_names(spec)
    made = _install_datasets(client, specs)
    there = {str(item.table_id) for item in client.tables(client.names.control)}
    works = [_look(client, spec, there, lock_store=lock_store, adopt_locks=adopt_locks) for spec in specs]
    for name in SHARED_TABLES:
        if name not in there:
            create_control_table(client, name, client.names.shared(name))
            made.append(f"control table {client.names.control}.{name}")
    for work in works:
        made += _install_target(client, work)
        made += _install_removed(client, work)
        made += _install_views(client, work)
        made += _install_guard(client, work, there, lock_store)
    return made


# --- looking, before anything is made --------------------------------------------------------


def _install_datasets(client: BigQuery, specs: Sequence[TableSpec]) -> list[str]:
    """Make the control dataset, and look that all datasets are in one place and nothing in staging expires."""
    names, location = client.names, client.location
    targets = [names.target(spec) for spec in specs]
    for target in sorted({name.dataset for name in targets if name.project == names.project}):
        found = client.dataset(target)
        if found is None:
            raise NotInstalledError(
                f"There is no dataset {names.project}.{target}.", hint=f"Create it in {location}, where the others are."
            )
        _check_location(found, location)
    control = client.dataset(names.control)
    if control is None:
        dataset = bigquery.Dataset(f"{names.project}.{names.control}")
        dataset.location = location
        dataset.description = "Control tables and staging of onerow; do not change by hand"
        client.call(
            f"the control dataset {names.control} could not be made",
            lambda api: api.create_dataset(dataset, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
        )
        return [f"dataset {names.control}"]
    _check_location(control, location)
    if control.default_table_expiration_ms is not None:
        raise ConfigurationError(
            f"Tables of dataset {names.project}.{names.control} expire by default, so parts that wait would vanish.",
            hint="Switch its default table expiration off, or name another control_schema.",
        )
    return []


def _check_location(dataset: bigquery.Dataset, location: str) -> None:
    if str(dataset.location).casefold() != location.casefold():
        raise ConfigurationError(
            f"The dataset {dataset.project}.{dataset.dataset_id} is in {dataset.location}, and jobs run in {location}; "
            "no statement reaches both.",
            hint="Name a control_schema, or a target, that is in the same location.",
        )


def _look(
    client: BigQuery, spec: TableSpec, there: set[str], *, lock_store: str, adopt_locks: bool
) -> _Work:
    """Return what is there of a target.

    Raises:
        ConfigurationError, LockStoreMismatchError, DuplicatesError: it cannot be used as it is.
    """
    names = client.names
    target = client.table(names.target(spec))
    if target is not None and (problems := misfits(spec, target)):
        raise ConfigurationError(
            f"The table {names.target(spec)} is there but does not fit its declaration: {' '.join(problems)}",
            hint="Nothing was created. Correct the declaration or the table.",
        )
    guard = read_guard(client, spec) if names.own(GUARDS, spec.name).table in there else None
    if guard is not None and guard[0] != lock_store and not adopt_locks:
        raise LockStoreMismatchError(
            f"The table {spec.name!r} is used with the lock store {guard[0]}, not with {lock_store}: "
            "two stores would be two locks.",
            hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
        )
    removed = client.table(names.related(spec, REMOVED_SUFFIX))
    if removed is not None:
        _check_removed(spec, removed)
    work = _Work(spec, target, removed, guard)
    work.views = [(view, companions.state_of(client, view)) for view in companions.views_of(client, spec, _types(work))]
    for view, state in work.views:
        if state == "foreign":
            raise ConfigurationError(
                f"Table {spec.name!r}: {view.name} is there and was not made by onerow, which keeps a view of that "
                "name.",
                hint="Rename it, or give the table another target. Nothing was created.",
            )
    if target is not None and spec.mode == "versions" and spec.version_column not in target.by_name:
        refuse_identical(client, spec)
    return work


def read_guard(client: BigQuery, spec: TableSpec) -> tuple[str, str] | None:
    """Return lock store and origin of a target as its guard row has them; None if there is no row.

    Raises:
        ConfigurationError: there are several.
    """
    guards = client.names.own(GUARDS, spec.name)
    found = client.run(exp.select(column("lock_store"), column("origin")).from_(guards.node()).sql(DIALECT)).rows
    if len(found) > 1:
        raise ConfigurationError(
            f"The table {guards} has {len(found)} guard rows instead of one; it was changed by hand.",
            hint="Stop all consolidations of the table and remove the extra rows.",
        )
    return (str(found[0][0]), str(found[0][1])) if found else None


def _types(work: _Work) -> Mapping[str, str]:
    """Return the types of the target's columns without length or scale, as they will be."""
    there = work.target.by_name if work.target is not None else {}
    return {
        declared.name: there[declared.name].plain_type if declared.name in there else _plain(declared)
        for declared in work.spec.stored_columns
    }


# --- making ------------------------------------------------------------------------------------


def _install_target(client: BigQuery, work: _Work) -> list[str]:
    spec, name = work.spec, client.names.target(work.spec)
    if work.target is None:
        table = new_target(spec, name)
        made = client.call(
            f"the table {name} could not be made",
            lambda api: api.create_table(table, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
        )
        if made.expires is not None:  # the dataset's default is for tables that somebody else makes
            made.expires = None
            client.call(
                f"the expiration of table {name} could not be switched off",
                lambda api: api.update_table(made, ["expires"], retry=ONCE, timeout=REQUEST_TIMEOUT_S),
            )
        return [f"table {name}"]
    made_lines = []
    for declared in work.lacking:
        # A required column cannot be added to rows that lack it; the row contract holds it for new ones.
        _add_column(client, name, declared)
        made_lines.append(f"column {name}.{declared.name}")
    if spec.mode == "versions" and spec.version_column is not None:
        if any(declared.name == spec.version_column for declared in work.lacking):
            if work.target.key:  # it was declared for one row a key, and the engine believes it
                client.run(f"ALTER TABLE {name.sql} DROP PRIMARY KEY IF EXISTS")
            made_lines[-1] += ", in which the rows that are there are numbered"
            number_rows(client, spec, spec.version_column)
        elif _unnumbered(client, spec, spec.version_column):  # an init before was killed
            number_rows(client, spec, spec.version_column)
            made_lines.append(f"versions of rows of {name} that had none")
    return made_lines


def new_target(spec: TableSpec, name: TableName) -> bigquery.Table:
    """Return the table that is made for a spec: partitioned where a date tells the partition, clustered by its key.

    The key is declared as primary key, which the engine does not enforce but believes: only in a table that was made
    here, and where no column of it may be NULL, as the engine's documentation demands.
    """
    fields = [
        schema_field(declared, required=declared.required or declared.name == spec.partition)
        for declared in spec.stored_columns
    ]
    table = bigquery.Table(name.reference, schema=fields)
    clustered = [column for column in spec.identity if column != spec.partition]
    if spec.partition is not None and spec.by_name[spec.partition].type.kind == "date":
        table.time_partitioning = bigquery.TimePartitioning(type_="DAY", field=spec.partition)
    elif spec.partition is not None:
        clustered.insert(0, spec.partition)
    table.clustering_fields = clustered[:MAX_CLUSTERING] or None
    required = {field.name for field in fields if field.mode == "REQUIRED"}
    if spec.enforce is not False and set(spec.row_identity) <= required and len(spec.row_identity) <= MAX_KEY_COLUMNS:
        key = bigquery.table.PrimaryKey(columns=list(spec.row_identity))
        table.table_constraints = bigquery.table.TableConstraints(primary_key=key, foreign_keys=None)
    return table


def _install_removed(client: BigQuery, work: _Work) -> list[str]:
    name = client.names.related(work.spec, REMOVED_SUFFIX)
    wanted = [*work.spec.stored_columns, *REMOVED_COLUMNS]
    if work.removed is None:
        table = bigquery.Table(name.reference, schema=[schema_field(declared) for declared in wanted])
        client.call(
            f"the table {name} could not be made",
            lambda api: api.create_table(table, exists_ok=True, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
        )
        return [f"table {name}"]
    lacking = [declared for declared in wanted if declared.name not in work.removed.by_name]
    for declared in lacking:
        _add_column(client, name, declared)
    return [f"column {name}.{declared.name}" for declared in lacking]


def _check_removed(spec: TableSpec, removed: Table) -> None:
    there = {name: found.plain_type for name, found in removed.by_name.items()}
    foreign = [declared.name for declared in REMOVED_COLUMNS if declared.name not in there]
    foreign += [
        declared.name
        for declared in (*spec.stored_columns, *REMOVED_COLUMNS)
        if there.get(declared.name, _plain(declared)) != _plain(declared)
    ]
    if foreign:
        raise ConfigurationError(
            f"The table {removed.name} is there, but its column {foreign[0]!r} is not what onerow keeps removed rows "
            "in.",
            hint="Nothing was created. Rename that table.",
        )


def _plain(declared: Column) -> str:
    return bigquery_type(declared.type).partition("(")[0]


def _install_views(client: BigQuery, work: _Work) -> list[str]:
    made = []
    for view, state in work.views:
        if state == "well":
            continue
        companions.create_view(client, view, replace=state == "outdated")
        replaced = "" if state == "missing" else ", replaced: its columns have changed"
        made.append(f"view {view.name}{replaced}")
    return made


def _install_guard(client: BigQuery, work: _Work, there: set[str], lock_store: str) -> list[str]:
    spec, names, made = work.spec, client.names, []
    fences = names.own("fences", spec.name)
    if fences.table not in there:
        create_control_table(client, "fences", fences)
        made.append(f"control table {fences}")
    guards = names.own(GUARDS, spec.name)
    if work.guard is None:
        create_guard(
            client,
            guards,
            table=spec.name,
            lock_store=lock_store,
            origin="created" if work.target is None else "adopted",
        )
        if read_guard(client, spec) is None:
            raise ConfigurationError(
                f"The table {guards} is there without its guard row; it was emptied by hand.",
                hint="Stop all consolidations of the table, remove that table, and run `onerow init` again.",
            )
        made.append(f"guard row of {spec.name}")
    elif work.guard[0] != lock_store:
        store = bigquery.ScalarQueryParameter("lock_store", "STRING", lock_store)
        attempt = exp.Add(this=column("attempt"), expression=exp.Literal.number(1))
        changes: dict[str, object] = {"lock_store": exp.Parameter(this=exp.var("lock_store")), "attempt": attempt}
        client.run(exp.update(guards.node(), changes, where=exp.true()).sql(DIALECT), [store])
        made.append(f"lock store {lock_store} adopted for {spec.name}")
    return made


def _add_column(client: BigQuery, name: TableName, declared: Column) -> None:
    definition = f"{column(declared.name).sql(DIALECT)} {bigquery_type(declared.type)}"
    client.run(f"ALTER TABLE {name.sql} ADD COLUMN IF NOT EXISTS {definition}")


def _unnumbered(client: BigQuery, spec: TableSpec, version_column: str) -> bool:
    missing = exp.Is(this=column(version_column), expression=exp.null())
    counted = exp.select(exp.Count(this=exp.Star())).from_(client.names.target(spec).node()).where(missing)
    return bool(client.run(counted.sql(DIALECT)).rows[0][0])
