"""Figures of consolidations: percentiles, days, what counts as a wait, a duration and a check."""

from __future__ import annotations

import datetime as dt

import pytest

from onerow.core.results import ConsolidationResult, PartitionResult
from onerow.services.overview.figures import days_until, figures, spread
from onerow.services.runs import RunEntry

DAYS = ("2026-01-16", "2026-01-17")


def run(*partitions, day="2026-01-17", status="committed", elapsed_s=1.0, name="c1"):
    started = dt.datetime.fromisoformat(f"{day}T23:59:59+00:00")
    result = ConsolidationResult(name, "t", "b", status, partitions)
    return RunEntry(result, started, started + dt.timedelta(seconds=elapsed_s), elapsed_s)


def part(status="committed", **more):
    return PartitionResult("p", status, **{"token": 7, **more})


def test_percentiles_are_values_that_were_seen():
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0, 10.0, 9.0, 8.0, 7.0, 6.0])
    assert (found.count, found.p50_s, found.p90_s, found.p99_s, found.longest_s) == (10, 5.0, 9.0, 10.0, 10.0)
    alone = spread([3.5])
    assert (alone.p50_s, alone.p99_s) == (3.5, 3.5)
    assert spread([]) is None


def test_a_day_is_utc_and_runs_of_other_days_are_left_out():
    late = run(part())  # ends on the next day, counts where it began
    found = figures([late, run(part(), day="2026-01-15")], DAYS)
    assert [day.consolidations for day in found.days] == [0, 1]
    assert found.total.consolidations == 1
    assert days_until(dt.datetime(2026, 1, 17, 0, 0, 1, tzinfo=dt.UTC), 2) == DAYS


@pytest.mark.parametrize("idle", ["already_merged", "nothing_staged"])
def test_a_run_that_had_nothing_to_do_says_nothing_of_durations(idle):
    found = figures([run(part(idle, token=None), status=idle, elapsed_s=0.001), run(part(), elapsed_s=3.0)], DAYS)
    assert found.total.duration.count == 1
    assert found.total.duration.longest_s == 3.0
    assert found.total.lock_wait.count == 1


def test_a_lock_that_was_not_had_counts_as_a_wait():
    found = figures([run(part("lock_timeout", token=None, lock_wait_s=300.0), status="lock_timeout")], DAYS)
    assert found.total.lock_wait.longest_s == 300.0


def test_checks_inside_the_transaction_pass_or_fail_and_a_fenced_one_is_neither():
    found = figures(
        [
            run(part(), part()),
            run(part("failed", error_kind="duplicates"), status="failed"),
            run(part("failed", error_kind="verification"), status="failed"),
            run(part("failed", error_kind="warehouse"), status="failed"),
            run(part("fenced", error_kind="stale_lease"), status="fenced"),
        ],
        DAYS,
    )
    assert (found.total.verified, found.total.refused, found.total.pass_rate) == (2, 2, 0.5)
    assert found.days[0].pass_rate is None
    assert found.total.outcomes == {"committed": 1, "failed": 3, "fenced": 1}


def test_only_committed_rows_count():
    found = figures(
        [
            run(part(rows_inserted=3, rows_updated=2, rows_unchanged=1, rows_superseded=4)),
            run(part("failed", rows_staged=99), status="failed"),
        ],
        DAYS,
    )
    assert found.total.rows.to_json() == {"inserted": 3, "updated": 2, "unchanged": 1, "superseded": 4}
    assert found.days[1].rows.staged == 10
