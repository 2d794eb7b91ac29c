"""Versions mode: rows are only ever inserted, each different content of a key as a numbered version.

The steps are those of a merge; merging and verifying differ. Numbers are given under the guard, in order of arrival;
several new contents of one key are numbered from the oldest on.
"""

from __future__ import annotations

from onerow.adapters.bigquery.names import column
from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.script import MergeSteps


class VersionsSteps(MergeSteps):
    """The steps of a plan for a table in versions mode."""

    file = "versions.sql"

    def merge(self) -> list[str]:
        """Insert the contents that are new; what is there already, or twice in the batch, is unchanged."""
        spec = self.statements.spec
        staged = sql.STAGED
        fresh = [self.statements.columns.written(name) for name in spec.column_names]
        oldest = sql.in_order([column(name, staged) for name in spec.comparison], newest=False)
        return [
            *self.check(self.statements(self.file, "refuse_repeated")),
            self.history(self._query("counts", tasks=self._tasks()), **self._about()),
            self.statements(self.file, "insert_versions", fresh_values=fresh, oldest_staged_first=oldest),
        ]

    def verify(self) -> list[str]:
        """Read the touched partitions back.

        No key has a version twice; every row has one; none of the staged keys a content twice; every staged content is
        there; counts add up.
        """
        return self.check(
            self.statements("repair.sql", "refuse_rows"),
            self.statements(self.file, "refuse_unnumbered"),
            self.statements(self.file, "refuse_repeated"),
            self.statements(self.file, "refuse_staged"),
            self.refuse_counts(),
        )
