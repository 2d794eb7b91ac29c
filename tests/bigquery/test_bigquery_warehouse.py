"""What only this warehouse does: chunks, claims, jobs whose end nobody has heard of. On the emulator."""

from __future__ import annotations

import time
from functools import partial

import pytest

from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.preparation import SCRATCH, Preparation
from onerow.adapters.warehouse.bigquery.script import MergeSteps
from onerow.adapters.warehouse.bigquery.warehouse import BigQueryWarehouse
from onerow.core.partitions import Scope
from onerow.core.plans import AlreadyMerged, Committed, Refused, Unknown, plan_merge, unmerged
from onerow.errors import LockStoreMismatchError, NotInstalledError, OutcomeUnknownError, StaleLeaseError
from onerow.ports.warehouse import InspectRequest
from onerow.services.leases import Unlocked
from onerow.testing.conformance.harness import DAY, SPEC, WarehouseHarness, a_row, at

LOCKS = "locks"


def stage(bq, *rows, batch="b1", worker="w1", parts=None):
    harness = type("Parts", (), {"spec": SPEC, "parts": parts or bq.parts()})()
    return WarehouseHarness.stage(harness, batch, worker, rows)


def plan_of(bq, *, batch="b1", run="run", attempt=1, token=1):
    waiting = unmerged(bq.parts().parts("props", batch), frozenset(), partitioned=True)
    return plan_merge(
        spec=SPEC,
        batch=batch,
        consolidation=run,
        attempt=attempt,
        holder="me",
        waiting=waiting,
        tokens={Scope("props", name): token for name in waiting},
        lock_store=LOCKS,
    )


def merge(warehouse, plan):
    with warehouse.prepare(plan) as prepared:
        return warehouse.apply(prepared, Unlocked())


@pytest.fixture
def warehouse(bq):
    bq.install()
    return BigQueryWarehouse(bq.client)


def test_a_batch_of_many_parts_is_gathered_in_chunks(bq, warehouse):
    """Two tables a query: seven parts become chunks, and chunks of chunks; nothing of it is left."""
    for number in range(7):
        stage(bq, a_row(player=f"p{number}"), a_row(player="all", created_at=at(number)), worker=f"w{number}")
    chunked = BigQueryWarehouse(bq.client, preparation=partial(Preparation, max_tables=2))
    outcome = merge(chunked, plan_of(bq))
    assert isinstance(outcome, Committed)
    counts = outcome.counts[DAY.isoformat()]
    assert (counts.staged, counts.inserted, counts.superseded) == (14, 8, 6)
    assert len(warehouse.merged("props", "b1")) == 7
    assert bq.client.tables(bq.control, prefix=SCRATCH) == []


def test_the_claim_of_a_job_that_has_ended_is_taken_over(bq, warehouse):
    """A script that was refused leaves its name in the guard row; so does one that never ran."""
    stage(bq, a_row())
    guards = bq.client.names.own("guards", "props")
    bq.client.run(f"UPDATE {guards.sql} SET claimed_by = 'a job that nobody has heard of' WHERE TRUE")
    assert isinstance(merge(warehouse, plan_of(bq)), Committed)
    ((claimed, changed),) = bq.client.run(f"SELECT claimed_by, changed_by FROM {guards.sql}").rows
    assert claimed is None
    assert changed.startswith("props run.1 ")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ("DELETE FROM {guards} WHERE TRUE", NotInstalledError, "has 0 guard rows"),
        ("INSERT INTO {guards} SELECT * FROM {guards}", NotInstalledError, "has 2 guard rows"),
        ("UPDATE {guards} SET lock_store = 'an; \\'odd\\' one' WHERE TRUE", LockStoreMismatchError, "lock store an; 'odd' one,"),
        ("UPDATE {guards} SET lock_store = NULL WHERE TRUE", LockStoreMismatchError, "lock store ,"),
    ],
)
def test_a_guard_that_is_not_as_it_should_be_is_told(bq, warehouse, change, error, told):
    """One statement claims or says why not; what it cannot see, that there is no row, the transaction sees."""
    stage(bq, a_row())
    guards = bq.client.names.own("guards", "props").sql
    bq.client.run(change.format(guards=guards))
    outcome = merge(warehouse, plan_of(bq))
    assert isinstance(outcome, Refused)
    assert (outcome.reason, type(outcome.error)) == ("failed", error)
    assert told in outcome.error.message
    assert bq.client.run(f"SELECT COUNT(*) FROM {bq.client.names.target(SPEC).sql}").rows == ((0,),)
    assert bq.client.run(f"SELECT COUNT(*) FROM {guards} WHERE changed_by LIKE 'props run.%'").rows == ((0,),)


def test_a_claim_that_was_taken_over_commits_nothing(bq, warehouse):
    """Somebody took the job for ended and claimed the row after it: the transaction sees another name there."""

    class TakenOver(MergeSteps):
        def claim(self):
            guards = bq.client.names.own("guards", "props").sql
            return [*super().claim(), f"UPDATE {guards} SET claimed_by = 'another job' WHERE TRUE"]

    stage(bq, a_row())
    outcome = merge(BigQueryWarehouse(bq.open(), merging=TakenOver), plan_of(bq))
    assert isinstance(outcome, Refused)
    assert outcome.reason == "conflict"
    assert "not changed exactly once" in outcome.error.message
    assert bq.client.run(f"SELECT COUNT(*) FROM {bq.client.names.target(SPEC).sql}").rows == ((0,),)


def test_a_lost_reply_is_unknown_until_it_is_read_back(bq, warehouse, monkeypatch):
    """The job ran; nobody was told. The same job is found, and not repeated."""
    stage(bq, a_row())
    run = bq.client.run

    def lose(statement, parameters=(), **options):
        ran = run(statement, parameters, **options)
        if options.get("job") is not None:
            monkeypatch.setattr(bq.client, "run", run)
            raise OutcomeUnknownError("the line is cut")
        return ran

    monkeypatch.setattr(bq.client, "run", lose)
    plan = plan_of(bq)
    assert isinstance(merge(warehouse, plan), Unknown)
    found = warehouse.resolve(plan)
    assert isinstance(found, Committed)
    assert found.read_back
    again = BigQueryWarehouse(bq.open())
    assert isinstance(merge(again, plan), Unknown), "a job of this transaction has run; what it did is read back"
    assert isinstance(again.resolve(plan), Committed)
    assert len(warehouse.history(table="props", batch="b1", limit=9)) == 1


def test_what_was_given_up_does_not_begin_later(bq, warehouse):
    """Whoever is told that nothing was committed can rely on it: the id of the job is used up."""
    stage(bq, a_row())
    plan = plan_of(bq)
    assert isinstance(warehouse.resolve(plan), Refused)
    late = merge(BigQueryWarehouse(bq.open()), plan)
    assert isinstance(late, Refused)
    assert late.reason == "conflict"
    assert isinstance(merge(warehouse, plan_of(bq, attempt=2)), Committed)


def test_costs_are_in_the_result_and_the_history(bq, warehouse):
    """Those of the preparation are known before the commit; the script's own are told when it has ended."""
    stage(bq, a_row())
    outcome = merge(warehouse, plan_of(bq))
    assert isinstance(outcome, Committed)
    assert set(outcome.details) == {"bytes_processed", "slot_ms"}
    history = bq.client.names.shared("history").sql
    deadline_s = time.monotonic() + 10
    while not (told := bq.client.run(f"SELECT job FROM {history} WHERE action = 'cost'").rows):
        assert time.monotonic() < deadline_s
    assert told == bq.client.run(f"SELECT job FROM {history} WHERE action = 'consolidate'").rows
    (before,) = warehouse.history(table="props", batch=None, limit=9)
    bq.client.run(f"UPDATE {history} SET bytes_processed = bytes_processed + 7, slot_ms = 11 WHERE action = 'cost'")
    (entry,) = warehouse.history(table="props", batch=None, limit=9)
    assert (entry.action, entry.bytes_processed) == ("consolidate", before.bytes_processed + 7)
    assert entry.slot_ms >= 11
    assert warehouse.inspect(InspectRequest(SPEC)).findings == ()


class ForgetsUpdates(MergeSteps):
    """A merge that only inserts, and a verification that does not compare the rows."""

    def _query(self, name, **more):
        if name == "when_newer":
            return sql.Rendered("WHEN MATCHED AND FALSE THEN DELETE")
        return super()._query(name, **more)

    def verify(self):
        return self.check(self.refuse_counts())


def test_the_statistics_of_the_merge_must_agree_with_the_counts(bq, warehouse):
    stage(bq, a_row())
    assert isinstance(merge(warehouse, plan_of(bq)), Committed)
    stage(bq, a_row(points=2.0, created_at=at(1)), batch="b2")
    outcome = merge(BigQueryWarehouse(bq.open(), merging=ForgetsUpdates), plan_of(bq, batch="b2", run="run2", token=2))
    assert isinstance(outcome, Refused)
    assert "changed other rows" in str(outcome.error)


def test_an_estimate_runs_nothing(bq, warehouse, monkeypatch):
    monkeypatch.delattr("onerow.adapters.bigquery.client.BigQuery.run")
    estimate = warehouse.estimate(SPEC, [DAY.isoformat()])
    assert estimate.bytes_touched <= estimate.bytes_table


def test_of_several_refusals_the_first_step_is_told(bq, warehouse):
    """One statement asks for all of them: the guard's, the token's, the ledger's."""
    stage(bq, a_row())
    assert isinstance(merge(warehouse, plan_of(bq, token=7)), Committed)
    assert isinstance(merge(warehouse, plan_of(bq, run="run2", token=7)), AlreadyMerged)
    outcome = merge(warehouse, plan_of(bq, run="run3", token=6))
    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.fence) == ("stale", 7)
    guards = bq.client.names.own("guards", "props").sql
    bq.client.run(f"INSERT INTO {guards} SELECT * FROM {guards}")
    outcome = merge(warehouse, plan_of(bq, run="run4", token=6))
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, NotInstalledError)


def test_a_statement_between_the_merge_and_its_verification_is_noticed(bq, warehouse):
    """The engine tells how many rows the statement before has changed, and no other one."""

    class Between(MergeSteps):
        def merge(self):
            return [*super().merge(), "SELECT 1"]

    stage(bq, a_row())
    outcome = merge(BigQueryWarehouse(bq.open(), merging=Between), plan_of(bq))
    assert isinstance(outcome, Refused)
    assert "changed other rows" in str(outcome.error)


def test_a_refused_script_commits_nothing_and_says_why(bq, warehouse):
    stage(bq, a_row())
    assert warehouse.raise_fence(SPEC, Scope("props", DAY.isoformat()), token=50, by="me", reason="stuck") == 50
    outcome = merge(warehouse, plan_of(bq, token=49))
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, StaleLeaseError)
    assert outcome.fence == 50
    assert bq.client.run(f"SELECT COUNT(*) FROM {bq.client.names.target(SPEC).sql}").rows == ((0,),)
