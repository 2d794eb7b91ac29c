"""What the doctor says of a lake, and that no message shows a password."""

from __future__ import annotations

import traceback

import pytest

from onerow.adapters.warehouse.ducklake.warehouse import DuckLakeWarehouse
from onerow.errors import ConfigurationError, NotInstalledError, OnerowError
from onerow.testing.conformance.harness import LOCKS, SPEC


def problems(warehouse):
    return [(subject, said) for subject, well, said in warehouse.probe([SPEC]) if not well]


def test_a_lake_that_we_made_is_well(lake):
    assert problems(lake.warehouse()) == []


def test_rows_that_are_kept_in_the_catalog_are_told(lake):
    with lake.connection() as connection:
        connection.execute(
            "call onerow_db.set_option('data_inlining_row_limit', 100, schema => 'main', table_name => 'props')"
        )
        connection.execute("insert into onerow_db.main.props (id, game_date) values ('x', '2026-01-17')")
    ((subject, said),) = problems(lake.warehouse())
    assert subject == "files of props"
    assert "`onerow init` switches it off" in said
    assert "1 rows or deletions are kept in the catalog" in said
    made = lake.warehouse().install([SPEC], lock_store=LOCKS, adopt_locks=False)
    assert any("rows in files" in line for line in made)
    ((_, said),) = problems(lake.warehouse())
    assert "switches it off" not in said


def test_no_lake_is_told_and_nothing_is_left_behind(tmp_path):
    warehouse = DuckLakeWarehouse(
        catalog=tmp_path / "catalog.sqlite", data_path=str(tmp_path / "lake"), locate=str
    )
    with pytest.raises(NotInstalledError, match="There is no lake"):
        warehouse.merged("props", "b1")
    warehouse.close()
    assert list(tmp_path.iterdir()) == []


def test_another_data_path_is_refused(on_sqlite):
    warehouse = DuckLakeWarehouse(
        catalog=on_sqlite.catalog, data_path=str(on_sqlite.folder / "elsewhere"), locate=str
    )
    with pytest.raises(ConfigurationError, match="data_path that the lake was created with"):
        warehouse.merged("props", "b1")
    warehouse.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t%27%20word@127.0.0.1:1/nobody",
        "host=127.0.0.1 port=1 dbname=nobody user=me password='s3cr3t\\' word'",
    ],
)
def test_no_message_shows_the_password(tmp_path, url):
    warehouse = DuckLakeWarehouse(catalog=url, data_path=str(tmp_path), locate=str, busy_timeout_s=2.0)
    for call in (
        lambda: warehouse.merged("props", "b1"),
        lambda: warehouse.install([SPEC], lock_store=LOCKS, adopt_locks=False),
    ):
        with pytest.raises(OnerowError) as raised:
            call()
        told = "".join(traceback.format_exception(raised.value))
        assert "s3cr3t" not in told
        assert "Connection refused" in told, "the reason is told all the same"
    assert "s3cr3t" not in str(warehouse.probe([SPEC]))
    warehouse.close()
