"""What ``doctor`` tells of BigQuery."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.warehouse.bigquery.probe import probe
from onerow.errors import StagingError
from onerow.testing.conformance.harness import SPEC, VERSIONS


def told(bq, subject=f"table {SPEC.name}", spec=SPEC):
    """Return whether a subject is well, and what is said of it."""
    (found,) = [(well, text) for name, well, text in probe(bq.client, [spec]) if name == subject]
    return found


def test_all_is_well_after_init(bq):
    bq.install()
    assert all(well for _, well, _ in probe(bq.client, [SPEC])), probe(bq.client, [SPEC])
    assert told(bq)[1] == "fits (created)"
    assert "in US" in told(bq, "warehouse")[1] or bq.project.is_real


def test_nothing_is_well_before_it(bq):
    well, text = told(bq, "control tables")
    assert not well
    assert "run `onerow init`" in text
    missing = BigQuery(f"bigquery://{bq.project.project}/nothing_at_all")
    assert [(name, well) for name, well, _ in probe(missing, [SPEC])] == [("warehouse", False)]


@pytest.mark.parametrize(
    ("right", "role"),
    [
        ("bigquery.tables.updateData", "roles/bigquery.dataEditor"),
        ("bigquery.tables.getData", "roles/bigquery.dataViewer"),
    ],
)
def test_a_missing_right_is_told_with_table_and_role(bq, right, role):
    bq.install()
    for name in (bq.client.names.target(SPEC), bq.client.names.shared("ledger")):
        bq.change(name, ["description"], description=f"denied: {right}")
        well, text = told(bq)
        assert not well
        assert f"{right} is missing on {name}: grant {role}" in text


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"streaming_rows": 12}, "12 rows are in its streaming buffer"),
        ({"expires_at": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)}, "the table expires at 2030-01-01"),
        ({"partitioned_by": "created_at"}, "partitioned by created_at and not by its declared partition game_date"),
        ({"location": "EU"}, "it is in EU, and jobs run in"),
        ({"filter_required": True, "partitioned_by": "seen"}, "requires a filter on seen"),
        ({"kind": "VIEW"}, "It is a view"),
    ],
)
def test_what_would_refuse_a_consolidation(bq, monkeypatch, state, said):
    """States of a table that the emulator has not; the service tells them by tables.get."""
    bq.install()
    found, target = bq.client.table, bq.client.names.target(SPEC)
    monkeypatch.setattr(
        bq.client, "table", lambda name: replace(found(name), **state) if name == target else found(name)
    )
    well, text = told(bq)
    assert not well
    assert said in text


def test_partitions_that_expire_are_mentioned(bq, monkeypatch):
    bq.install()
    found, target = bq.client.table, bq.client.names.target(SPEC)
    state = {"partition_expires_s": 86_400.0 * 30}
    monkeypatch.setattr(
        bq.client, "table", lambda name: replace(found(name), **state) if name == target else found(name)
    )
    assert told(bq) == (True, "fits (created), its partitions expire after 30 days, and `onerow check` will miss their rows")


def test_what_is_missing_is_named(bq):
    bq.install()
    assert "lacks version" in told(bq, spec=VERSIONS)[1]
    bq.api.delete_table(bq.client.names.related(SPEC, "_duplicates").reference)
    assert told(bq) == (False, "the view props_duplicates is missing; run `onerow init`")
    bq.api.delete_table(bq.client.names.related(SPEC, "_removed_duplicates").reference)
    assert "props_removed_duplicates is missing" in told(bq)[1]
    bq.api.delete_table(bq.client.names.own("fences", SPEC.name).reference)
    assert "missing in dataset" in told(bq, "control tables")[1]


def test_staging_is_tried_and_leaves_nothing(bq, monkeypatch):
    assert "0 parts wait there" in bq.parts().probe()[0]
    assert bq.client.tables(bq.control) == []
    store = bq.parts()

    def refuse(*_, **__):
        raise StagingError("no")

    monkeypatch.setattr(store.tables.client, "call", refuse)
    with pytest.raises(StagingError):
        store.probe()
