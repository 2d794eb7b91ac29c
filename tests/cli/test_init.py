"""A onerow.toml from a file."""

from __future__ import annotations

import tomllib

import duckdb
import pytest

from .conftest import INIT, KEY, ROWS, csv_text


def config(onerow, name="onerow.toml"):
    return tomllib.loads((onerow.folder / name).read_text("utf-8"))


def test_init_creates_what_is_missing_and_says_so(props):
    again = props.ok("init")
    assert again.out == "everything is there already; nothing was created\n"
    (props.folder / "props.duckdb").unlink()
    made = props.ok("init", "--output", "json").json["created"]
    assert "table props" in made
    assert "guard row of props" in made


def test_the_types_that_are_found(onerow):
    onerow.write(
        "all.csv",
        "id,line,points,day,at,ok,count,empty,mixed,zip,phone,huge,at_date\n"
        "a,24.5,1.5,2026-01-01,2026-01-01T00:00:00Z,true,1,,1,01234,+15551234,99999999999999999999,2026-01-01T00:00:00\n"
        "b,1234567.125,2,2026-01-02,2026-01-02 10:11:12.5,False,-7,,x,10115,+15551235,1,2026-01-02T00:00:00\n",
    )
    onerow.ok("init", "all.csv", "--table", "t", "--key", "id,line", "--order-by", "at", "--output", "json")
    assert config(onerow)["tables"]["t"]["columns"] == {
        "id": "string", "line": "decimal(12,3)", "points": "float64", "day": "date", "at": "timestamp",
        "ok": "bool", "count": "int64", "empty": "string", "mixed": "string", "zip": "string",
        "phone": "string", "huge": "string", "at_date": "timestamp",
    }  # fmt: skip
    assert onerow.ok("load", "all.csv", "--table", "t").out.startswith("committed: 2 rows")


def test_the_types_of_json_lines_and_of_parquet(onerow):
    import pyarrow as pa
    import pyarrow.parquet as pq

    onerow.write(
        "a.ndjson",
        '{"id": 1, "line": 24, "p": 1, "tags": ["x"], "at": "2026-01-01T00:00:00Z", "s": "7"}\n'
        '{"id": 2, "line": 24.5, "p": 1.5, "tags": {"y": 1}, "at": "2026-01-01T00:00:00Z", "s": "8"}\n',
    )
    onerow.ok("init", "a.ndjson", "--table", "a", "--key", "id,line", "--order-by", "at")
    assert config(onerow)["tables"]["a"]["columns"] == {
        "id": "int64", "line": "decimal(9,2)", "p": "float64", "tags": "json", "at": "timestamp", "s": "string",
    }  # fmt: skip
    onerow.ok("load", "a.ndjson", "--table", "a")
    table = pa.table(
        {
            "id": pa.array([1, 2], pa.int16()),
            "line": pa.array([24.5, 25.0]),
            "p": pa.array([1.0, 2.0]),
            "d": pa.array([19000, 19001], pa.date32()),
            "at": pa.array([0, 86_400_000_000], pa.timestamp("us")),
            "c": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    pq.write_table(table, onerow.folder / "b.parquet")
    onerow.ok("init", "b.parquet", "--table", "b", "--key", "id,line", "--order-by", "at", "--partition", "d")
    assert config(onerow)["tables"]["b"]["columns"] == {
        "id": "int64", "line": "decimal(9,2)", "p": "float64", "d": "date", "at": "timestamp", "c": "string",
    }  # fmt: skip
    onerow.ok("load", "b.parquet", "--table", "b")


def test_a_table_that_keeps_every_version(onerow):
    onerow.write("props.csv", csv_text(*ROWS))
    made = onerow.ok(*INIT, "--mode", "versions", "--version-column", "prediction_version", "--output", "json").json
    assert {"table props", "view props_duplicates", "view props_current"} <= set(made["created"])
    table = config(onerow)["tables"]["props"]
    assert (table["mode"], table["version_column"]) == ("versions", "prediction_version")
    assert "prediction_version" not in table["columns"]
    ended = onerow.ok("load", "props.csv", "--table", "props", "--output", "json").json
    assert [part["rows_inserted"] for part in ended["partitions"]] == [4, 1]
    assert onerow.ok("check", "--output", "json").json["tables"][0]["clean"]
    with duckdb.connect(str(onerow.folder / "props.duckdb")) as connection:
        newest = connection.execute("select prediction_id, prediction_version from props_current order by 1").fetchall()
        (rows,) = connection.execute("select count(*) from props").fetchone()
    assert newest == [("p1", 1), ("p2", 1), ("p4", 1), ("p5", 2)]
    assert rows == 5


def test_a_second_table_is_added_and_the_rest_stays_byte_for_byte(props):
    path = props.folder / "onerow.toml"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").rstrip() + b"  # mine")
    before = path.read_bytes()
    props.write("more.csv", "id,at\na,2026-01-01T00:00:00Z\n")
    ended = props.ok("init", "more.csv", "--table", "more", "--key", "id", "--order-by", "at")
    assert ended.out.startswith("added table more to onerow.toml")
    assert path.read_bytes().startswith(before + b"\n")
    assert set(config(props)["tables"]) == {"props", "more"}
    props.ok("load", "more.csv", "--table", "more")
    assert [entry["batch"][:5] for entry in props.ok("history", "--table", "more", "--output", "json").json] == ["load-"]


def test_a_table_that_is_declared_is_not_declared_again(props):
    before = (props.folder / "onerow.toml").read_bytes()
    ended = props(*INIT)
    assert ended.code == 2
    assert "declares the table 'props' already" in ended.err
    assert (props.folder / "onerow.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--key", "game_ID", "--order-by", "created_at"], "Names that come near: game_id"),
        (["--key", KEY, "--order-by", "created"], "Names that come near: created_at"),
        (["--key", KEY, "--order-by", "created_at", "--partition", "day"], "has no column 'day'"),
        (["--key", KEY, "--order-by", "created_at", "--partition", "confidence"], "cannot be part of partition"),
        (["--key", KEY, "--order-by", "created_at", "--warehouse", "oracle://x"], "oracle"),
        (["--key", KEY, "--order-by", "created_at", "--mode", "versions"], "needs version_column"),
        (
            ["--key", KEY, "--order-by", "created_at", "--mode", "versions", "--version-column", "confidence"],
            "must not be declared",
        ),
        (["--key", KEY, "--order-by", "created_at", "--version-column", "v"], 'goes with mode = "versions"'),
        (["--key", "", "--order-by", "created_at"], "names no columns"),
        (["--key", KEY], "say --table, --key and --order-by"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(onerow, more, expected):
    ended = onerow("init", "props.csv", "--table", "props", *more)
    assert ended.code == 2, ended
    assert expected in " ".join(ended.err.split())
    assert sorted(path.name for path in onerow.folder.iterdir() if path.suffix in {".toml", ".duckdb"}) == []


def test_options_for_a_file_need_the_file(props):
    assert props("init", "--table", "x").code == 2
    assert "--table goes with FILE" in props("init", "--table", "x").err


def test_an_existing_table_that_does_not_fit_is_left_alone(onerow):
    import duckdb

    with duckdb.connect(onerow.folder / "props.duckdb") as connection:
        connection.execute("create table props (game_id integer, player_lookup varchar)")
    ended = onerow(*INIT)
    assert ended.code == 2
    assert "does not fit" in ended.err
    assert not (onerow.folder / "onerow.toml").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warehouse = ", "is not valid TOML"),
        ("wharehouse = 'duckdb:///x.duckdb'", "wharehouse: is no setting. Did you mean 'warehouse'?"),
        ("", "warehouse is missing"),
        ("warehouse = 'duckdb:///x.duckdb'\n[lease]\nduration = 'soon'", "lease.duration: 'soon' is no duration"),
        (b"warehouse = '\xff'", "is not UTF-8"),
    ],
)
def test_a_configuration_that_is_wrong(onerow, text, expected):
    onerow.write("onerow.toml", text)
    for command in (["check"], ["init"], ["doctor"], ["history", "--output", "json"]):
        ended = onerow(*command)
        assert ended.code == 2, ended
        assert expected in ended.err + ended.out
        assert "Traceback" not in ended.err
    assert not (onerow.folder / "x.duckdb").exists()


def test_a_float_key_in_the_configuration_is_refused_with_advice(props):
    props.edit_config('"decimal(9,2)"', '"float64"')
    ended = props("check", "--output", "json")
    assert ended.code == 2
    assert (ended.json["kind"], "decimal(9,2)" in ended.json["hint"]) == ("configuration", True)


def test_the_configuration_is_found_by_name_and_by_variable(onerow, monkeypatch):
    (onerow.folder / "conf").mkdir()
    onerow.ok(*INIT, "--config", "conf/props.toml")
    assert onerow("check").code == 2
    onerow.ok("check", "--config", "conf/props.toml")
    onerow.ok("--config", "conf/props.toml", "check")
    monkeypatch.setenv("ONEROW_CONFIG", "conf/props.toml")
    onerow.ok("check")
    assert (onerow.folder / "conf" / "props.duckdb").exists()


def test_notes_say_what_to_look_at(onerow):
    ended = onerow.ok("init", "props.csv", "--table", "props", "--key", KEY, "--order-by", "created_at")
    assert "note: there is no partition" in ended.err
    assert "--partition game_date" in ended.err
    onerow.write("none.csv", "id,at\n")
    ended = onerow.ok("init", "none.csv", "--table", "n", "--key", "id", "--order-by", "at", "--quiet")
    assert ended.err == ""


def test_a_second_lock_store_is_refused_until_it_is_adopted(props):
    props.edit_config("staging   =", 'locks = "sqlite:///other.sqlite"\nstaging   =')
    assert props("init").code == 2
    assert "lock store" in props("init").err
    assert "adopted" in props.ok("init", "--adopt-locks").out
    props.write("one.csv", csv_text())
    props.ok("load", "props.csv", "--table", "props")
