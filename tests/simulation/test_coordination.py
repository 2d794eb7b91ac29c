"""Coordinators in the simulation: killed, paused, doubled and cut off at any point, they consolidate what is complete."""

from __future__ import annotations

import pytest

from onerow.testing.coordination import COORDINATION_CONTROLS, BatchPlan, CoordinationWorld, coordination_world
from onerow.testing.faults import FaultPlan
from onerow.testing.scenario import COLUMNS, DATES, LINES, SPEC, Scenario, Staging
from onerow.testing.world import Kit

BLOCK = 10
SEEDS = 80
CONTROL_SEEDS = 70

TWO_PARTS = Scenario(
    stagings=tuple(
        Staging("b1", worker, COLUMNS, ((f"id-{worker}", DATES[0], "jokic", LINES[0], number, 20),), (0,))
        for number, worker in enumerate(("w1", "w2"))
    ),
    jobs=(),
)
"""One batch of two parts with one and the same key; the second worker dies before it reports."""

ONE_BATCH = {"b1": BatchPlan("parts", 0, frozenset({"w2"}))}


def struck(at, fault):
    """Run the two parts with one fault at a switch point of a coordinator or of a request."""
    world = CoordinationWorld(
        7, Kit(spec=SPEC), TWO_PARTS, FaultPlan(), batch_plans=dict(ONE_BATCH), strike_at=(at, fault)
    )
    return world, world.run()


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_whatever_fails_every_part_is_merged_once_and_the_records_say_so(first):
    for seed in range(first, first + BLOCK):
        report = coordination_world(seed).run()
        assert not report.violations, f"seed {seed}: {report.violations[0]}"


@pytest.mark.parametrize("fault", ["crash", "pause"])
def test_a_crash_or_a_pause_past_the_claim_at_every_single_point(fault):
    at = 0
    while True:
        at += 1
        world, report = struck(at, fault)
        assert not report.violations, f"{fault} at {at}: {report.violations[0]}"
        if not report.counts[fault]:
            break
    assert at > 100
    assert world.counts["work"] == 1


def test_with_nothing_failing_each_batch_is_consolidated_once():
    for seed in range(25):
        report = coordination_world(seed, plan=FaultPlan()).run()
        assert not report.violations, f"seed {seed}: {report.violations[0]}"
        assert not report.counts["already merged"], f"seed {seed}: two coordinators have done the same work"


@pytest.mark.parametrize("name", COORDINATION_CONTROLS)
def test_negative_control(name):
    """Without compare-and-swap, without the end of a claim, without looking: the simulation sees it."""
    control = COORDINATION_CONTROLS[name]
    for seed in range(CONTROL_SEEDS):
        report = coordination_world(seed, control.kit, plan=control.plan).run()
        broken = {violation.invariant for violation in report.violations}
        if broken:
            assert broken <= control.expects, f"seed {seed}: {broken}"
            assert not coordination_world(seed, plan=control.plan).run().violations
            return
    raise AssertionError(f"{name}: {CONTROL_SEEDS} seeds have not seen it")
