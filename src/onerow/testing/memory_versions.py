"""Versions mode in memory: numbering contents, checking the numbers, and taking an existing table into the mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.core.plans import MergeCounts
from onerow.errors import DuplicatesError
from onerow.testing.memory_tables import Key, Row, key_text, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onerow.core.plans import PartitionTask
    from onerow.core.spec import TableSpec
    from onerow.testing.memory_tables import Candidate, Layout, Transaction


def merge_versions(
    transaction: Transaction, task: PartitionTask, contents: Mapping[Key, Candidate], *, staged: int
) -> None:
    """Insert the contents that the partition lacks, numbered from the oldest on after the key's latest version."""
    layout = layout_of(transaction.before.spec)
    latest: dict[Key, int] = {}
    known = set()
    for _, row in transaction.view(task.partition):
        known.add(layout.content(row))
        latest[layout.key(row)] = max(latest.get(layout.key(row), 0), layout.version_of(row))
    fresh = [found.row for content, found in contents.items() if content not in known]
    for row in sorted(fresh, key=layout.order):
        number = latest[layout.key(row)] = latest.get(layout.key(row), 0) + 1
        transaction.inserted.append((*row, number))
    transaction.counts[task.partition] = MergeCounts(staged, len(fresh), 0, staged - len(fresh), 0)


def what_is_wrong(
    transaction: Transaction, task: PartitionTask, contents: Mapping[Key, Candidate]
) -> str | None:
    """Return what the merge has not done as it should, None if it has."""
    spec, layout = transaction.before.spec, layout_of(transaction.before.spec)
    rows = [row for _, row in transaction.view(task.partition)]
    stored = {layout.content(row) for row in rows}
    for content, candidate in contents.items():
        if content not in stored:
            return f"a staged row of {key_text(spec, layout.key(candidate.row))} is missing"
    before: dict[Key, int] = {}
    new: dict[Key, list[int]] = {}
    inserted = {id(row) for row in transaction.inserted}
    for row in rows:
        if id(row) in inserted:
            new.setdefault(layout.key(row), []).append(layout.version_of(row))
        else:
            before[layout.key(row)] = max(before.get(layout.key(row), 0), layout.version_of(row))
    for key, versions in new.items():
        first = before.get(key, 0) + 1
        if sorted(versions) != list(range(first, first + len(versions))):
            return f"the new versions of {key_text(spec, key)} do not follow its latest one"
    return None


def repeated_contents(rows: Iterable[Row], layout: Layout) -> dict[Key, int]:
    """Return the keys that have one content several times, with their number of rows too many."""
    seen: set[Key] = set()
    repeated: dict[Key, int] = {}
    for row in rows:
        content = layout.content(row)
        if content in seen:
            repeated[layout.key(row)] = repeated.get(layout.key(row), 0) + 1
        seen.add(content)
    return repeated


def numbered(rows: Mapping[int, Row], spec: TableSpec) -> dict[int, Row]:
    """Return the rows of a table with a version behind each, by key from the oldest on.

    Raises:
        DuplicatesError: rows are identical; nothing tells them apart.
    """
    layout = layout_of(spec)
    repeated = repeated_contents(rows.values(), layout)
    if repeated:
        raise DuplicatesError(
            f"{len(repeated)} keys of {spec.name!r} have identical rows, which cannot be versions.",
            keys=[key_text(spec, key) for key in repeated],
            hint=f"Remove the copies with `onerow dedupe --table {spec.name}` in upsert mode. Nothing was changed.",
        )
    latest: dict[Key, int] = {}
    result: dict[int, Row] = {}
    for place, row in sorted(rows.items(), key=lambda item: layout.order(item[1])):
        latest[layout.key(row)] = latest.get(layout.key(row), 0) + 1
        result[place] = (*row, latest[layout.key(row)])
    return result
