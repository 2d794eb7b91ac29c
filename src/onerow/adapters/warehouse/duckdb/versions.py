"""Versions mode: rows are only ever inserted, each different content of a key as a numbered version.

The steps are those of ``merge``; merging and verifying differ. A version's identity is its content, all declared
columns of it: what the table has already is not inserted again, whatever the ledger has forgotten. Numbers are given
under the guard, in order of arrival; several new contents of one key are numbered from the oldest on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.warehouse.duckdb.database import row, rows
from onerow.adapters.warehouse.duckdb.merge import Transaction, expect
from onerow.adapters.warehouse.duckdb.steps import partition_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.core.plans import MergeCounts

REPEATED = "business keys of {table!r} have one content under several versions"


class VersionsTransaction(Transaction):
    """The steps of one plan for a table in versions mode."""

    def merge(self) -> None:
        """Insert the contents that are new; what is there already, or twice in the batch, is unchanged."""
        run, statements, tallies = self.connection, self.statements, self.prepared.tallies
        run.execute(statements["view_touched"])
        for value, found in rows(run, statements["count_touched"]):
            self._tally(value).before = found
        run.execute(statements["hold"])
        run.execute(statements["classify"])
        met = staged_met = 0
        for value, found, staged_met in rows(run, statements["count_met"]):  # noqa: B007 -- the same in every row
            self._tally(value).tied = found
            met += found
        for tally in tallies.values():
            tally.beaten = tally.beaten_unchanged = tally.staged - tally.winners
        if met != staged_met:  # a staged content met two rows
            self._refuse_repeated()
        new = sum(tally.winners - tally.tied for tally in tallies.values())
        run.execute(statements["find_latest"])
        if new:
            (inserted,) = row(run, statements["insert_versions"])
            expect("versions inserted", inserted, new)

    def verify(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Read the touched partitions back.

        No key has a version twice; none of the staged keys a content twice, or a hole before its new versions; every
        staged content is there; counts add up.
        """
        seen: dict[str | None, int] = {}
        numbers = unnumbered = 0
        for value, found, numbers, unnumbered in rows(self.connection, self.statements["verify_versions"]):  # noqa: B007
            seen[partition_name(self.plan.spec, value)] = found
        if numbers != sum(seen.values()):
            self._refuse_duplicates()
        expect("rows without a version", unnumbered, 0)
        self._verify_counts(seen, counts)
        self.connection.execute(self.statements["look_again"])
        found, contents = row(self.connection, self.statements["count_contents"])
        if found != contents:
            self._refuse_repeated()
        (present,) = row(self.connection, self.statements["verify_staged"])
        expect("staged rows in the table", present, sum(tally.winners for tally in self.prepared.tallies.values()))
        (misnumbered,) = row(self.connection, self.statements["count_misnumbered"])
        expect("keys whose new versions do not follow their latest one", misnumbered, 0)

    def _refuse_repeated(self) -> None:
        self.connection.execute(self.statements["look_again"])
        self._refuse_duplicates("find_repeated", REPEATED)
