"""Bad rows beside good ones: what is kept of them, where, and in how much memory."""

from __future__ import annotations

import datetime as dt
import logging
import tracemalloc
from decimal import Decimal

import pyarrow as pa
import pytest

from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.staging import partwriter
from onerow.adapters.staging.checks import RowChecks
from onerow.adapters.staging.files import FileParts
from onerow.adapters.staging.readers import open_source
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import PartRefusedError, StagingError
from onerow.services.stager import Stager
from onerow.testing.memory_parts import MemoryParts

COLUMNS = {"k": "string", "line": "decimal(6,2)", "seq": "int64", "note": "json", "share": "float64"}


def spec(**changes):
    given = {
        "name": "t", "target": ("t",), "key": ("k",), "order_by": ("seq",), "on_bad_row": "quarantine",
        "columns": tuple(Column(name, parse_type(kind)) for name, kind in COLUMNS.items()),
        "checks": (("is_a_share", "share between 0 and 1"),),
    }  # fmt: skip
    return TableSpec(**{**given, **changes})


@pytest.fixture(params=["files", "memory"])
def parts(request, tmp_path):
    return MemoryParts() if request.param == "memory" else file_parts(tmp_path)


def file_parts(tmp_path):
    return FileParts(tmp_path / "staging", clock=SystemClock(), ids=SystemIds())


def stage(parts, rows, table=None, **more):
    stager = Stager(parts=parts, checks_for=RowChecks)
    return stager.stage(table or spec(), open_source(rows), batch=more.pop("batch", "b"), worker="w")


def row(number, **changes):
    return {"k": f"k{number}", "line": "24.5", "seq": number, "note": {"n": number}, "share": 0.5, **changes}


def test_bad_values_and_broken_checks_are_put_aside_and_the_rest_is_staged(parts, caplog):
    caplog.set_level(logging.INFO)
    rows = [
        row(1),
        row(2, line="24.555", seq=None),
        row(3, share=1.5),
        row(4, seq=2**70, note=[1, {"a": None}], share=float("inf")),
        row(5, k="x\0y", line=Decimal("1e10")),
        row(6),
    ]
    told = stage(parts, rows)
    assert (told.rows, told.rows_quarantined) == (2, 4)
    found = list(parts.quarantined_rows("t", told.quarantine_id))
    assert [bad.position for bad in found] == [2, 3, 4, 5]
    assert [len(bad.problems) for bad in found] == [1, 1, 1, 2]
    assert found[1].problems == ("column 'is_a_share': is a check of the table that this row does not pass",)
    assert found[0].values == {"k": "k2", "line": "24.555", "seq": None, "note": '{"n":2}', "share": "0.5"}
    assert found[2].values["seq"] == str(2**70)
    assert found[2].values["note"] == '[1,{"a":null}]'
    assert found[3].values["k"] == "x\0y"
    assert Decimal(found[3].values["line"]) == Decimal("1e10")
    (event,) = [record for record in caplog.records if record.message == "onerow.rows_quarantined"]
    assert event.levelno == logging.WARNING
    assert event.facts["rows_quarantined"] == 4
    assert event.facts["quarantine"] == told.quarantine_id
    assert "24.555" not in str(event.facts), "no data values in logs"


def test_the_default_still_refuses_the_whole_source(parts):
    with pytest.raises(PartRefusedError, match="1 row breaks"):
        stage(parts, [row(1), row(2, line="24.555")], spec(on_bad_row="refuse"))
    assert list(parts.quarantined("t")) == []
    assert list(parts.batches("t")) == []


@pytest.mark.parametrize("columns", [{"k": "a", "seq": 1, "odd": 2}, {"k": "a"}])
def test_columns_refuse_the_whole_source(parts, columns):
    with pytest.raises(PartRefusedError, match="columns are not those"):
        stage(parts, [columns])
    assert list(parts.quarantined("t")) == []


def test_positions_count_through_all_batches_of_a_file(tmp_path):
    parts = file_parts(tmp_path)
    long = "k" * 150  # so that the file is read in several batches
    lines = ["k,line,seq,note,share"]
    lines += [f"{long}{number},{'x' if number % 5000 == 0 else 1},{number},1,0.5" for number in range(1, 20_001)]
    path = tmp_path / "large.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = stage(parts, path)
    assert (told.rows, told.rows_quarantined) == (19_996, 4)
    found = list(parts.quarantined_rows("t", told.quarantine_id))
    assert [bad.position for bad in found] == [5000, 10_000, 15_000, 20_000]
    assert {bad.values["line"] for bad in found} == {"x"}
    assert stage(parts, path).quarantine_id == told.quarantine_id


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (pa.array([dt.datetime(2026, 1, 11, 1, 6, 34)], pa.timestamp("ns")), "2026-01-11T01:06:34Z"),
        (pa.array([dt.date(2026, 1, 11)]), "2026-01-11"),
        (pa.array([b"\xff\x00a"], pa.binary()), "\\xff\0a"),
        (pa.array(["zwei"]).dictionary_encode(), "zwei"),
        (pa.array([[1, 2]]), "[1,2]"),
        (pa.array([True]), "true"),
        (pa.array([dt.time(1, 2)]), "<a value of type time64[us]>"),
        (pa.array([None], pa.string()), None),
    ],
)
def test_every_sort_of_value_has_a_text(parts, array, shown):
    table = pa.table({"k": pa.array([None], pa.string()), "seq": pa.array(["none"]), "note": array})
    told = stage(parts, table)
    (bad,) = parts.quarantined_rows("t", told.quarantine_id)
    assert bad.values == {"k": None, "seq": "none", "note": shown}


def test_bad_rows_are_durable_before_the_part_is(tmp_path, monkeypatch):
    """A crash between the two leaves the entry, and staging again completes it."""
    parts = file_parts(tmp_path)

    def crash(self):
        raise OSError("the machine went down")

    with monkeypatch.context() as patch:
        patch.setattr(partwriter.PartFile, "finish", crash)
        with pytest.raises(StagingError):
            stage(parts, [row(1), row(2, seq="x")])
    assert list(parts.batches("t")) == []
    (entry,) = parts.quarantined("t")
    assert len(list(parts.quarantined_rows("t", entry.quarantine_id))) == 1
    told = stage(parts, [row(1), row(2, seq="x")])
    assert (told.status, told.quarantine_id) == ("staged", entry.quarantine_id)
    assert len(parts.quarantined("t")) == 1


def test_lost_and_damaged_files(tmp_path):
    parts = file_parts(tmp_path)
    told = stage(parts, [row(1), row(2, seq="x")])
    folder = parts.table_folder("t") / "quarantine"
    (data,) = folder.glob("*.ndjson")
    data.unlink()
    with pytest.raises(StagingError, match="lost or are not what"):
        list(parts.quarantined_rows("t", told.quarantine_id))
    assert stage(parts, [row(1), row(2, seq="x")]).status == "already_staged", "and the rows are there again"
    assert len(list(parts.quarantined_rows("t", told.quarantine_id))) == 1
    (folder / "q0.0.ndjson").touch()
    abandoned = folder / f"q{'0' * 32}.abc.ndjson"
    abandoned.touch()
    assert parts.remains(older_than_s=0) == [str(abandoned)]
    (folder / f"{told.quarantine_id}.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(StagingError, match="is damaged"):
        parts.quarantined("t")
    assert len(parts.parts("t", "b")) == 1, "the part beside it is not touched"


def test_bad_rows_do_not_stand_in_memory(tmp_path):
    """What is put aside is written as it comes."""
    parts = file_parts(tmp_path)
    batch = pa.table({"k": pa.array(["k"] * 200), "seq": pa.array(["x" * 5000] * 200)})

    class Source:
        name, text_mode, row_word, column_names = "endless", False, "row", ("k", "seq")

        def batches(self):
            for _ in range(20):
                yield from batch.to_batches()

        def close(self):
            pass

    stager = Stager(parts=parts, checks_for=RowChecks)
    tracemalloc.start()
    try:
        told = stager.stage(spec(checks=()), Source(), batch="b", worker="w")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told.rows_quarantined == 20 * 200
    data_bytes = sum(path.stat().st_size for path in (parts.table_folder("t") / "quarantine").glob("*.ndjson"))
    assert data_bytes > 20_000_000
    assert peak_bytes < 10_000_000
