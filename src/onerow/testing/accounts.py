"""What a table must hold by what was merged into it: the plain rules once more, for the checker of the simulation.

An account is told every row that was merged, and says what is wrong with the rows that a table has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from onerow.testing.memory_tables import Key, Row, key_text, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from onerow.core.spec import TableSpec

Wrong = tuple[str, str]
"""An invariant and what breaks it."""


class Account(Protocol):
    """What a table must hold."""

    def expect(self, row: Row) -> None:
        """Take one more merged row into account; it has the declared columns."""
        ...

    def compare(self, partition: str | None, rows: Sequence[Row]) -> Iterator[Wrong]:
        """Say what is wrong with the rows of a partition."""
        ...

    def close(self, rows: Sequence[Row]) -> Iterator[Wrong]:
        """Say what is wrong with the whole table at the end."""
        ...


class NewestRows:
    """Of an upsert table: the newest row of each key."""

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._newest: dict[str | None, dict[Key, Row]] = {}

    def expect(self, row: Row) -> None:
        """Keep it if it is the newest of its key."""
        layout = layout_of(self._spec)
        rows = self._newest.setdefault(layout.partition_of(row), {})
        key = layout.key(row)
        if key not in rows or layout.order(rows[key]) < layout.order(row):
            rows[key] = row

    def compare(self, partition: str | None, rows: Sequence[Row]) -> Iterator[Wrong]:
        """Every key has its newest row, and there are no others."""
        layout, expected = layout_of(self._spec), self._newest.get(partition, {})
        found = {layout.key(row): row for row in rows}
        for key, row in expected.items():
            if key not in found:
                yield "I2", f"the row of {key_text(self._spec, key)} is missing"
            elif found[key] != row:
                yield "I3", f"{key_text(self._spec, key)} is {found[key]}, not {row}"
        if len(found) > len(expected):
            yield "I2", f"partition {partition} has rows that nobody staged"

    def close(self, rows: Sequence[Row]) -> Iterator[Wrong]:
        """The table is the plain reference."""
        final = sorted(rows, key=repr)
        reference = sorted((row for newest in self._newest.values() for row in newest.values()), key=repr)
        if final != reference:
            yield "I3", f"the table ends as {final}, not as {reference}"


class AllContents:
    """Of a versions table: every different content once, under a number that never changes."""

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._contents: dict[str | None, dict[Key, Row]] = {}
        self._numbers: dict[str | None, dict[Key, int]] = {}

    def expect(self, row: Row) -> None:
        """Keep it."""
        layout = layout_of(self._spec)
        self._contents.setdefault(layout.partition_of(row), {})[layout.content(row)] = row

    def compare(self, partition: str | None, rows: Sequence[Row]) -> Iterator[Wrong]:
        """Every content is there once, numbered as it was; the current row of a key is its newest."""
        layout, expected = layout_of(self._spec), self._contents.get(partition, {})
        numbers: dict[Key, int] = {}
        for row in rows:
            content = layout.content(row)
            if content in numbers:
                yield "I6", f"{key_text(self._spec, layout.key(row))} has one content under several versions"
            if content not in expected:
                yield "I2", f"{key_text(self._spec, layout.key(row))} has a version that nobody staged: {row}"
            numbers[content] = layout.version_of(row)
        for content, row in expected.items():
            if content not in numbers:
                yield "I2", f"a version of {key_text(self._spec, layout.key(row))} is missing: {row}"
        for content, number in self._numbers.get(partition, {}).items():
            if content in numbers and numbers[content] != number:
                yield "I2", f"version {number} has become {numbers[content]}: {expected.get(content)}"
        self._numbers[partition] = numbers
        if self._current(row[: layout.width] for row in rows) != self._current(expected.values()):
            yield "I3", f"the current rows of partition {partition} are not the newest"

    def close(self, rows: Sequence[Row]) -> Iterator[Wrong]:
        """Every partition is as it should be, and each key's versions are numbered without holes."""
        layout = layout_of(self._spec)
        versions: dict[Key, list[int]] = {}
        for partition in {*self._contents, *map(layout.partition_of, rows)}:
            yield from self.compare(partition, [row for row in rows if layout.partition_of(row) == partition])
        for row in rows:
            versions.setdefault(layout.key(row), []).append(layout.version_of(row))
        for key, numbers in versions.items():
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                yield "I1", f"{key_text(self._spec, key)} has the versions {sorted(numbers)}"

    def _current(self, rows: Iterable[Row]) -> dict[Key, Row]:
        """Return the newest row of each key."""
        layout = layout_of(self._spec)
        newest: dict[Key, Row] = {}
        for row in rows:
            newest[layout.key(row)] = max(newest.get(layout.key(row), row), row, key=layout.order)
        return newest


def account_of(spec: TableSpec) -> Account:
    """Return an empty account of a table."""
    return NewestRows(spec) if spec.mode == "upsert" else AllContents(spec)
