"""An engine by itself: what stands in the scratch table, read and written without a line of onerow's adapters.

The checker and the reader look through this, the comparison with a plain MERGE writes through it, and the scratch
table is dropped through it. Its statements are built as trees, with every name quoted.
"""

from __future__ import annotations

import datetime as dt
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from sqlglot import exp

from onerow.errors import UsageError
from onerow.testing.chaos.plan import COLUMNS, PREFIX, scratch_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from onerow.config import Settings

Row = tuple[Any, ...]
"""A row of the scratch table: its values in the order of ``plan.COLUMNS``, times in UTC."""

PLAIN_TRIES: Final = 20

Node = exp.Expr  # the root of all of sqlglot's nodes

SPEC: Final = scratch_spec(PREFIX)
_KEY: Final = tuple(SPEC.column_names.index(name) for name in SPEC.identity)
_ORDER: Final = tuple(SPEC.column_names.index(name) for name in SPEC.comparison)
_NULLABLE: Final = "current_points_line"


class LedgerLine(NamedTuple):
    """One line of the ledger."""

    part_id: str
    partition: str
    batch: str
    consolidation: str
    rows_staged: int


def key_of(row: Row) -> Row:
    """Return what names the row: partition and business key."""
    return tuple(row[place] for place in _KEY)


def order_of(row: Row) -> Row:
    """Return what the row is compared by: greater is newer. Only ``_NULLABLE``, part of the key, is ever NULL."""
    return tuple(row[place] for place in _ORDER)


class Bare(ABC):
    """One engine, with the scratch table ``table`` in it."""

    dialect: ClassVar[str]
    timestamp: ClassVar[str] = "timestamp"

    def __init__(self, settings: Settings, table: str) -> None:
        if not table.startswith(PREFIX):
            raise UsageError(f"{table!r} is no scratch table of the torture test.")
        self.settings = settings
        self.table = table

    @abstractmethod
    def session(self, *, writes: bool) -> AbstractContextManager[Session]:
        """Have the engine open, with a transaction that commits at the end of the block and rolls back on an error."""

    def close(self) -> None:  # noqa: B027 -- not every engine stays open
        """Let go of what is open."""

    @abstractmethod
    def is_conflict(self, error: Exception) -> bool:
        """Say whether a plain writer would try again after ``error``."""

    def rows(self) -> list[Row]:
        """Return all rows of the scratch table, from one snapshot."""
        columns = [exp.column(name, quoted=True) for name in COLUMNS]
        with self.session(writes=False) as session:
            found = session.query(exp.select(*columns).from_(self._target()))
        return [tuple(_utc(value) for value in row) for row in found]

    def ledger(self) -> list[LedgerLine]:
        """Return what the ledger says of the scratch table."""
        columns = [exp.column(name) for name in LedgerLine._fields]
        with self.session(writes=False) as session:
            found = session.query(exp.select(*columns).from_(self._control("ledger")).where(self._ours()))
        return [LedgerLine(*row) for row in found]

    # --- a plain MERGE ----------------------------------------------------------------------

    def create(self) -> None:
        """Create the scratch table without onerow."""
        with self.session(writes=True) as session:
            session.run(self._create(self._target(), temporary=False))

    def merge(self, rows: Sequence[Row]) -> None:
        """Merge rows as the incident did: deduplicated among themselves, matched null-safely, the last MERGE wins."""
        statement = self._merge_statement()
        for tried in range(PLAIN_TRIES):
            try:
                with self.session(writes=True) as session:
                    session.run(self._create(exp.to_table("incoming"), temporary=True))
                    for row in rows:
                        session.run(exp.insert(exp.values([row]), "incoming"))
                    session.run(statement)
                    session.run(_on("drop table target", exp.to_table("incoming")))
                    return
            except Exception as error:
                if not self.is_conflict(error) or tried + 1 == PLAIN_TRIES:
                    raise
            time.sleep(0.01 * (tried + 1))

    def _merge_statement(self) -> Node:
        match = " and ".join(
            f"t.{name} is not distinct from s.{name}" if name == _NULLABLE else f"t.{name} = s.{name}"
            for name in SPEC.identity
        )
        names = ", ".join(COLUMNS)
        return _on(
            f"""
            merge into target using (
                select {names} from (
                    select *, row_number() over (
                        partition by {", ".join(SPEC.identity)} order by {", ".join(f"{c} desc" for c in SPEC.order_by)}
                    ) as place from incoming
                ) as ranked where place = 1
            ) as s on {match}
            when matched then update set {", ".join(f"{name} = s.{name}" for name in COLUMNS)}
            when not matched then insert ({names}) values ({", ".join(f"s.{name}" for name in COLUMNS)})
            """,
            exp.alias_(self._target(), "t", table=True),
        )

    def _create(self, table: exp.Table, *, temporary: bool) -> exp.Create:
        kinds = {"string": "text", "date": "date", "float64": "double precision", "timestamp": self.timestamp}
        columns = [
            exp.ColumnDef(
                this=exp.to_identifier(name, quoted=True),
                kind=exp.DataType.build(kinds.get(kind, kind), dialect=self.dialect),
            )
            for name, kind in COLUMNS.items()
        ]
        properties = exp.Properties(expressions=[exp.TemporaryProperty()]) if temporary else None
        return exp.Create(this=exp.Schema(this=table, expressions=columns), kind="TABLE", properties=properties)

    # --- leaving nothing behind ---------------------------------------------------------------

    def clear(self) -> None:
        """Drop the scratch table, everything that has its name in its own, and its lines in the control tables."""
        schema = self.settings.control_schema
        with self.session(writes=True) as session:
            for found_schema, name, kind in session.relations():
                if self.table in name:  # companions, views, and guards of its own
                    relation = exp.table_(name, db=found_schema, quoted=True)
                    session.run(_on("drop view target" if "VIEW" in kind.upper() else "drop table target", relation))
            for name in session.tables_with("table_name", schema):
                session.run(exp.delete(self._control(name)).where(self._ours()))

    def _target(self) -> exp.Table:
        return exp.table_(self.table, quoted=True)

    def _control(self, name: str) -> exp.Table:
        return exp.table_(name, db=self.settings.control_schema, quoted=True)

    def _ours(self) -> Node:
        return exp.column("table_name").eq(exp.Literal.string(self.table))


class Session(ABC):
    """An open engine in a transaction."""

    dialect: ClassVar[str]

    @abstractmethod
    def execute(self, text: str) -> list[Row]:
        """Run a statement and return its rows, if it has any."""

    def run(self, statement: Node) -> None:
        """Run a statement."""
        self.execute(statement.sql(self.dialect))

    def query(self, statement: Node) -> list[Row]:
        """Run a statement and return its rows."""
        return self.execute(statement.sql(self.dialect))

    def relations(self) -> list[Row]:
        """Return schema, name and kind of all tables and views, views first."""
        columns = [exp.column(name) for name in ("table_schema", "table_name", "table_type")]
        tables = exp.select(*columns).from_("information_schema.tables")
        found = self.query(tables.where("table_catalog = current_database()"))
        return sorted(found, key=lambda row: "VIEW" not in row[2].upper())

    def tables_with(self, column: str, schema: str) -> list[str]:
        """Return the tables of a schema that have a column."""
        wanted = exp.select("table_name").from_("information_schema.columns")
        wanted = wanted.where("table_catalog = current_database()")
        wanted = wanted.where(exp.column("column_name").eq(exp.Literal.string(column)))
        wanted = wanted.where(exp.column("table_schema").eq(exp.Literal.string(schema)))
        tables = {name for found, name, kind in self.relations() if found == schema and "VIEW" not in kind.upper()}
        return [name for (name,) in self.query(wanted) if name in tables]


def _on(statement: str, table: Node) -> Node:
    """Return the statement with ``table`` in the place of ``target``."""
    tree: Node = exp.maybe_parse(statement, dialect="duckdb")
    for found in list(tree.find_all(exp.Table)):
        if found.name == "target":
            found.replace(table.copy())
    return tree


def _utc(value: Any) -> Any:
    if not isinstance(value, dt.datetime):
        return value
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
