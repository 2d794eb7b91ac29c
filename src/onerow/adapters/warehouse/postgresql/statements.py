"""The statements of ``merge.sql`` for a table and its partitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.target import compared, equals, staged_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.warehouse.postgresql.target import Target
    from onerow.core.partitions import PartitionValue
    from onerow.core.spec import TableSpec


_OVER_PATTERNS: Final[Mapping[str, Mapping[str, str]]] = {
    "count_outcomes": {"met": "met"},
    "count_beaten": {"met": "met_again"},
    "verify_staged": {"met": "met"},
    "meet": {"met": "met"},
    "verify_versions": {"found": "found"},
    "count_repeated": {"repeated": "repeated"},
}
"""Which pieces of a statement are joins of staged rows and target, one for each pattern of NULLs in the key."""


@dataclass
class Statements:
    """Renders the statements of one plan.

    Attributes:
        values: the plan's partitions; () for a table without.
        patterns: which key columns are NULL, for every combination that is staged: bits in the order of ``nullable``.
    """

    spec: TableSpec
    target: Target
    values: tuple[PartitionValue, ...]
    patterns: Sequence[int] = (0,)
    _pieces: dict[str, sql.Piece] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = self.spec
        self._pieces = {
            "target": self.target.table,
            "staged": sql.STAGED,
            "losers": sql.LOSERS,
            "partition": _partition(spec, "s"),
            "identity": sql.columns(spec.identity, "s"),
            # What makes two staged rows one: the key, and in versions mode the whole content.
            "same": sql.SQL(", ").join(
                self._compared(name, "s")
                for name in (spec.identity if spec.mode == "upsert" else (*spec.identity, *spec.comparison))
            ),
            "identity_of_target": sql.SQL(", ").join(self._compared(name, "t") for name in spec.row_identity),
            "identity_as_text": sql.SQL(", ").join(
                sql.SQL("{}::text").format(self._compared(name, "t")) for name in spec.row_identity
            ),
            "newest_first": sql.SQL(", ").join(
                sql.SQL("{} desc nulls last").format(self._compared(name, "s")) for name in spec.comparison
            ),
            **self._of_versions(),
            "columns": sql.columns(spec.column_names),
            "values": sql.columns(spec.column_names, "s"),
            "newer": self.newer(spec.comparison, "s", "t"),
            "when_newer": self._when_newer(),
            "touched": in_partitions(spec, self.values, "t"),
            "analyzed": sql.columns(["__onerow_pattern", *([] if spec.partition is None else [spec.partition])]),
            "staged_columns": self._staged_columns(),
            "pattern": self._pattern(),
            "in_order": self._in_order(),
        }

    def __getitem__(self, name: str) -> sql.Composed:
        return self.render(name)

    def render(self, name: str, **more: sql.Piece) -> sql.Composed:
        """Return a statement."""
        pieces = {**self._pieces, **more}
        for piece, part in _OVER_PATTERNS.get(name, {}).items():
            pieces[piece] = sql.SQL(" union all ").join(self.of_pattern(part, pattern) for pattern in self.patterns)
        return self._template(name).format(**pieces)

    def of_pattern(self, name: str, pattern: int) -> sql.Composed:
        """Return a statement for the keys whose NULLs are those of ``pattern``."""
        pieces = {**self._pieces, "wanted": sql.Literal(pattern), "same_key": self._same_key(pattern)}
        return self._template(name).format(**pieces)

    def merge_and_tell(self, pattern: int) -> sql.Composed:
        """Return the merge of the keys whose NULLs are those of ``pattern``, which tells what it did by partition."""
        return self._template("merge_and_tell").format(
            merge=self.of_pattern("merge", pattern), partition_of_target=_partition(self.spec, "t")
        )

    def _template(self, name: str) -> sql.SQL:
        if self.spec.mode == "versions":
            return sql.templates("versions.sql").get(name) or sql.templates("merge.sql")[name]
        return sql.templates("merge.sql")[name]

    @property
    def nullable(self) -> tuple[str, ...]:
        """The columns of the identity that may be NULL."""
        return tuple(name for name in self.spec.identity if name != self.spec.partition)

    def newer(self, names: Sequence[str], left: str, right: str) -> sql.Piece:
        """Return 1, 0 or -1: whether the left row is newer, tied or older, column by column, NULL lowest."""
        cases = []
        for name in names:
            a, b = self._compared(name, left), self._compared(name, right)
            cases.append(
                sql.SQL(
                    "when {a} is distinct from {b} then case when {b} is null or {a} > {b} then 1 else -1 end"
                ).format(a=a, b=b)
            )
        if not cases:
            return sql.SQL("0")
        return sql.SQL("(case {} else 0 end)").format(sql.SQL(" ").join(cases))

    def _compared(self, name: str, table: str) -> sql.Piece:
        return compared(self.target.by_name.get(name), name, table)

    def _same_key(self, pattern: int) -> sql.Piece:
        """Return the exact equality of the keys with these NULLs, in equalities that an index can serve."""
        empty = {name for bit, name in enumerate(self.nullable) if pattern >> bit & 1}
        columns = self.target.by_name
        return sql.all_of(
            [
                sql.SQL("{} is null").format(sql.column(name, "t"))
                if name in empty
                else equals(columns[name], name, "t", "s")
                for name in self.spec.identity
            ]
        )

    def _pattern(self) -> sql.Piece:
        terms = [
            sql.SQL("case when {} is null then {} else 0 end").format(sql.column(name), sql.Literal(1 << bit))
            for bit, name in enumerate(self.nullable)
        ]
        return sql.SQL("({})").format(sql.SQL(" + ").join(terms)) if terms else sql.SQL("0")

    def _in_order(self) -> sql.Piece:
        if self.spec.partition is None or len(self.values) == 1:
            return sql.SQL("")
        return sql.SQL("order by {}").format(sql.column(self.spec.partition))

    def _of_versions(self) -> dict[str, sql.Piece]:
        spec = self.spec
        if spec.mode != "versions" or spec.version_column is None:
            return {}
        names = [f"k{place}" for place, _ in enumerate(spec.identity)]
        return {
            "version": sql.column(spec.version_column),
            "oldest_first": sql.SQL(", ").join(
                sql.SQL("{} asc nulls first").format(self._compared(name, "s")) for name in spec.comparison
            ),
            "identity_of_found": sql.columns(names, "f"),
            "identity_named": sql.SQL(", ").join(
                sql.SQL("{} as {}").format(sql.column(name, "s"), sql.column(alias))
                for name, alias in zip(spec.identity, names, strict=True)
            ),
            "key_of_target": sql.SQL(", ").join(self._compared(name, "t") for name in spec.identity),
            "key_as_text": sql.SQL(", ").join(
                sql.SQL("{}::text").format(self._compared(name, "t")) for name in spec.identity
            ),
            "all_of_target": sql.SQL(", ").join(self._compared(name, "t") for name in spec.identity)
            + sql.SQL(", ")
            + sql.SQL(", ").join(self._compared(name, "t") for name in spec.comparison),
        }

    def _staged_columns(self) -> sql.Piece:
        columns = self.target.by_name
        return sql.SQL(", ").join(
            sql.SQL("{} as {}").format(staged_value(column, columns[column.name]), sql.column(column.name))
            for column in self.spec.columns
        )

    def _when_newer(self) -> sql.Piece:
        """Return the clause that replaces a row whole; none if all columns are of the key, so that nothing is newer."""
        rest = [name for name in self.spec.column_names if name not in self.spec.identity]
        if not rest:
            return sql.SQL("")
        return sql.SQL("when matched and {} = 1 then update set {}").format(
            self.newer(self.spec.comparison, "s", "t"),
            sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.column(name), sql.column(name, "s")) for name in rest),
        )


def in_partitions(spec: TableSpec, values: Sequence[PartitionValue], table: str | None = None) -> sql.Piece:
    """Return the condition that a row is in one of the partitions; true for a table without."""
    if spec.partition is None:
        return sql.SQL("true")
    kind = spec.by_name[spec.partition].type
    constants = sql.SQL(", ").join(sql.literal(value, kind) for value in values)
    return sql.SQL("{} in ({})").format(sql.column(spec.partition, table), constants)


def of_parts(spec: TableSpec, groups: Mapping[tuple[PartitionValue, ...], Sequence[int]]) -> sql.Piece:
    """Return the condition that a staged row is one of the plan's: parts by number, and which partitions of them."""
    conditions: list[sql.Piece] = []
    for values, numbers in groups.items():
        part = sql.SQL("{} = any ({}::bigint[])").format(sql.column(sql.PART), sql.Literal(list(numbers)))
        conditions.append(sql.all_of([part, in_partitions(spec, values)]) if values else part)
    return sql.any_of([sql.SQL("({})").format(condition) for condition in conditions])


def _partition(spec: TableSpec, table: str) -> sql.Piece:
    return sql.SQL("null::text") if spec.partition is None else sql.column(spec.partition, table)
