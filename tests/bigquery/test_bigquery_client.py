"""Jobs and calls: each once, whatever becomes of the answer."""

from __future__ import annotations

import pytest

from onerow.adapters.bigquery import client as client_module
from onerow.adapters.bigquery.address import parse_address
from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.bigquery.names import TableName
from onerow.errors import (
    ConfigurationError,
    ConflictError,
    NotInstalledError,
    OutcomeUnknownError,
    WarehouseBusyError,
    WarehouseError,
)


@pytest.fixture
def counter(bq):
    """A table in which every run of a statement leaves a row."""
    name = TableName(bq.project.project, bq.dataset, "counter")
    bq.client.run(f"CREATE TABLE {name.sql} (n INT64)")
    return name


def insert(counter):
    return f"INSERT INTO {counter.sql} (n) VALUES (1)"


def runs(bq, counter):
    return bq.client.run(f"SELECT COUNT(*) FROM {counter.sql}").rows[0][0]


def posts_a_job(asked):
    return asked.startswith(b"POST") and b"/jobs" in asked and b"INSERT INTO" in asked


# --- addresses -------------------------------------------------------------------------------


def test_addresses():
    assert (parse_address("bigquery://p-1/d").project, parse_address("bigquery://p-1/d").dataset) == ("p-1", "d")
    assert parse_address("bigquery://p/d?max_bytes_billed=10").max_bytes_billed == 10


@pytest.mark.parametrize(
    "url",
    [
        "bigquery://p", "bigquery:///d", "bigquery://p/d/t", "bigquery://user@p/d", "bq://p/d", "bigquery://p/d?x=1",
        "bigquery://p/d?max_bytes_billed=much",
    ],
)  # fmt: skip
def test_what_is_no_address(url):
    with pytest.raises(ConfigurationError):
        parse_address(url)


def test_a_control_dataset_that_cannot_be():
    with pytest.raises(ConfigurationError, match="cannot be called 'one-row'"):
        BigQuery("bigquery://p/d", control="one-row")


# --- statements ------------------------------------------------------------------------------


def test_rows_types_and_counts(bq, counter):
    ran = bq.client.run(insert(counter), job="insert")
    assert (ran.job.affected, ran.rows, ran.adopted) == (1, (), False)
    rows = bq.client.run("SELECT 1, 'x', NUMERIC '24.50', DATE '2026-01-17', NULL").rows
    assert [str(value) for value in rows[0]][:2] == ["1", "x"]
    assert rows[0][4] is None


def test_the_same_job_again_is_adopted(bq, counter):
    first = bq.client.run(insert(counter), job="one")
    again = bq.open().run(insert(counter), job="one")
    assert (again.adopted, again.job.job_id, again.job.affected) == (True, first.job.job_id, 1)
    assert runs(bq, counter) == 1


def test_a_job_with_another_statement_is_not_adopted(bq, counter):
    bq.client.run("SELECT 1", job="one")
    with pytest.raises(OutcomeUnknownError, match="another statement"):
        bq.client.run(insert(counter), job="one")
    assert runs(bq, counter) == 0


def test_an_error_of_the_statement(bq):
    with pytest.raises(NotInstalledError, match="notFound"):
        bq.client.run(f"SELECT * FROM `{bq.project.project}.{bq.dataset}.nothing`")
    with pytest.raises(WarehouseError, match="onerow:stale:7"):
        bq.client.run("SELECT IF(TRUE, ERROR('onerow:stale:7;'), 1)", job="signal")
    with pytest.raises(WarehouseError, match="onerow:stale:7"):
        bq.client.run("SELECT IF(TRUE, ERROR('onerow:stale:7;'), 1)", job="signal")


def test_a_dry_run_runs_nothing(bq, counter):
    assert bq.client.dry_run(insert(counter)) >= 0
    assert runs(bq, counter) == 0
    with pytest.raises(WarehouseError):
        bq.client.dry_run("SELEC 1")


# --- the line breaks -------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("job", ["derived", None])
def test_a_lost_answer_repeats_nothing(bq, counter, line, when, job):
    client = bq.open()
    cut = line.cut_when(posts_a_job, when=when)
    ran = client.run(insert(counter), job=job)
    assert cut.is_set()
    assert (ran.job.affected, ran.adopted) == (1, False), "it was ours, so it was not adopted"
    assert runs(bq, counter) == 1


def test_without_the_id_a_lost_answer_repeats_the_statement(bq, counter, line, monkeypatch):
    """The control: were ids not kept, the row would be there twice."""
    client = bq.open()
    send, numbers = client._send, iter("ab")

    def with_new_ids(*args, **kwargs):
        def sending(api):
            return api.query(insert(counter), job_id=f"{args[1]}{next(numbers)}", location="US", retry=None, job_retry=None)

        return send(sending, *args[1:], **kwargs)

    monkeypatch.setattr(client, "_send", with_new_ids)
    cut = line.cut_when(posts_a_job, when="after")
    client.run(insert(counter), job="derived")
    assert cut.is_set()
    assert runs(bq, counter) == 2


def test_a_service_that_stays_away_leaves_the_outcome_unknown(bq, counter, line, monkeypatch):
    client = bq.open()
    assert client.location
    cut = line.cut_when(posts_a_job, when="after")
    lost = client_module.classify

    def and_then_down(error):
        line.refuse()
        return lost(error)

    with monkeypatch.context() as patch:
        patch.setattr(client_module, "classify", and_then_down)
        with pytest.raises(OutcomeUnknownError, match="unknown whether the job"):
            client.run(insert(counter), job="derived", timeout_s=1.0)
    assert cut.is_set()
    assert runs(bq, counter) == 1
    line.refuse(False)
    assert client.run(insert(counter), job="derived").adopted
    assert runs(bq, counter) == 1


def test_calls_are_repeated_while_the_line_is_down(bq, line):
    client = bq.open()
    cut = line.cut_when(lambda asked: b"/datasets/" in asked, when="after")
    assert client.location
    assert cut.is_set()


def test_a_call_gives_up_in_time(bq, line):
    client = bq.open()
    line.refuse()
    with pytest.raises(WarehouseBusyError, match="cannot be looked up"):
        client.call("x cannot be looked up", lambda api: api.get_dataset(bq.dataset, retry=None, timeout=1), timeout_s=0.5)


# --- jobs of unknown end -----------------------------------------------------------------------


def test_a_settled_job_never_begins(bq, counter):
    """The request of a process that was killed may still arrive."""
    bq.client.settle("late")
    with pytest.raises(ConflictError, match="given up"):
        bq.open().run(insert(counter), job="late")
    assert runs(bq, counter) == 0


def test_settling_a_job_that_has_run_changes_nothing(bq, counter):
    bq.client.run(insert(counter), job="done")
    bq.open().settle("done")
    assert bq.client.run(insert(counter), job="done").adopted
    assert runs(bq, counter) == 1


def test_settling_waits_for_nobody_who_cannot_be_reached(bq, line):
    client = bq.open()
    assert client.location
    line.refuse()
    with pytest.raises(OutcomeUnknownError):
        client.settle("x", timeout_s=0.5)


def test_cancelling(bq):
    assert not bq.client.cancel("never started")
    bq.client.run("SELECT 1", job="done")
    assert bq.client.cancel("done")


# --- looking -----------------------------------------------------------------------------------


def test_what_is_not_there(bq):
    assert bq.client.table(TableName(bq.project.project, bq.dataset, "nothing")) is None
    assert bq.client.dataset("nothing_at_all") is None
    assert bq.client.tables(bq.dataset) == []
    with pytest.raises(NotInstalledError, match="Create it in the location"):
        BigQuery(f"bigquery://{bq.project.project}/nothing_at_all").run("SELECT 1")
