"""Whether all is well: only what was looked at counts, and the gravest reason comes first."""

from __future__ import annotations

import datetime as dt

import pytest

from onerow.core.results import ConsolidationResult
from onerow.services.locks import LockState
from onerow.services.overview.model import (
    Backlog,
    BatchSeen,
    Checked,
    IncidentSeen,
    LockSeen,
    QuarantineSeen,
    Section,
)
from onerow.services.overview.verdict import span, verdict
from onerow.services.runs import RunEntry

NOW = dt.datetime(2026, 1, 17, 12, tzinfo=dt.UTC)
CLEAN = Checked("t", "clean", "2026-01-17T11:59:00Z", 60.0, rows=10, partitions=1)


def judge(**sections):
    seen = {
        "checks": (CLEAN,),
        "incidents": (),
        "locks": (),
        "batches": (),
        "backlog": (),
        "quarantine": (),
        "runs": (),
    } | sections
    return verdict(**{name: as_section(value) for name, value in seen.items()}, now=NOW)


def as_section(value):
    return value if isinstance(value, Section) else Section(value, "2026-01-17T12:00:00Z")


def incident(**more):
    return IncidentSeen(
        **{
            "fingerprint": "duplicates/t",
            "kind": "duplicates",
            "level": "CRITICAL",
            "open": True,
            "table": "t",
            "what": "2 keys of t stand more than once.",
            "of": "partition",
            "members": ("2026-01-17",),
            "more_members": 0,
            "command": "onerow check",
            "since": "2026-01-17T11:00:00Z",
            "resolved_at": None,
            "undelivered": (),
        }
        | more
    )


def lock(**more):
    state = {
        "scope": "t/2026-01-17",
        "kind": "lease",
        "state": "held",
        "token": 5,
        "holder": "me@host:1",
        "batch": "b",
        "held_for_s": 10.0,
        "renewed_ago_s": 1.0,
        "expires_in_s": 29.0,
        "renewals": 1,
    } | more
    return LockSeen(LockState(**state), "2026-01-17T11:59:50Z", too_long=state["held_for_s"] > 600)


def run(status, *, ago_s=60.0, batch="b", name="c"):
    ended = NOW - dt.timedelta(seconds=ago_s)
    return RunEntry(ConsolidationResult(name, "t", batch, status), ended - dt.timedelta(seconds=1), ended, 1.0)


def test_all_is_well_when_everything_was_looked_at_and_nothing_found():
    found = judge(locks=(lock(),), runs=(run("committed"),), quarantine=(QuarantineSeen("q", "t", "b", "w", "s", 2, ""),))
    assert (found.level, found.headline, found.reasons) == ("well", "All is well", ())


@pytest.mark.parametrize(
    ("state", "level", "said"),
    [
        ("never", "unknown", "was not checked yet"),
        ("old", "unknown", "last checked 2 h ago"),
        ("failed", "unknown", "could not run: the warehouse is away"),
        ("findings", "warning", "3 rows break"),
        ("duplicates", "critical", "2 keys of t stand more than once (3 rows too many)"),
    ],
)
def test_a_check_that_did_not_end_clean_is_never_well(state, level, said):
    check = Checked(
        "t",
        state,
        "" if state == "never" else "2026-01-17T10:00:00Z",
        7200.0,
        duplicate_keys=2 if state == "duplicates" else 0,
        extra_rows=3,
        findings=("3 rows break a rule.",),
        error="the warehouse is away",
    )
    found = judge(checks=(CLEAN, check))
    assert found.level == level
    assert said in found.reasons[0].text


@pytest.mark.parametrize("name", ["checks", "incidents", "locks", "batches", "quarantine", "runs"])
def test_what_could_not_be_looked_at_makes_it_unknown_even_if_it_was_well_before(name):
    before = (CLEAN,) if name == "checks" else ()
    found = judge(**{name: Section(before, "2026-01-17T11:00:00Z", "The lock store is away.", "lock_store")})
    assert (found.level, found.headline) == ("unknown", "Cannot tell")
    assert "The lock store is away." in found.reasons[0].text


def test_the_gravest_reason_comes_first_and_not_knowing_is_graver_than_a_warning():
    found = judge(
        checks=(Checked("t", "never"),),
        incidents=(incident(level="WARNING", kind="lock_wait", what="waited"), incident(kind="x", what="broken")),
    )
    assert [reason.level for reason in found.reasons] == ["critical", "unknown", "warning"]
    assert found.headline == "Act now"


def test_an_incident_of_duplicates_is_not_told_twice():
    check = Checked("t", "duplicates", "2026-01-17T11:59:00Z", 60.0, duplicate_keys=2, extra_rows=2)
    assert [reason.section for reason in judge(checks=(check,), incidents=(incident(),)).reasons] == ["incidents"]
    over = incident(open=False, resolved_at="2026-01-17T11:30:00Z")
    assert [reason.section for reason in judge(checks=(check,), incidents=(over,)).reasons] == ["checks"]


def test_incidents_for_information_and_those_that_are_over_are_no_reason():
    assert judge(incidents=(incident(level="INFO"), incident(open=False))).level == "well"


def test_an_alert_that_could_not_be_delivered_is_told():
    found = judge(incidents=(incident(open=False, undelivered=("slack: 500",)),))
    assert (found.level, found.reasons[0].text) == ("warning", "Alerts could not be delivered yet to: slack.")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"state": "expired", "renewed_ago_s": 700.0}, "has not renewed it for 11 min 40 s"),
        ({"held_for_s": 3700.0}, "holds the lock of t/2026-01-17 for 1 h 1 min"),
    ],
)
def test_a_lock_that_nobody_renews_or_that_is_held_long_is_a_warning(more, said):
    found = judge(locks=(lock(**more),))
    assert found.level == "warning"
    assert said in found.reasons[0].text


def test_a_turn_to_commit_and_a_lock_taken_away_are_no_reason():
    assert judge(locks=(lock(kind="turn", state="expired"), lock(state="free"))).level == "well"


def test_a_late_batch_and_old_staging_are_warnings():
    late = BatchSeen("t", "b", "staged", registered="incomplete", late=True)
    old = Backlog("t", 1, 1, 10, "2026-01-17T09:00:00Z", 10_800.0, too_old=True)
    found = judge(batches=(late,), backlog=(old,))
    assert [reason.section for reason in found.reasons] == ["batches", "staging"]


def test_a_failure_counts_until_a_newer_run_of_the_batch_ends_well_or_a_day_has_passed():
    assert judge(runs=(run("failed"),)).level == "warning"
    assert judge(runs=(run("unknown"),)).level == "unknown"
    assert judge(runs=(run("committed", ago_s=10), run("failed"))).level == "well"
    assert judge(runs=(run("committed", ago_s=10, batch="other"), run("failed"))).level == "warning"
    assert judge(runs=(run("failed", ago_s=90_000),)).level == "well"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.0123, "12 ms"), (1.2, "1 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_061, "1 d 1 h"), (3660, "1 h 1 min")],
)
def test_spans_are_told_in_their_two_largest_units(seconds, said):
    assert span(seconds) == said
