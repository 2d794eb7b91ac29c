"""Versions mode: rows are only ever inserted, each different content of a key as a numbered version.

The steps are those of ``merge``; merging and verifying differ. A version's identity is its content, all declared
columns of it: what the table has already is not inserted again, whatever the ledger has forgotten. Numbers are given
under the guard, in order of arrival; several new contents of one key are numbered from the oldest on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.postgresql.connection import row, rows, run
from onerow.adapters.warehouse.postgresql.merge import RefusedError, Transaction, duplicates_refusal
from onerow.adapters.warehouse.postgresql.target import holds_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.core.plans import MergeCounts

REPEATED = "business keys of {table!r} have one content under several versions"


class VersionsTransaction(Transaction):
    """The steps of one plan for a table in versions mode."""

    def merge(self) -> None:
        """Insert the contents that are new; what is there already, or twice in the batch, is unchanged."""
        statements, tallies = self.statements, self.prepared.tallies
        run(self.connection, statements["meet"])
        run(self.connection, statements["analyze_met"])
        for value, known, repeated in rows(self.connection, statements["count_met"]):
            self._tally(value).tied = known
            if repeated:
                self._refuse_repeated()
        for tally in tallies.values():
            tally.beaten = tally.beaten_unchanged = tally.staged - tally.winners
        written = run(self.connection, statements["insert_versions"])
        self._expect("versions inserted", written, sum(tally.winners - tally.tied for tally in tallies.values()))

    def verify(self, counts: Mapping[str | None, MergeCounts]) -> None:
        """Read the touched partitions back.

        No key has a version twice; none of the staged keys a content twice, or a hole before its new versions; every
        staged content is there; counts add up.
        """
        if not (self.statements.target.enforced and holds_key(self.connection, self.plan.spec)):
            (doubled,) = row(self.connection, self.statements["verify_keys"])
            if doubled:
                self.refuse_duplicates()
        (unnumbered,) = row(self.connection, self.statements["count_unnumbered"])
        self._expect("rows without a version", unnumbered, 0)
        self._verify_counts(counts)
        (repeated,) = row(self.connection, self.statements["count_repeated"])
        if repeated:
            self._refuse_repeated()
        found, contents, misnumbered = row(self.connection, self.statements["verify_versions"])
        self._expect("rows of staged contents", found, contents)
        self._expect(
            "staged rows in the table", contents, sum(tally.winners for tally in self.prepared.tallies.values())
        )
        self._expect("rows whose version does not follow their key's latest one", misnumbered, 0)

    def _refuse_repeated(self) -> None:
        run(self.connection, self.statements["settle"])
        found = rows(self.connection, self.statements["find_repeated_contents"], 1000)
        if found:
            raise RefusedError(duplicates_refusal(self.plan.spec, found, REPEATED))
