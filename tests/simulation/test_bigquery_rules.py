"""The protocol under BigQuery's documented rules, in every reading of what the documentation leaves open."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from onerow.core.plans import Refused
from onerow.testing.bigquery_model import MAX_QUEUED, READINGS, BigQueryModel, Job, TableLocks
from onerow.testing.controls import CONTROLS, first_break
from onerow.testing.memory_parts import MemoryParts
from onerow.testing.scenario import spec_of
from onerow.testing.world import Kit, World

SEEDS = 60


@pytest.mark.parametrize("reading", READINGS)
def test_no_reading_breaks_an_invariant(reading):
    counts = Counter()
    for seed in range(SEEDS):
        kit = Kit(warehouse=BigQueryModel, reading=lambda _: reading, spec=spec_of(seed))
        report = World(seed, kit).run()
        assert not report.violations, f"seed {seed}, {reading}: {report.violations[0]}"
        counts.update(report.counts)
    for name in ("committed", "committed, read back", "already merged", "refused conflict", "refused stale", "unknown"):
        assert counts[name], f"{SEEDS} seeds never met: {name}"


@pytest.mark.parametrize("name", ["scripts-guard", "scripts-token", "scripts-claim"])
def test_a_protection_that_is_switched_off_is_missed(name):
    control = CONTROLS[name]
    report = first_break(control, range(300))
    assert report is not None, f"{control.says}: no seed shows it"
    unmodified = World(report.seed, control.unmodified).run()
    assert not unmodified.violations, unmodified.violations[0]


def test_in_the_best_reading_the_claim_is_not_needed():
    for seed in range(SEEDS):
        report = World(seed, CONTROLS["scripts-claim-not-needed"].kit).run()
        assert not report.violations, f"seed {seed}: {report.violations[0]}"


class Direct:
    """A service without others."""

    reading = READINGS[0]

    def run(self, what, work):
        work()

    def wait_until(self, ready, what):
        assert ready(), f"{what} would wait for ever"


def test_the_statement_after_twenty_that_wait_fails():
    """Q3: twenty statements wait for a table; the next one is refused and says so."""
    model = BigQueryModel(service=Direct(), parts=MemoryParts(monotonic_s=lambda: 0.0))
    model._locks["props"] = TableLocks(waiting=MAX_QUEUED)
    job = Job("one more")
    model._run(job, partial(lambda job: model._claim(job, "props")))
    assert isinstance(job.outcome, Refused)
    assert job.outcome.reason == "conflict"
    model._locks["props"].waiting -= 1
    model._run(again := Job("again"), partial(lambda job: model._claim(job, "props")))
    assert (again.outcome, model._locks["props"].claim) == (None, again)
