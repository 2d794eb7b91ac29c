"""Tables that are made, adopted, widened or refused."""

from __future__ import annotations

import datetime as dt

import duckdb
import pytest

import onerow
from onerow.errors import LockStoreMismatchError, NotInstalledError
from support.bench import DAY, PREDICTIONS, Bench, consolidate_all, prediction, predictions

MIXED = """
[tables.mixed]
key = ["name", "number", "seen"]
partition = "day"
order_by = ["seq"]
[tables.mixed.columns]
day = "date"
name = "string"
number = "int64"
seen = "timestamp"
seq = "int64"
extra = "json"
"""
MIXED_ROW = {
    "day": dt.date(2026, 1, 10),
    "name": "a",
    "number": 7,
    "seen": dt.datetime(2026, 1, 10, 12, tzinfo=dt.UTC),
    "seq": 1,
    "extra": '{"a": 1}',
}


def configure(folder, *, create="", tables=MIXED, table="mixed", **more):
    """Return a bench on a database in which somebody has made a table before."""
    folder.mkdir(exist_ok=True)
    if create:
        with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
            connection.execute(create)
    return Bench(folder, tables=tables, table=table, **more)


def test_init_tells_what_it_creates_and_is_idempotent(tmp_path):
    Bench(tmp_path)
    (tmp_path / "warehouse.duckdb").unlink()
    with onerow.open(tmp_path) as store:
        made = store.init()
        assert made == [
            "control table onerow.meta",
            "control table onerow.guards",
            "control table onerow.fences",
            "control table onerow.ledger",
            "control table onerow.history",
            "table predictions",
            "table predictions_removed_duplicates",
            "view predictions_duplicates",
            "guard row of predictions",
        ]
        assert store.init() == []


@pytest.mark.parametrize("integer", ["INTEGER", "SMALLINT", "TINYINT", "UINTEGER", "BIGINT"])
def test_an_adopted_table_with_narrower_integers(tmp_path, integer):
    bench = configure(
        tmp_path,
        create=f"create table mixed (day date, name varchar, number {integer}, seen timestamp, seq {integer}, extra json);"
        "insert into mixed values ('2026-01-10', 'a', 7, '2026-01-10 12:00', 0, null)",
    )
    with bench.open() as store:
        store.stage("mixed", [MIXED_ROW, {**MIXED_ROW, "number": 8}], batch="b")
        (done,) = store.consolidate("mixed", "b").partitions
        assert (done.rows_inserted, done.rows_updated) == (1, 1)
        store.stage("mixed", [{**MIXED_ROW, "number": 2**40}], batch="too-big")
        result = store.consolidate("mixed", "too-big")
        assert result.status == ("committed" if integer == "BIGINT" else "failed")
        assert store.check()[0].result.duplicate_keys == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_an_adopted_table_with_zoned_times_and_json_as_text(tmp_path, zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    bench = configure(
        tmp_path,
        create="create table mixed (day date, name varchar, number bigint, seen timestamptz, seq bigint, extra varchar);"
        "insert into mixed values ('2026-01-10', 'a', 7, '2026-01-10 12:00:00+00', 0, null)",
    )
    with bench.open() as store:
        store.stage("mixed", [MIXED_ROW], batch="b")
        (done,) = store.consolidate("mixed", "b").partitions
        assert (done.rows_inserted, done.rows_updated) == (0, 1)
        (again,) = consolidate_all(store, "mixed", [stage(store, [MIXED_ROW], "again")])
        assert again.partitions[0].rows_unchanged == 1
    assert bench.query("select epoch_us(seen), extra from mixed") == [(1768046400000000, '{"a": 1}')]


def stage(store, rows, batch):
    """Stage rows in the table of these tests and return the batch."""
    store.stage("mixed", rows, batch=batch)
    return batch


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("day date, name varchar, number double, seen timestamp, seq bigint, extra json", "'number' is DOUBLE.*no key"),
        ("day varchar, name varchar, number bigint, seen timestamp, seq bigint, extra json", "'day' is VARCHAR"),
        ("day date, name varchar, seen timestamp, seq bigint, extra json", "no column 'number'"),
        ("day date, name varchar, number hugeint, seen timestamp, seq bigint, extra json", "'number' is HUGEINT"),
        ("day date, name varchar, number bigint, seen timestamp_ns, seq bigint, extra json", "'seen' is TIMESTAMP_NS"),
        (
            "day date, name varchar, number bigint, seen timestamp, seq bigint, extra json, note varchar",
            "'note' is there but not declared",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_and_nothing_is_created(tmp_path, columns, told):
    with pytest.raises(onerow.ConfigurationError, match=told):
        configure(tmp_path, create=f"create table mixed ({columns})")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        assert connection.execute("select table_name from duckdb_tables()").fetchall() == [("mixed",)]


def test_a_column_that_is_declared_later_is_added_by_init(bench):
    with bench.open() as store:
        consolidate_all(store, "predictions", [bench.stage(store, [prediction()], batch="old").batch])
    bench.config.write_text(
        bench.config.read_text(encoding="utf-8") + 'confidence = "float64 not null"\n', encoding="utf-8"
    )
    with bench.open() as store:
        store.stage("predictions", [{**prediction(player_lookup="new"), "confidence": 0.5}], batch="new")
        result = store.consolidate("predictions", "new")
        assert (result.status, result.error_kind, result.exit_code) == ("failed", "not_installed", 2)
        assert "onerow init" in result.error
        assert store.init() == ["column predictions.confidence", "column predictions_removed_duplicates.confidence"]
        assert store.consolidate("predictions", "new").status == "committed"
    assert sorted(bench.query("select player_lookup, confidence from predictions")) == [("lebronjames", None), ("new", 0.5)]


def test_a_target_in_a_schema(tmp_path):
    bench = Bench(tmp_path, tables=PREDICTIONS.replace("partition =", 'target = "nba.Player Props"\npartition ='))
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        consolidate_all(store, "predictions", ["b"])
        assert store.check()[0].clean
    assert bench.query("select table_schema from information_schema.tables where table_name = 'Player Props'") == [("nba",)]
    bench.assert_table_is_reference()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('target = "a.b.c"',), "table or schema.table"),
        (('target = "a..b"',), "no table name"),
    ],
)
def test_a_target_that_is_none(tmp_path, change, told):
    with pytest.raises(onerow.ConfigurationError, match=told):
        Bench(tmp_path, tables=PREDICTIONS.replace("partition =", f"{change[0]}\npartition ="))


@pytest.mark.parametrize("name", ["rowid", "ROWID", "__onerow_key"])
def test_a_column_name_that_duckdb_or_the_merge_needs_is_refused(tmp_path, name):
    with pytest.raises(onerow.ConfigurationError, match="cannot be called"):
        Bench(tmp_path, tables=PREDICTIONS + f'"{name}" = "string"\n')


def test_a_table_without_partitions(tmp_path):
    tables = PREDICTIONS.replace('partition = "game_date"\n', "")
    bench = Bench(tmp_path, tables=tables)
    with bench.open() as store:
        for batch in ("b", "c"):
            bench.stage(store, predictions(20, seed=batch), batch=batch)
            bench.stage(store, predictions(20, seed=f"{batch}2", day=DAY + dt.timedelta(days=1)), batch=batch, worker="w-2")
        for batch in ("c", "b"):
            (done,) = store.consolidate("predictions", batch).partitions
            assert (done.partition, done.parts) == (None, 2)
        assert store.consolidate("predictions", "b").status == "already_merged"
        assert [entry.partition for entry in store.history()] == [None, None]
        assert store.locks.lock("predictions").state == "free"
        with pytest.raises(onerow.UsageError, match="no partition column"):
            store.consolidate("predictions", "b", partitions=["2026-01-10"])
        assert store.check()[0].clean
    expected = {row[1:] for row in bench.table_rows()}
    assert len(expected) == len(bench.table_rows())
    bench.assert_table_is_reference()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bool", [True, False]),
        ("int64", [-(2**63), 0, 7]),
        ("decimal(6,2)", [24.5, 25, -0.01]),
        ("string", ["a/b", "A", "a", "2026-01-10", "é", "e\u0301", " ", "%", "*"]),
        ("date", [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(9999, 12, 31)]),
    ],
)
def test_partitions_of_every_type(tmp_path, kind, values):
    tables = f'[tables.t]\nkey = ["k"]\npartition = "p"\norder_by = ["o"]\n[tables.t.columns]\np = "{kind}"\nk = "string"\no = "int64"\n'
    bench = Bench(tmp_path, tables=tables, table="t")
    rows = [{"p": value, "k": key, "o": 1} for value in values for key in ("x", None)]
    with bench.open() as store:
        store.stage("t", rows, batch="b")
        done = store.consolidate("t", "b")
        assert done.status == "committed", done.error
        assert len(done.partitions) == len(values)
        for partition in done.partitions:
            assert (partition.rows_inserted, partition.parts) == (2, 1)
            alone = store.consolidate("t", "b", partitions=[partition.partition])
            assert [(part.partition, part.status) for part in alone.partitions] == [(partition.partition, "already_merged")]
            assert store.locks.lock(f"t/{partition.partition}").state == "free"
        (report,) = store.check()
        assert (report.result.partitions, report.result.duplicate_keys) == (len(values), 0)


def test_another_lock_store_is_refused_until_it_is_adopted(bench, monkeypatch):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=1)
    monkeypatch.setenv("ONEROW_LOCKS", "sqlite:///elsewhere.sqlite")
    with bench.open() as store:
        result = store.consolidate("predictions", "b")
        assert (result.status, result.error_kind, result.exit_code) == ("failed", "lock_store_mismatch", 2)
        assert store.consolidate("predictions", "b", use_lock=False).status == "committed"  # it needs no lock store
        with pytest.raises(LockStoreMismatchError):
            store.init()
        assert "adopted" in store.init(adopt_locks=True)[0]
        bench.stage_batch(store, "c", parts=1)
        assert store.consolidate("predictions", "c").status == "committed"
    monkeypatch.delenv("ONEROW_LOCKS")
    with bench.open() as store:
        bench.stage_batch(store, "d", parts=1)
        assert store.consolidate("predictions", "d").error_kind == "lock_store_mismatch"


@pytest.mark.parametrize("spoil", ["delete from onerow.guards", "insert into onerow.guards select * from onerow.guards"])
def test_a_guard_that_is_not_one_row_fails_loudly(bench, spoil):
    bench.write(spoil)
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=1)
        result = store.consolidate("predictions", "b")
        assert (result.status, result.error_kind) == ("failed", "not_installed")
        facts = {what: well for what, well, _ in store.ports.warehouse.probe([bench.spec])}
        assert facts["table predictions"] is False
    assert bench.query("select count(*) from predictions") == [(0,)]


def test_a_required_value_that_only_the_table_requires(tmp_path):
    bench = configure(
        tmp_path,
        create="create table mixed (day date, name varchar, number bigint, seen timestamp, seq bigint, "
        "extra json not null)",
    )
    with bench.open() as store:
        store.stage("mixed", [{**MIXED_ROW, "extra": None}], batch="b")
        result = store.consolidate("mixed", "b")
        assert (result.status, result.error_kind, result.exit_code) == ("failed", "row_refused", 3)
        assert "not null" in result.error.lower()
    assert bench.query("select count(*) from mixed") == [(0,)]


def test_nothing_is_installed_yet(tmp_path):
    Bench(tmp_path)
    (tmp_path / "warehouse.duckdb").unlink()
    with onerow.open(tmp_path) as store:
        store.stage("predictions", [prediction()], batch="b")
        with pytest.raises(onerow.OnerowError, match="onerow init"):
            store.consolidate("predictions", "b")
        assert not (tmp_path / "warehouse.duckdb").exists()
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")):
        pass
    with onerow.open(tmp_path) as store, pytest.raises(NotInstalledError, match="onerow init"):
        store.consolidate("predictions", "b")


def test_a_missing_table_is_no_variable_of_ours(tmp_path):
    """The engine would take a variable of the code that asks for a table of its name: ``rows`` is a function there."""
    bench = Bench(tmp_path, tables=PREDICTIONS.replace("predictions]", "rows]").replace("predictions.", "rows."), table="rows")
    bench.write("drop view rows_duplicates; drop table rows")
    with bench.open() as store:
        bench.stage(store, [prediction()], batch="b")
        result = store.consolidate("rows", "b")
        assert result.partitions[0].error_kind == "not_installed"
        assert "There is no table rows" in result.error
        store.init()
        assert store.consolidate("rows", "b").success
    bench.assert_table_is_reference()


def test_declared_checks_and_wandering_keys_are_found(tmp_path):
    bench = Bench(tmp_path, tables=PREDICTIONS + '\n[tables.predictions.checks]\npoints_are_few = "predicted_points < 60"\n')
    with bench.open() as store:
        with pytest.raises(onerow.PartRefusedError, match="points_are_few"):
            store.stage("predictions", [prediction(predicted_points=61.0)], batch="bad")
        rows = [prediction(), prediction(game_date=DAY + dt.timedelta(days=1)), prediction(player_lookup="x")]
        bench.stage(store, rows, batch="b")
        consolidate_all(store, "predictions", ["b"])
        assert [found.check for found in store.check()[0].result.findings] == ["key_in_several_partitions"]
        bench.write("update predictions set predicted_points = 99 where player_lookup = 'x'")
        bench.write("delete from predictions where game_date = '2026-01-11'")
        bench.write("insert into predictions select * replace ('y' as player_lookup) from predictions where player_lookup = 'x'")
        (report,) = store.check()
        found = {finding.check: finding for finding in report.result.findings}
        assert found.keys() == {"check:points_are_few", "ledger"}
        assert found["check:points_are_few"].rows == 2
        told = sorted(finding.message for finding in report.result.findings if finding.check == "ledger")
        assert ["removed by somebody else" in told[1], "written by somebody else" in told[0]] == [True, True]
        assert store.check(partition="2026-01-10")[0].exit_code == 3
