"""``onerow.toml`` and the environment: what is read, what wins, and what every mistake says."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import onerow
from onerow.bootstrap import check_offered
from onerow.config import (
    FirestorePlace,
    companion_locks,
    find_config,
    firestore_place,
    load_settings,
    parse_duration,
    parse_settings,
    parse_url,
    split_target,
)
from onerow.errors import ConfigurationError
from onerow.ports.warehouse import Capabilities

TABLE = {
    "key": ["k"],
    "order_by": ["o"],
    "partition": "p",
    "columns": {"k": "string", "o": "int64", "p": "date"},
}
FILE = Path("/somewhere/onerow.toml")


def settings(table=None, environ=None, **data):
    """Return the settings of a small file, with changes."""
    whole = {"warehouse": "duckdb:///w.duckdb", "tables": {"t": {**TABLE, **(table or {})}}, **data}
    return parse_settings(whole, file=FILE, environ=environ or {})


def test_what_is_left_out_has_the_defaults_of_the_contract():
    found = settings()
    assert str(found.warehouse.path) == "/somewhere/w.duckdb"
    assert str(found.locks.path) == "/somewhere/w.locks.sqlite"  # the natural companion
    assert str(found.staging) == "/somewhere/staging"
    assert (found.lease_duration_s, found.renew_every_s, found.max_wait_s) == (30, 10, 300)
    assert (found.keep_merged_s, found.control_schema) == (86_400, "onerow")
    spec = found.tables["t"]
    assert (spec.target, spec.mode, spec.on_bad_row, spec.on_existing_duplicates) == (("t",), "upsert", "refuse", "fail")


def test_the_environment_wins_over_the_file():
    environ = {
        "ONEROW_WAREHOUSE": "duckdb:////data/x.duckdb",
        "ONEROW_LOCKS": "sqlite:///../x.sqlite",
        "ONEROW_STAGING": "elsewhere",
    }
    found = settings(environ=environ, locks="sqlite:///y.sqlite", staging="here")
    assert str(found.warehouse.path) == "/data/x.duckdb"
    assert found.locks.path == Path("/somewhere/../x.sqlite")
    assert str(found.staging) == "/somewhere/elsewhere"
    assert str(settings(environ={"ONEROW_WAREHOUSE": ""}).warehouse.path) == "/somewhere/w.duckdb"  # empty is unset


def test_relative_paths_are_relative_to_the_file_and_not_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    path = tmp_path / "project" / "onerow.toml"
    path.write_text('warehouse = "duckdb:///w.duckdb"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = load_settings(find_config("project/onerow.toml", {}), {})
    assert found.warehouse.path == tmp_path / "project" / "w.duckdb"
    assert found.file == path


def test_where_the_file_is_found(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "onerow.toml").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "c")
    environ = {"ONEROW_CONFIG": str(tmp_path / "b" / "onerow.toml")}
    assert find_config(str(tmp_path / "a"), environ) == tmp_path / "a" / "onerow.toml"  # a folder will do
    assert find_config(None, environ) == tmp_path / "b" / "onerow.toml"
    assert find_config(None, {}) == Path("onerow.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="onerow init FILE"):
        find_config(None, {})


def test_a_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "onerow.toml"
    path.write_bytes(b"\xef\xbb\xbf" + b'warehouse = "duckdb:///w.duckdb"\n')
    assert load_settings(path, {}).warehouse.scheme == "duckdb"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"warehouse = ", "not valid TOML"),
        (b"warehouse = '\xff'", "not UTF-8 at byte 13"),
        (b"", "warehouse is missing"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, told):
    path = tmp_path / "onerow.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_settings(path, {})
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("300ms", 0.3), ("30s", 30), ("1.5m", 90), ("24h", 86_400), ("7d", 604_800), (5, 5), (0.5, 0.5), (" 30 s ", 30)],
)
def test_durations(value, seconds):
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "s", "-1s", "1w", "1h30m", True, None, -1, "１s", "1e3s"])
def test_what_is_no_duration(value):
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_duration_is_a_number_of_seconds_that_ends(value):
    with pytest.raises(ConfigurationError, match="duration"):
        settings(lease={"duration": value})


@pytest.mark.parametrize(
    ("lease", "valid"),
    [
        ({"duration": "500ms"}, True),
        ({"duration": "499ms"}, False),
        ({"duration": "10s", "renew_every": "5s"}, True),
        ({"duration": "10s", "renew_every": "6s"}, False),
        ({"duration": "10s", "renew_every": "0s"}, False),
    ],
)
def test_the_bounds_of_a_lease(lease, valid):
    if valid:
        assert settings(lease=lease).renew_every_s <= settings(lease=lease).lease_duration_s / 2
    else:
        with pytest.raises(ConfigurationError, match=r"\[lease\]"):
            settings(lease=lease)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"warehous": "x"}, r"warehous: is no setting\. Did you mean 'warehouse'\?"),
        ({"lease": {"duratoin": "1s"}}, r"lease\.duratoin: is no setting\. Did you mean 'duration'\?"),
        ({"table": {"key": ["k"], "ordr_by": ["o"]}}, r"tables\.t\.ordr_by: is no setting\. Did you mean 'order_by'\?"),
        ({"lease": {"duration": "soon"}}, r"lease\.duration: 'soon' is no duration"),
        ({"table": {"key": "k"}}, r"tables\.t\.key"),
        ({"table": {"mode": "append"}}, r"tables\.t\.mode"),
        ({"table": {"on_bad_row": "ignore"}}, r"tables\.t\.on_bad_row"),
        ({"table": {"key": []}}, "key is empty"),
        ({"table": {"order_by": []}}, "order_by is empty"),
        ({"table": {"key": ["k", "k"]}}, "key names a column twice"),
        ({"table": {"key": ["x"]}}, "column 'x', which is not declared"),
        ({"table": {"partition": "x"}}, "partition names the column 'x'"),
        ({"table": {"id": "x"}}, "id names the column 'x'"),
        ({"table": {"columns": {}}}, "no columns are declared"),
        ({"table": {"columns": {"k": "text", "o": "int64", "p": "date"}}}, "column 'k'.*no column type"),
        ({"table": {"columns": {"k": "decimal(39,2)", "o": "int64", "p": "date"}}}, "no decimal type"),
        ({"table": {"columns": {"k": "string", "K": "string", "o": "int64", "p": "date"}}}, "differ by case"),
        ({"table": {"mode": "versions"}}, "needs version_column"),
        ({"table": {"mode": "versions", "version_column": "O"}}, "given by onerow and must not be declared"),
        ({"table": {"mode": "versions", "version_column": " v"}}, "version column name"),
        ({"table": {"version_column": "v"}}, 'goes with mode = "versions"'),
        ({"table": {"target": ""}}, "no table name|empty"),
    ],
)
def test_every_mistake_names_its_place(data, told):
    data = dict(data)
    with pytest.raises(ConfigurationError, match=told) as caught:
        settings(table=data.pop("table", None), **data)
    assert str(FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("role", "kinds"),
    [
        ("key", ["float64", "json"]),
        ("order_by", ["json"]),
        ("partition", ["float64", "json", "timestamp"]),
    ],
)
def test_types_that_cannot_play_a_role(role, kinds):
    for kind in kinds:
        columns = {"k": "string", "o": "int64", "p": "date", "x": kind}
        with pytest.raises(ConfigurationError, match=f"'x' is of type {kind} and cannot be part of {role}"):
            settings(table={"columns": columns, role: "x" if role == "partition" else ["x"]})


def test_a_float_in_a_key_is_refused_with_the_advice():
    with pytest.raises(ConfigurationError, match=r'declare it "decimal\(p,s\)"'):
        settings(table={"columns": {"k": "float64", "o": "int64", "p": "date"}})


@pytest.mark.parametrize("text", ["string not null", "string NOT  NULL ", "string\tnot null"])
def test_required_columns(text):
    spec = settings(table={"columns": {"k": text, "o": "int64", "p": "date"}}).tables["t"]
    assert [column.name for column in spec.columns if column.required] == ["k"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("t", ("t",)), ("s.t", ("s", "t")), ('"a.b".t', ("a.b", "t")), ('"say ""x"""', ('say "x"',)), ("s.Ü x", ("s", "Ü x"))],
)
def test_targets(text, parts):
    assert split_target(text) == parts


@pytest.mark.parametrize("text", ["a..b", ".a", "a.", '"a', 'a"b"'])
def test_what_is_no_target(text):
    with pytest.raises(ConfigurationError, match="no table name"):
        split_target(text)


@pytest.mark.parametrize("url", ["w.duckdb", "duckdb:w.duckdb", "duckdb://w.duckdb", "duckdb:///", "duckdb:///:memory:", "DuckDB:///x"])
def test_what_is_no_warehouse(url):
    with pytest.raises(ConfigurationError, match=r"no URL|no file"):
        settings(warehouse=url)


def test_a_password_is_never_shown():
    url = "postgresql://me:s3cret@host:5432/db?sslmode=require"
    found = settings(warehouse=url, locks="sqlite:///l.sqlite")
    assert found.warehouse.secret == url
    for text in (str(found), repr(found), repr(found.warehouse), str(found.warehouse)):
        assert "s3cret" not in text
    elsewhere = settings(warehouse="mysql://me:s3cret@host:5432/db", locks="sqlite:///l.sqlite")
    with pytest.raises(ConfigurationError) as caught:
        onerow.open(elsewhere)
    assert "s3cret" not in str(caught.value)
    assert "me:***@host:5432/db" in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        settings(warehouse="mysql://me:s3cret@host/db")  # no lock store, no natural companion
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "catalog", "locks"),
    [
        ("ducklake:sqlite:///c.sqlite?data_path=lake", "/base/c.sqlite", "sqlite:////base/c.locks.sqlite"),
        ("ducklake:postgresql://me:s3cret@h/db?data_path=lake&sslmode=require",
         "postgresql://me:s3cret@h/db?sslmode=require", "postgresql://me:***@h/db?sslmode=require"),
    ],
)  # fmt: skip
def test_a_ducklake_is_a_catalog_and_a_data_path(url, catalog, locks):
    found = parse_url(url, Path("/base"))
    assert (found.scheme, found.data_path) == ("ducklake", "/base/lake")
    assert catalog in {str(found.catalog.path), found.catalog.secret}
    assert str(companion_locks(found)) == locks
    assert "s3cret" not in f"{found} {found!r}"


@pytest.mark.parametrize("url", ["ducklake:sqlite:///c.sqlite", "ducklake:duckdb:///c.duckdb?data_path=x", "ducklake:x"])
def test_what_is_no_ducklake(url):
    with pytest.raises(ConfigurationError):
        parse_url(url, Path("/base"))


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@[host/db", "Postgres://me:s3cret@host/db", "//me:s3cret@host"])
def test_a_password_in_a_damaged_url_is_not_shown_either(url):
    with pytest.raises(ConfigurationError) as caught:
        settings(warehouse=url)
    assert "s3cret" not in str(caught.value)


def test_a_bad_value_is_not_repeated_when_it_might_be_a_secret():
    with pytest.raises(ConfigurationError) as caught:
        settings(warehouse=["postgresql://me:s3cret@host/db"])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"enforce": True}, "unique indexes"),
    ],
)
def test_what_is_not_offered_yet_is_refused_and_never_quietly_left_out(tmp_path, table, told):
    data = {"warehouse": "duckdb:///w.duckdb", "tables": {"t": {**TABLE, **table}}}
    with pytest.raises(ConfigurationError, match=told):
        onerow.open(parse_settings(data, file=tmp_path / "onerow.toml", environ={}))


def test_a_mode_that_the_warehouse_does_not_offer_is_refused():
    tables = settings(table={"mode": "versions", "version_column": "v"}).tables
    poor = SimpleNamespace(capabilities=Capabilities("row", 1, 1, frozenset({"upsert"})))
    with pytest.raises(ConfigurationError, match='mode "versions" is not offered'):
        check_offered(tables, poor)
    check_offered(tables, SimpleNamespace(capabilities=Capabilities("row", 1, 1, frozenset({"upsert", "versions"}))))


def test_an_unknown_table_is_told_with_near_names():
    found = settings()
    with pytest.raises(ConfigurationError, match="Configured are: t"):
        found.table("predictions")
    assert found.table("t").name == "t"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("firestore://proj", FirestorePlace("proj")),
        ("firestore://proj/", FirestorePlace("proj")),
        ("firestore://example.com:proj-1/nba-locks", FirestorePlace("example.com:proj-1", "nba-locks")),
        ("firestore://proj/(default)?collection=locks", FirestorePlace("proj", collection="locks")),
        (
            "firestore://p/d?emulator=localhost:8080&collection=ünd",
            FirestorePlace("p", "d", "ünd", "localhost:8080"),
        ),
    ],
)
def test_a_firestore_url_names_project_and_database(url, place):
    found = settings(locks=url).locks
    assert (found.scheme, str(found)) == ("firestore", url)
    assert firestore_place(found) == place


@pytest.mark.parametrize(
    "url",
    [
        "firestore://",
        "firestore:///database",
        "firestore://p/d/c",
        "firestore://P",
        "firestore://p/my database",
        "firestore://p?colection=x",
        "firestore://p?collection=",
        "firestore://p?collection=a/b",
        "firestore://p?collection=__x__",
        "firestore://p#x",
    ],
)
def test_what_is_no_firestore_database(url):
    with pytest.raises(ConfigurationError, match="no Firestore database") as caught:
        settings(locks=url)
    assert "firestore://PROJECT" in caught.value.hint


def test_a_table_may_name_the_document_of_its_locks():
    found = settings({"lock_document": "consolidation_locks/consolidation_{partition}"}, locks="firestore://p")
    assert found.lock_documents == {"t": "consolidation_locks/consolidation_{partition}"}
    assert settings(locks="firestore://p").lock_documents == {}
    whole = {"lock_document": "locks/whole", "partition": None}
    assert settings(whole, locks="firestore://p").lock_documents == {"t": "locks/whole"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"lock_document": "consolidation_{partition}"}, "names no document"),
        ({"lock_document": "a/b/{partition}"}, "names no document"),
        ({"lock_document": "/{partition}"}, "names no document"),
        ({"lock_document": "a{partition}/b"}, "names no document"),
        ({"lock_document": "__a__/{partition}"}, "names no document"),
        ({"lock_document": ""}, "names no document"),
        ({"lock_document": "locks/all"}, "holds {partition} once"),
        ({"lock_document": "locks/{partition}_{partition}"}, "holds {partition} once"),
        ({"lock_document": "locks/{partition}", "partition": None}, "holds {partition} once"),
    ],
)
def test_what_is_no_document_for_locks(table, said):
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        settings(table, locks="firestore://p")
    assert "tables.t.lock_document" in str(caught.value)


def test_only_locks_in_firestore_are_in_documents():
    with pytest.raises(ConfigurationError, match=r"tables\.t\.lock_document: only locks in Firestore"):
        settings({"lock_document": "locks/{partition}"})


def test_a_bigquery_warehouse_has_its_locks_in_firestore():
    url = parse_url("bigquery://my-project/nba?max_bytes_billed=1000000", Path("/"))
    assert (url.scheme, str(url)) == ("bigquery", "bigquery://my-project/nba?max_bytes_billed=1000000")
    assert str(companion_locks(url)) == "firestore://my-project"


@pytest.mark.parametrize("text", ["bigquery://p", "bigquery:///d", "bigquery://p/d/t", "bigquery://p/d?x=1", "bigquery:p/d"])
def test_what_is_no_bigquery_dataset(text):
    with pytest.raises(ConfigurationError, match="bigquery://PROJECT/DATASET"):
        parse_url(text, Path("/"))
