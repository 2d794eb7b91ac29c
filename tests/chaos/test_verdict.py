"""The checker of the torture test sees every violation: each test breaks one thing in the evidence of a sound run."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace

import pytest

from onerow.core.parts import PartManifest
from onerow.ports.warehouse import HistoryEntry
from onerow.testing.chaos.bare import LedgerLine
from onerow.testing.chaos.evidence import Evidence, StagedRows
from onerow.testing.chaos.plan import DAYS, row_of
from onerow.testing.chaos.verdict import INVARIANTS, judge

DAY, NEXT = (day.isoformat() for day in DAYS[:2])
OLD = tuple(row_of(("w0-1-0", 0, 7, 100)).values())
NEW = tuple(row_of(("w1-1-0", 0, 7, 200)).values())
OTHER = tuple(row_of(("w1-1-1", 1, 8, 50)).values())
AT = dt.datetime(2026, 1, 11, tzinfo=dt.UTC)


def manifest(part_id, worker, partitions, state="retired"):
    return PartManifest(
        part_id=part_id, table="t", batch="b", worker=worker, rows=sum(partitions.values()), partitions=partitions,
        columns=(), content_digest="", data="", data_digest="", size_bytes=0, staged_at="", state=state,
    )  # fmt: skip


def entry(run, partition, token, *, second, staged=1, inserted=1, updated=0, action="consolidate"):
    return HistoryEntry(
        action=action, table="t", partition=partition, batch="b", consolidation=run, attempt=1, token=token,
        unlocked=token is None, holder="h", parts=1, rows_staged=staged, rows_inserted=inserted, rows_updated=updated,
        rows_unchanged=0, rows_superseded=0, merge_s=0.0, verify_s=0.0, reason="",
        committed_at=AT + dt.timedelta(seconds=second),
    )  # fmt: skip


def answer(run, partition, status="committed", **changes):
    part = {
        "partition": partition, "status": status, "parts": 1, "rows_staged": 1, "rows_inserted": 1, "rows_updated": 0,
        "rows_unchanged": 0, "rows_superseded": 0, "attempts": 1, "lock_wait_s": 0.0, "error": None, "error_kind": None,
    }  # fmt: skip
    return {"lock": True, "heard": {}, "result": {"consolidation": run, "partitions": [{**part, **changes}]}}


def sound():
    """Two parts: the second's row of one key is newer, and it has a row of the next day."""
    return Evidence(
        staged={
            "w0-1": StagedRows("b", {DAY: [OLD]}, acknowledged="p1"),
            "w1-1": StagedRows("b", {DAY: [NEW], NEXT: [OTHER]}, acknowledged="p2"),
        },
        results=[answer("c1", DAY), answer("c2", NEXT)],
        seen=Counter(looks=3),
        table=[NEW, OTHER],
        ledger=[
            LedgerLine("p1", DAY, "b", "c1", 1),
            LedgerLine("p2", DAY, "b", "c2", 1),
            LedgerLine("p2", NEXT, "b", "c2", 1),
        ],
        history=[
            entry("c1", DAY, 5, second=1),
            entry("c2", DAY, 6, second=2, inserted=0, updated=1),
            entry("c2", NEXT, 3, second=2),
        ],
        manifests=[manifest("p1", "w0-1", {DAY: 1}), manifest("p2", "w1-1", {DAY: 1, NEXT: 1})],
    )


def broken(evidence):
    """Return the invariants that the checker finds broken."""
    return {name for name, count in judge(evidence).count().items() if count}


def test_a_sound_run_has_no_violation():
    verdict = judge(sound())
    assert verdict.violations == []
    assert set(verdict.count()) == set(INVARIANTS)
    assert (verdict.duplicates, verdict.lost_rows, verdict.wrong_winners) == (0, 0, 0)


def test_a_key_with_two_rows():
    evidence = replace(sound(), table=[OLD, NEW, OTHER])
    assert "I1" in broken(evidence)
    assert judge(evidence).duplicates == 1


def test_a_lost_row():
    evidence = replace(sound(), table=[NEW])
    assert "I2" in broken(evidence)
    assert judge(evidence).lost_rows == 1


def test_a_row_that_nobody_staged():
    foreign = tuple(row_of(("somebody", 0, 9, 1)).values())
    assert "I2" in broken(replace(sound(), table=[NEW, OTHER, foreign]))


def test_a_row_of_a_part_that_the_ledger_does_not_name():
    evidence = sound()
    evidence.staged["w2-1"] = StagedRows("b", {DAY: [tuple(row_of(("w2-1-0", 0, 9, 1)).values())]})
    assert broken(evidence) == set()  # staged, never told, not merged: nothing is wrong
    evidence.table = [*evidence.table, *evidence.staged["w2-1"].rows[DAY]]
    assert "I2" in broken(evidence)


def test_a_part_that_was_merged_though_its_worker_was_never_told_counts():
    evidence = sound()
    evidence.staged["w1-1"].acknowledged = ""
    assert broken(evidence) == set()
    evidence.table = [OLD, OTHER]
    assert broken(evidence) == {"I3"}


def test_an_older_row_that_won():
    evidence = replace(sound(), table=[OLD, OTHER])
    assert broken(evidence) == {"I3"}
    assert judge(evidence).wrong_winners == 1


def test_a_row_that_was_changed_on_its_way():
    changed = (*NEW[:6], 99.9, NEW[7])
    assert broken(replace(sound(), table=[changed, OTHER])) >= {"I2", "I3"}


@pytest.mark.parametrize("action", ["consolidate", "force_release"])
def test_a_token_that_goes_down(action):
    evidence = sound()
    first = entry("c0", DAY, 6, second=0, action=action, staged=0, inserted=0)
    evidence.history = [first, *evidence.history]
    assert "I4" in broken(evidence)


def test_tokens_of_other_scopes_and_unlocked_commits_do_not_count():
    evidence = sound()
    evidence.history[1] = replace(evidence.history[1], token=None, unlocked=True)
    assert broken(evidence) == set()


@pytest.mark.parametrize(("what", "invariant"), [("duplicate", "I5"), ("vanished", "I2"), ("older", "I3")])
def test_what_the_reader_saw(what, invariant):
    evidence = replace(sound(), seen=Counter({"looks": 3, what: 1}))
    assert broken(evidence) == {invariant}


def test_a_reader_that_saw_nothing_at_all():
    assert broken(replace(sound(), seen=Counter())) == {"end"}


def test_a_part_that_is_merged_twice():
    evidence = sound()
    evidence.ledger = [*evidence.ledger, evidence.ledger[0]]
    assert "I6" in broken(evidence)


def test_a_ledger_that_counts_other_rows_than_were_staged():
    evidence = sound()
    evidence.ledger[0] = evidence.ledger[0]._replace(rows_staged=2)
    assert "I6" in broken(evidence)


def test_a_ledger_that_names_what_nobody_staged():
    evidence = sound()
    evidence.ledger = [*evidence.ledger, LedgerLine("p9", DAY, "b", "c1", 1)]
    assert "I6" in broken(evidence)


def test_counts_that_do_not_add_up():
    evidence = sound()
    evidence.history[0] = replace(evidence.history[0], rows_unchanged=1)
    assert broken(evidence) >= {"I6"}


def test_a_history_that_does_not_explain_the_table():
    evidence = sound()
    evidence.history[1] = replace(evidence.history[1], rows_inserted=1, rows_updated=0)
    assert broken(evidence) == {"I6"}


def test_a_history_without_what_the_ledger_names():
    evidence = sound()
    del evidence.history[2]
    assert broken(evidence) >= {"I6", "I8"}


def test_a_part_that_was_removed_and_is_not_merged():
    evidence = sound()
    evidence.staged["w2-1"] = StagedRows("b", {DAY: [OLD]}, acknowledged="p3")
    evidence.manifests = [*evidence.manifests, manifest("p3", "w2-1", {DAY: 1})]
    assert broken(evidence) == {"I7"}


def test_a_part_that_was_never_merged_waits_and_is_not_lost():
    evidence = sound()
    unseen = tuple(row_of(("w2-1-0", 0, 9, 1)).values())
    evidence.staged["w2-1"] = StagedRows("b", {DAY: [unseen]}, acknowledged="p3")
    evidence.manifests = [*evidence.manifests, manifest("p3", "w2-1", {DAY: 1}, state="staged")]
    assert broken(evidence) == {"end"}
    assert judge(evidence).lost_rows == 0


def test_an_acknowledged_part_that_nobody_knows_any_more():
    evidence = sound()
    evidence.staged["w2-1"] = StagedRows("b", {DAY: [OLD]}, acknowledged="p3")
    assert broken(evidence) == {"I7"}


def test_a_part_whose_data_was_damaged_when_it_was_to_be_merged():
    evidence = sound()
    evidence.results = [answer("c3", DAY, "failed", error_kind="part_corrupt", error="other bytes")]
    assert broken(evidence) == {"I7"}


def test_a_commit_that_was_reported_and_is_not_there():
    evidence = sound()
    evidence.results = [answer("c9", DAY)]
    assert broken(evidence) == {"I8"}


def test_counts_that_were_reported_otherwise():
    evidence = sound()
    evidence.results = [answer("c1", DAY, rows_inserted=0, rows_updated=1)]
    assert broken(evidence) == {"I8"}


@pytest.mark.parametrize("status", ["failed", "fenced", "lock_timeout"])
def test_a_failure_that_was_reported_and_has_committed(status):
    evidence = sound()
    evidence.results = [answer("c1", DAY, status)]
    assert broken(evidence) == {"I8"}


def test_an_unknown_outcome_may_be_either():
    evidence = sound()
    evidence.results = [answer("c1", DAY, "unknown"), answer("c9", DAY, "unknown")]
    assert broken(evidence) == set()


def test_a_success_after_which_an_acknowledged_part_was_not_merged():
    assert broken(replace(sound(), missing=["p1"])) == {"I8"}


def test_what_did_not_end_well():
    assert broken(replace(sound(), waiting={"b": "it hangs"})) == {"end"}
    assert broken(replace(sound(), findings=["2 rows of k"])) == {"end"}
    assert broken(replace(sound(), defects=["worker 1 ended with 1"])) == {"end"}


def test_a_plain_merge_is_judged_by_its_rows_alone():
    evidence = Evidence(staged=sound().staged, table=[NEW, OTHER], seen=Counter(looks=1), plain=True)
    assert broken(evidence) == set()
    evidence.staged["w1-1"].acknowledged = ""  # nobody knows whether it was merged
    assert broken(evidence) == set()
    assert broken(replace(evidence, table=[OLD])) == set()
    assert broken(replace(evidence, table=[OLD, NEW])) == {"I1"}
    assert broken(replace(evidence, table=[OTHER])) == {"I2"}
