"""The part store: where parts wait until they are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from onerow.core.parts import BadRow, PartManifest, Quarantined, StagedPart
    from onerow.core.spec import TableSpec


class PartWriter(Protocol):
    """One part on its way in. Nothing of it exists until ``publish`` has returned."""

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows that keep the row contract, in the spec's types and column order."""
        ...

    def put_aside(self, rows: Sequence[BadRow], *, source: str) -> None:
        """Take rows that break the contract; ``publish`` puts them into quarantine, durably, before the part."""
        ...

    def publish(self) -> StagedPart:
        """Make the part exist, whole and durable, once: the same rows again find the part that is there.

        Rows that were put aside are in quarantine first, and counted in the result.
        """
        ...

    def abandon(self) -> None:
        """Forget everything that was written. Idempotent; no effect after ``publish``."""
        ...


class PartStore(Protocol):
    """Parts by identity.

    Raises StagingError when it cannot be read or written, PartCorruptError for a damaged manifest.
    """

    def writer(self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str]) -> PartWriter:
        """Begin a part that has the given columns of ``spec``."""
        ...

    def batches(self, table: str) -> Sequence[str]:
        """Return the batches of ``table`` that have manifests in any state, sorted."""
        ...

    def parts(self, table: str, batch: str) -> Sequence[PartManifest]:
        """Return the batch's parts in every state, sorted by identity.

        Guarantee: exact names; no part of another batch, whatever it is called.
        """
        ...

    def retire(self, parts: Iterable[PartManifest]) -> int:
        """Mark parts as merged, by identity; their data stays for the time of retention.

        Returns:
            How many of them changed their state. Idempotent.
        """
        ...

    def retired(self, table: str, *, older_than_s: float) -> Sequence[PartManifest]:
        """Return the parts of ``table`` that were retired at least so long ago and still have data."""
        ...

    def purge(self, parts: Iterable[PartManifest]) -> int:
        """Remove the data of retired parts, by identity; their names stay known.

        Returns:
            How many had data. Idempotent. A part that is not retired is left alone.
        """
        ...

    def discard(self, parts: Iterable[PartManifest], *, reason: str, by: str) -> int:
        """Give up parts that were never merged, by identity, leaving their names and the reason."""
        ...

    def quarantined(self, table: str) -> Sequence[Quarantined]:
        """Return what was put aside for ``table``, by batch, worker and identity."""
        ...

    def quarantined_rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of one entry, by position.

        Raises:
            UsageError: there is no such entry.
            StagingError: it cannot be read.
        """
        ...

    def remains(self, *, older_than_s: float) -> Sequence[str]:
        """Return what crashed writers have left behind and nobody can see: places, for people."""
        ...

    def remove_remains(self, *, older_than_s: float) -> Sequence[str]:
        """Remove what ``remains`` returns, and return it."""
        ...

    def probe(self) -> Sequence[str]:
        """Check that it can be written to.

        Returns:
            Facts for ``doctor``, as lines.
        """
        ...
