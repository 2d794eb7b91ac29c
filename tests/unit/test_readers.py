"""Files and tables of every kind come out as the same rows, and whatever is wrong with one is named."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from onerow.adapters.staging.readers import open_source
from onerow.core.buffers import text_bytes
from onerow.core.rows import RowConverter
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import InputFileError, PartRefusedError, UsageError

KINDS = {
    "name": "string",
    "day": "date",
    "line": "decimal(6,2)",
    "n": "int64",
    "x": "float64",
    "ok": "bool",
    "at": "timestamp",
}
SPEC = TableSpec(
    name="t",
    target=("t",),
    key=("name",),
    order_by=("at",),
    partition="day",
    columns=tuple(Column(name, parse_type(kind)) for name, kind in KINDS.items()),
)
DAY = dt.date(2026, 1, 11)
AT = dt.datetime(2026, 1, 11, 1, 6, 34, 538000, tzinfo=dt.UTC)
ROWS = [
    {"name": "a", "day": DAY, "line": Decimal("24.50"), "n": 1, "x": 0.1, "ok": True, "at": AT},
    {"name": "", "day": DAY, "line": Decimal("25.00"), "n": -(2**40), "x": 1.5, "ok": False, "at": AT},
    {"name": 'say "hi",\nbye', "day": DAY, "line": None, "n": None, "x": None, "ok": None, "at": AT},
    {"name": None, "day": DAY, "line": Decimal("0.00"), "n": 0, "x": 0.0, "ok": True, "at": AT},
]
TABLE = pa.table(
    {
        "name": [row["name"] for row in ROWS],
        "day": [row["day"] for row in ROWS],
        "line": [row["line"] for row in ROWS],
        "n": [row["n"] for row in ROWS],
        "x": [row["x"] for row in ROWS],
        "ok": [row["ok"] for row in ROWS],
        "at": pa.array([row["at"] for row in ROWS], pa.timestamp("us", "UTC")),
    }
)


def rows_of(source):
    """Return the converted rows of a source as dictionaries; every row must be good."""
    with open_source(source) as opened:
        converter = RowConverter(SPEC, text_mode=opened.text_mode, row_word=opened.row_word)
        found = []
        for batch in opened.batches():
            converted = converter.convert(batch, first_row=len(found) + 1)
            assert not converted.problems, [str(problem) for problem in converted.problems]
            found += converted.rows.to_pylist()
    return found


def texts_of(source):
    """Return the rows of a CSV file as lists of bytes."""
    with open_source(source) as opened:
        return [list(row.values()) for batch in opened.batches() for row in batch.to_pylist()]


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_csv(delimiter=","):
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(TABLE, sink, pa.csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue().to_pybytes()


def as_ndjson():
    def plain(value):
        return float(value) if isinstance(value, Decimal) else value.isoformat()

    return "".join(json.dumps(row, default=plain) + "\n" for row in ROWS).encode()


def as_parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    return sink.getvalue().to_pybytes()


def as_arrow(new):
    sink = pa.BufferOutputStream()
    with new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=3)
    return sink.getvalue().to_pybytes()


CONTENTS = {
    "a.csv": as_csv(),
    "A.CSV": b"\xef\xbb\xbf" + as_csv().replace(b"\n", b"\r\n").replace(b",\r\nbye", b",\nbye"),
    "a.tsv": as_csv("\t"),
    "a.ndjson": as_ndjson(),
    "a.jsonl": b"\xef\xbb\xbf" + as_ndjson().replace(b"\n", b"\r\n") + b"\n\n",
    "a.parquet": as_parquet(),
    "a.arrow": as_arrow(pa.ipc.new_file),
    "a.feather": as_arrow(pa.ipc.new_file),
    "a.arrows": as_arrow(pa.ipc.new_stream),
    "a.ipc": as_arrow(pa.ipc.new_stream),
}


def compressed(content, codec):
    if codec == ".gz":
        return gzip.compress(content)
    if codec == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return content


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_rows(tmp_path, name, codec):
    path = write(tmp_path / (name + codec), compressed(CONTENTS[name], codec))
    assert rows_of(path) == ROWS
    assert rows_of(str(path)) == ROWS


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda: TABLE, id="table"),
        pytest.param(lambda: pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]), id="chunked"),
        pytest.param(lambda: TABLE.to_batches()[0], id="batch"),
        pytest.param(TABLE.to_reader, id="reader"),
        pytest.param(lambda: pl.from_arrow(TABLE), id="polars"),
        pytest.param(lambda: pl.from_arrow(TABLE).with_columns(pl.col("name").cast(pl.Categorical)), id="categorical"),
        pytest.param(TABLE.to_pandas, id="pandas"),
        pytest.param(lambda: TABLE.to_pandas().set_index("x", drop=False), id="pandas index"),
        pytest.param(lambda: TABLE.to_pandas().convert_dtypes(), id="pandas nullable"),
        pytest.param(lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype), id="pandas arrow"),
        pytest.param(lambda: ROWS, id="rows"),
        pytest.param(lambda: tuple(ROWS), id="tuple"),
    ],
)  # fmt: skip
def test_every_kind_of_table_gives_the_same_rows(source):
    assert rows_of(source()) == ROWS


def test_large_tables_come_in_pieces():
    table = pa.table({"n": range(200_000)})
    with open_source(table) as source:
        sizes = [batch.num_rows for batch in source.batches()]
    assert sum(sizes) == 200_000
    assert max(sizes) <= 65_536
    wide = pa.table({"name": ["x" * 1_000_000] * 100})
    with open_source(wide) as source:
        assert max(batch.nbytes for batch in source.batches()) < 40_000_000


def test_doubled_columns_of_a_frame_are_refused_not_dropped():
    frame = pd.DataFrame([[1, 2]], columns=["n", "n"])
    with open_source(frame) as source, pytest.raises(PartRefusedError):
        RowConverter(SPEC, text_mode=False).columns_for(source.column_names)


def test_csv_tells_null_from_empty_and_keeps_text(tmp_path):
    path = write(tmp_path / "a.csv", 'a,b,c\n,"",007\n"x\ny","1,5"," z "\n')
    assert texts_of(path) == [[None, b"", b"007"], [b"x\ny", b"1,5", b" z "]]


def test_csv_of_one_column_keeps_its_empty_lines(tmp_path):
    assert texts_of(write(tmp_path / "a.csv", "a\n1\n\n2\n")) == [[b"1"], [None], [b"2"]]


@pytest.mark.parametrize("content", ["a,b\n", "a,b", "a,b\r\n", "\ufeffa,b"])
def test_csv_with_only_a_header_has_no_rows(tmp_path, content):
    with open_source(write(tmp_path / "a.csv", content)) as source:
        assert source.column_names == ("a", "b")
        assert list(source.batches()) == []


def test_csv_without_a_last_line_end(tmp_path):
    assert texts_of(write(tmp_path / "a.csv", "a,b\n1,2")) == [[b"1", b"2"]]


def test_csv_rows_of_other_lengths_are_named_up_to_ten(tmp_path):
    path = write(tmp_path / "a.csv", "a,b\n1,2\n1\n" + "1,2,3\n" * 20)
    with pytest.raises(InputFileError) as caught:
        texts_of(path)
    message = str(caught.value)
    assert "line 3: 1 fields" in message
    assert "line 4: 3 fields" in message
    assert "line 12: 3 fields" in message
    assert "line 13" not in message
    assert str(path) in message


def test_ragged_rows_far_into_a_file_have_their_line(tmp_path):
    path = write(tmp_path / "a.csv", "a,b\n" + '1,"2\n2"\n' * 800_000 + "1,2,3\n")
    with pytest.raises(InputFileError, match="line 1600002: 3 fields"):
        texts_of(path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('a,b\n1,2\n"1,2\n3,4\n', "line 3"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3"),
        ('a,b\n1,"x\ny"\n3,"4', "line 4"),
        ('a,b\n1,"2\n' + "3,4\n" * 3_000_000, "line 2"),
        ('a,"b\n1,2\n', "line 1"),
    ],
    ids=["swallows a row", "last field", "behind line breaks", "larger than a block", "header"],
)
def test_csv_quotes_that_are_never_closed(tmp_path, content, line):
    with pytest.raises(InputFileError, match=line):
        texts_of(write(tmp_path / "a.csv", content))


def test_csv_rows_longer_than_a_block(tmp_path):
    values = ["a", "b" * 3_000_000, "c", "d" * 3_000_000, "e"]
    path = write(tmp_path / "a.csv", "n,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(values * 2)))
    assert texts_of(path) == [[str(n).encode(), text.encode()] for n, text in enumerate(values * 2)]


def test_csv_rows_longer_than_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr("onerow.adapters.staging.csvfile.BLOCKS_BYTES", (1000, 2000))
    with pytest.raises(InputFileError, match="longer than"):
        texts_of(write(tmp_path / "a.csv", "n,text\n" + "1,2\n" * 500 + "1," + "x" * 10_000 + "\n"))


def test_csv_with_a_stray_quote_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="quote"):
        texts_of(write(tmp_path / "a.csv", 'a,b\n5" pipe,2\n3,4\n'))


def test_csv_in_other_encodings(tmp_path):
    with pytest.raises(InputFileError, match="UTF-16"):
        open_source(write(tmp_path / "a.csv", "a,b\n1,2\n".encode("utf-16")))
    with pytest.raises(InputFileError, match="header is not valid UTF-8"):
        open_source(write(tmp_path / "b.csv", "näme,b\n1,2\n".encode("latin-1")))
    path = write(
        tmp_path / "c.csv", "name,day,at\na,2026-01-11,2026-01-11\nJosé,2026-01-11,2026-01-11\n".encode("latin-1")
    )
    with open_source(path) as source:
        converted = RowConverter(SPEC, text_mode=True).convert(next(source.batches()), first_row=1)
    assert [str(problem) for problem in converted.problems] == [
        "row 2, column 'name': 'Jos\\\\xe9' is not valid UTF-8 (byte 4)"
    ]


def test_csv_with_nul_bytes(tmp_path):
    path = write(tmp_path / "a.csv", b"name,day,at\na\0b,2026-01-11,2026-01-11\n")
    with open_source(path) as source:
        converted = RowConverter(SPEC, text_mode=True).convert(next(source.batches()), first_row=1)
    assert "U+0000" in converted.problems[0].reason


def test_ndjson_numbers_keep_their_digits(tmp_path):
    kinds = {"k": "decimal(38,20)", "n": "int64", "at": "timestamp", "j": "json"}
    spec = TableSpec(
        name="t",
        target=("t",),
        key=("k",),
        order_by=("at",),
        columns=tuple(Column(c, parse_type(k)) for c, k in kinds.items()),
    )
    line = '{"k": 0.12345678901234567890, "n": 9007199254740993, "at": "2026-01-11", "j": {"v": 1.10}}\n'
    with open_source(write(tmp_path / "a.ndjson", line)) as source:
        row = RowConverter(spec, text_mode=False).convert(next(source.batches()), first_row=1).rows.to_pylist()[0]
    assert row["k"] == Decimal("0.12345678901234567890")
    assert row["n"] == 9007199254740993
    assert row["j"] == '{"v":1.10}'


def test_ndjson_columns_are_the_union_of_all_objects(tmp_path):
    lines = "".join(json.dumps({"a": 1} if index < 40_000 else {"b": 2}) + "\n" for index in range(40_001))
    with open_source(write(tmp_path / "a.ndjson", lines)) as source:
        assert source.column_names == ("a", "b")
        batches = list(source.batches())
    assert sum(batch.num_rows for batch in batches) == 40_001
    assert all(batch.schema.names == ["a", "b"] for batch in batches)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "no JSON object"),
        ("5", "no JSON object"),
        ("{'a': 1}", "no JSON"),
        ('{"a": 1', "no JSON"),
        ('{"a": 1} {"a": 2}', "no JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' twice"),
        ('{"a": ' + "9" * 5000 + "}", "too long"),
        ('{"a": ' + "[" * 100_000 + "}", "deeply"),
        (b'{"a": "\xff"}', "UTF-8"),
    ],
)
def test_ndjson_lines_that_are_no_objects_are_named(tmp_path, line, reason):
    line = line.encode() if isinstance(line, str) else line
    path = write(tmp_path / "a.ndjson", b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(InputFileError) as caught, open_source(path) as source:
        list(source.batches())
    assert "line 3" in str(caught.value)
    assert reason in str(caught.value)


def test_ndjson_without_members_or_lines(tmp_path):
    for content in ("{}\n{}\n", "\n\n"):
        with pytest.raises(InputFileError):
            open_source(write(tmp_path / "a.ndjson", content))


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet", "a.arrow", "a.arrows"])
@pytest.mark.parametrize("codec", [".gz", ".zst"])
def test_truncated_compressed_files(tmp_path, name, codec):
    content = compressed(CONTENTS[name] * (200 if name in {"a.csv", "a.ndjson"} else 1), codec)
    path = write(tmp_path / (name + codec), content[:-12])
    with pytest.raises(InputFileError) as caught, open_source(path) as source:
        list(source.batches())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows", "a.ipc"])
@pytest.mark.parametrize("keep", [5, 200, -20])
def test_truncated_binary_files(tmp_path, name, keep):
    path = write(tmp_path / name, CONTENTS[name][:keep])
    with pytest.raises(InputFileError) as caught, open_source(path) as source:
        list(source.batches())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv.gz", "a.ndjson.zst", "a.parquet.gz", "a.ndjson"])
def test_files_that_are_something_else(tmp_path, name):
    path = write(tmp_path / name, b"This is a text, and no data at all.\n" * 50)
    with pytest.raises(InputFileError) as caught, open_source(path) as source:
        list(source.batches())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet", "a.arrow", "a.csv.gz"])
def test_empty_files(tmp_path, name):
    with pytest.raises(InputFileError, match="empty"):
        open_source(write(tmp_path / name, b""))
    with pytest.raises(InputFileError, match="empty"):
        open_source(write(tmp_path / "b.csv", b"\xef\xbb\xbf\n"))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        open_source(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(UsageError, match="folder"):
        open_source(tmp_path / "b.csv")
    blocked = write(tmp_path / "file", b"x") / "c.csv"
    with pytest.raises(InputFileError, match="cannot be opened"):
        open_source(blocked)


@pytest.mark.parametrize("name", ["a", "a.txt", "a.xlsx", "a.gz", "a.csv.bz2", ".csv2"])
def test_unknown_suffixes(tmp_path, name):
    with pytest.raises(UsageError, match="suffix"):
        open_source(write(tmp_path / name, b"x"))


@pytest.mark.parametrize("source", [5, None, b"a.csv", {"a": 1}, pl.LazyFrame({"a": [1]}), object()])
def test_what_has_no_rows(source):
    with pytest.raises(UsageError):
        open_source(source)


def test_a_frame_whose_columns_have_no_text_names():
    with pytest.raises(UsageError, match="0"):
        open_source(pd.DataFrame([[1]]))


def test_no_file_stays_open(tmp_path):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    paths = [write(tmp_path / name, content) for name, content in CONTENTS.items()]
    for path in paths:
        rows_of(path)
    before = count()
    for path in paths:
        rows_of(path)
        with open_source(path) as source:
            next(source.batches())
    assert count() <= before


STAGE = """
import re, sys
from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.staging.files import FileParts
from onerow.adapters.staging.readers import open_source
from onerow.core.buffers import text_bytes
from onerow.core.rows import RowConverter
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type

kinds = {"name": "string", "day": "date", "x": "float64", "at": "timestamp", "text": "string"}
spec = TableSpec(name="t", target=("t",), key=("name",), order_by=("at",), partition="day",
                 columns=tuple(Column(name, parse_type(kind)) for name, kind in kinds.items()))
def peak_mb():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) // 1024
with open_source(sys.argv[1]) as source:
    converter = RowConverter(spec, text_mode=source.text_mode)
    writer = FileParts(sys.argv[2], clock=SystemClock(), ids=SystemIds()).writer(
        spec, batch="b", worker="w", columns=converter.columns_for(source.column_names))
    before = peak_mb()
    for batch in source.batches():
        writer.write(converter.convert(batch, first_row=1).rows)
    rows = writer.publish().rows
print(rows, before, peak_mb(), "pandas" in sys.modules)
"""


@pytest.mark.parametrize("name", ["big.csv", "big.csv.gz"])
def test_a_file_larger_than_the_memory_it_takes(tmp_path, name):
    """And without pandas, which pyarrow would import for the first Python value it converts."""
    line = "name{0:09d},2026-01-11,0.{0},2026-01-11T01:00:00," + "text " * 20 + "\n"
    block = "".join(line.format(index) for index in range(8_000)).encode()
    times = 150
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=1) if name.endswith(".gz") else path.open("wb") as file:
        file.write(b"name,day,x,at,text\n")
        for _ in range(times):
            file.write(block)
    size_mb = times * len(block) // 2**20
    assert size_mb > 170
    found = subprocess.run(
        [sys.executable, "-c", STAGE, str(path), str(tmp_path / "staging")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    rows, before_mb, after_mb, pandas = found.stdout.split()
    assert int(rows) == 8_000 * times
    taken_mb = int(after_mb) - int(before_mb)
    assert taken_mb < size_mb, f"{taken_mb} MB for a file of {size_mb} MB"
    assert pandas == "False"


def stream_of(table, tmp_path, *, damage=bytes):
    path = tmp_path / "a.arrows"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(damage(sink.getvalue().to_pybytes()))
    return path


def test_an_arrow_stream_whose_offsets_lead_elsewhere_is_refused(tmp_path):
    """Arrow believes them, and the process would end with a signal."""
    table = pa.table({"name": ["x", "yy", "zzz"]})
    good, bad = (struct.pack("<4i", 0, 1, 3, last) for last in (6, 0x7FFFFF00))
    for path in (
        stream_of(table, tmp_path, damage=lambda raw: raw.replace(good, bad)),
        stream_of(table, tmp_path, damage=lambda raw: raw.replace(b"xyyzzz", b"xy\xff\xffzz")),
    ):
        with open_source(path) as source, pytest.raises(InputFileError, match="cannot be read as Arrow"):
            list(source.batches())
    with open_source(stream_of(table, tmp_path)) as source:
        assert [batch.num_rows for batch in source.batches()] == [3]


@pytest.mark.parametrize("wrap", [lambda kind: kind, pa.list_, lambda kind: pa.struct([("x", kind)]), lambda kind: pa.list_(pa.struct([("x", kind)]))])
def test_a_decimal_of_an_absurd_scale_is_refused(wrap, tmp_path):
    """Arrow reads the scale from the file and looks beyond its own tables with it."""
    for scale, wrong in ((7_208_962, True), (-77, True), (6, False), (-6, False)):
        path = stream_of(pa.table({"line": pa.nulls(2, wrap(pa.decimal128(20, scale)))}), tmp_path)
        if wrong:
            with pytest.raises(InputFileError, match="scale"):
                open_source(path)
        else:
            with open_source(path) as source:
                assert sum(batch.num_rows for batch in source.batches()) == 2


def test_text_whose_offsets_have_something_behind_them():
    offsets = pa.py_buffer(struct.pack("<3i", 0, 1, 3) + b"\7\7\7")
    array = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"xyz")])
    assert bytes(text_bytes(array)) == b"xyz"
