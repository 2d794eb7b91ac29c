"""What a SQLite catalog tells is of one moment.

Without the setting a scan of the catalog has a connection of its own where DuckDB has several threads. A reader then saw
replaced rows beside their successors, once in a thousand looks of a torture run (``make chaos``), which is where the effect
is tried: a test of seconds does not meet it.
"""

from __future__ import annotations

from contextlib import closing

from onerow.adapters.warehouse.ducklake.lake import ONE_MOMENT, Lake, catalog_of


def test_every_connection_of_an_instance_has_the_setting(tmp_path):
    catalog = catalog_of(tmp_path / "catalog.sqlite", busy_timeout_s=20)
    assert catalog.settings == (ONE_MOMENT,)
    setting = "select value from duckdb_settings() where name = 'sqlite_disable_multithreaded_scans'"
    with (
        closing(Lake(catalog, str(tmp_path / "lake"), busy_timeout_s=20)) as lake,
        lake.open(create=True) as connection,
    ):
        for reader in (connection, connection.cursor()):
            assert reader.execute(setting).fetchall() == [("true",)]


def test_a_catalog_on_a_server_needs_none():
    assert catalog_of("postgresql://127.0.0.1/x", busy_timeout_s=20).settings == ()


def test_people_have_all_optimizers(tmp_path):
    off = "select value from duckdb_settings() where name = 'disabled_optimizers'"
    with closing(Lake(catalog_of(tmp_path / "c.sqlite", busy_timeout_s=20), str(tmp_path), busy_timeout_s=20)) as lake:
        connection = lake.instance()
        assert connection.execute(off).fetchall() == [("join_order,statistics_propagation",)]
        with lake.plain():
            assert connection.execute(off).fetchall() == [("",)]
        assert connection.execute(off).fetchall() == [("join_order,statistics_propagation",)]
