"""What every part store has to do with rows that break the row contract."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from onerow.core.parts import BadRow
from onerow.core.rows import arrow_schema
from onerow.errors import StagingError, UsageError
from onerow.testing.conformance.asking import Checks, raises, together
from onerow.testing.conformance.rows import SPEC, only, part_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.ports.partstore import PartStore, PartWriter
    from onerow.testing.conformance.harness import PartStoreHarness

CHECKS: Checks[PartStoreHarness] = Checks()

BAD = (
    BadRow(2, ("column 'line': '24.555' does not fit",), {"k": "k2", "line": "24.555", "note": None}),
    BadRow(
        7,
        ("column 'k': is NULL", "column 'note': has the character U+0000"),
        {"k": None, "line": "", "note": "é🏀\x00\u2028\"'\\\r\n\t", 'odd "column"; --': "NaN"},
    ),
)


def _begin(
    store: PartStore, bad: Sequence[BadRow] = BAD, *, rows: int = 3, batch: str = "b", worker: str = "w"
) -> PartWriter:
    writer = store.writer(SPEC, batch=batch, worker=worker, columns=SPEC.column_names)
    writer.write(pa.RecordBatch.from_pylist(part_rows(rows), schema=arrow_schema(SPEC.columns)))
    for row in bad:  # in several calls, as they come
        writer.put_aside([row], source="props.csv")
    return writer


@CHECKS.add
def bad_rows_are_put_aside_as_they_came(harness: PartStoreHarness) -> None:
    """The good rows are the part; the others come back with position, reasons and every character."""
    told = _begin(harness.store()).publish()
    assert (told.status, told.rows, told.rows_quarantined) == ("staged", 3, 2)
    store = harness.store()
    assert len(harness.rows(only(store))) == only(store).rows == 3
    (entry,) = store.quarantined(SPEC.name)
    assert entry.quarantine_id == told.quarantine_id
    assert (entry.table, entry.batch, entry.worker, entry.source) == (SPEC.name, "b", "w", "props.csv")
    assert entry.rows == 2
    assert entry.put_aside_at
    assert tuple(store.quarantined_rows(SPEC.name, entry.quarantine_id)) == BAD
    assert list(store.remains(older_than_s=0)) == []


@CHECKS.add
def the_same_source_again_is_one_part_and_one_entry(harness: PartStoreHarness) -> None:
    """Told again with the same count; other rows, workers and batches are other entries."""
    first = _begin(harness.store()).publish()
    again = _begin(harness.store()).publish()
    assert (again.status, again.rows_quarantined) == ("already_staged", 2)
    assert again.quarantine_id == first.quarantine_id
    store = harness.store()
    assert len(store.quarantined(SPEC.name)) == 1
    _begin(store, BAD[:1]).publish()
    _begin(store, worker="a").publish()
    _begin(store, batch="a").publish()
    found = store.quarantined(SPEC.name)
    assert [(entry.batch, entry.worker) for entry in found] == [("a", "w"), ("b", "a"), ("b", "w"), ("b", "w")]
    assert len({entry.quarantine_id for entry in found}) == 4
    assert list(store.quarantined("another table")) == []


@CHECKS.add
def a_source_with_nothing_but_bad_rows_is_no_part(harness: PartStoreHarness) -> None:
    """Nothing is staged of it; its rows are in quarantine."""
    store = harness.store()
    told = _begin(store, rows=0).publish()
    assert (told.status, told.rows, told.rows_quarantined) == ("empty", 0, 2)
    assert list(store.batches(SPEC.name)) == []
    assert tuple(store.quarantined_rows(SPEC.name, told.quarantine_id)) == BAD


@CHECKS.add
def what_is_not_published_is_not_in_quarantine(harness: PartStoreHarness) -> None:
    """Neither while it is written nor after it was given up; a part without bad rows has no entry."""
    store = harness.store()
    writer = _begin(store)
    assert list(harness.store().quarantined(SPEC.name)) == []
    writer.abandon()
    writer.abandon()
    told = _begin(store, ()).publish()
    assert (told.rows_quarantined, told.quarantine_id) == (0, "")
    assert list(store.quarantined(SPEC.name)) == []
    assert list(store.remains(older_than_s=0)) == []


@CHECKS.add
def an_entry_that_is_not_there_is_an_error(harness: PartStoreHarness) -> None:
    """Also one of another table, and names that are none."""
    store = harness.store()
    told = _begin(store).publish()
    asked = [(SPEC.name, "q" + "0" * 32), ("other", told.quarantine_id), (SPEC.name, "../x"), (SPEC.name, "")]
    for table, quarantine_id in asked:
        with raises(UsageError):
            list(store.quarantined_rows(table, quarantine_id))


@CHECKS.add
def a_damaged_entry_is_an_error(harness: PartStoreHarness) -> None:
    """Loud when it is read; the part beside it can be merged."""
    store = harness.store()
    told = _begin(store).publish()
    harness.damage_quarantine(SPEC.name, told.quarantine_id)
    with raises(StagingError):
        list(store.quarantined_rows(SPEC.name, told.quarantine_id))
    assert len(harness.rows(only(store))) == 3


@CHECKS.add
def two_who_put_the_same_rows_aside_at_once(harness: PartStoreHarness) -> None:
    """There is one entry, whole, and both are told of it."""
    for number in range(5):
        writers = [_begin(harness.store(), batch=f"b{number}") for _ in range(3)]
        told = together([partial(writer.publish) for writer in writers])
        assert len({part.quarantine_id for part in told}) == 1
        assert {part.rows_quarantined for part in told} == {2}
        assert tuple(harness.store().quarantined_rows(SPEC.name, told[0].quarantine_id)) == BAD
    assert len(harness.store().quarantined(SPEC.name)) == 5
    assert list(harness.store().remains(older_than_s=0)) == []


@CHECKS.add
def many_bad_rows_come_back_in_order(harness: PartStoreHarness) -> None:
    """In several calls with many rows each."""
    store = harness.store()
    writer = _begin(store, ())
    rows = [BadRow(number, ("column 'k': is NULL",), {"k": None, "note": "x" * 50}) for number in range(1, 3001)]
    for first in range(0, 3000, 1000):
        writer.put_aside(rows[first : first + 1000], source="large.csv")
    told = writer.publish()
    assert told.rows_quarantined == 3000
    assert list(store.quarantined_rows(SPEC.name, told.quarantine_id)) == rows
