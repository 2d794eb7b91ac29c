"""A commit is believed when the catalog has a snapshot with its signature: the engine's word is not enough."""

from __future__ import annotations

import duckdb
import pytest

from onerow.adapters.warehouse.ducklake.lake import METADATA, Lake
from onerow.core.plans import Committed, Refused, Unknown
from onerow.testing.conformance.harness import Watch, a_row, assert_table, counted


@pytest.fixture
def warehouse(lake):
    lake.stage("b1", "w1", [a_row()])
    return lake.warehouse()


def connection_of(warehouse):
    return warehouse._database.instance()


def abort(connection):
    with pytest.raises(duckdb.Error):
        connection.execute("select error('aborts the transaction')")


def apply(warehouse, plan, before_commit=None):
    with warehouse.prepare(plan) as prepared:
        return warehouse.apply(prepared, Watch(before_commit))


def test_a_transaction_that_was_aborted_before_its_commit_is_tried_again(lake, warehouse):
    plan = lake.plan("b1")
    outcome = apply(warehouse, plan, lambda: abort(connection_of(warehouse)))
    assert isinstance(outcome, Refused)
    assert outcome.reason == "conflict"
    assert_table(lake, [])
    assert counted(apply(warehouse, lake.plan("b1"))) == (1, 1, 0, 0, 0)
    assert_table(lake, [a_row()])


@pytest.fixture
def aborted_after_signing(monkeypatch):
    """The engine takes the COMMIT of such a transaction without a word and keeps nothing."""
    sign = Lake.sign

    def sign_and_abort(self, connection, signature, message):
        sign(self, connection, signature, message)
        abort(connection)

    monkeypatch.setattr(Lake, "sign", sign_and_abort)


@pytest.mark.usefixtures("aborted_after_signing")
def test_a_commit_that_was_taken_and_not_kept_is_unknown_until_it_is_resolved(lake, warehouse):
    plan = lake.plan("b1")
    assert isinstance(apply(warehouse, plan), Unknown)
    assert isinstance(warehouse.resolve(plan), Refused)
    assert_table(lake, [])


@pytest.mark.usefixtures("aborted_after_signing")
def test_control_without_the_look_for_the_signature_it_would_be_called_committed(lake, warehouse, monkeypatch):
    monkeypatch.setattr(Lake, "is_signed", lambda self, connection, signature: True)
    assert isinstance(apply(warehouse, lake.plan("b1")), Committed)
    assert_table(lake, [])


def test_the_snapshots_of_a_lake_tell_who_made_them(lake, warehouse):
    assert isinstance(apply(warehouse, lake.plan("b1")), Committed)
    ((author, message),) = connection_of(warehouse).execute(
        f"select author, commit_message from {METADATA}.ducklake_snapshot_changes order by snapshot_id desc limit 1"
    ).fetchall()
    assert (author, message) == ("onerow", "consolidate batch 'b1' of table 'props'")
