"""Every protection is needed: switched off, it is missed within 500 seeds. With it, nothing breaks.

The named failures of the incident's fix (design, section 1) that can be simulated are here: 1 to 4, 6, 7, 9
and 11 to 14. The others (5, 8, 10 and 15) are plain tests on real adapters.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from onerow.services.group import Request
from onerow.testing.controls import CONTROLS, as_drawn, first_break
from onerow.testing.faults import FaultPlan
from onerow.testing.scenario import DATES, SPEC, Scenario, draw_scenario
from onerow.testing.world import Kit, World

SEEDS = range(500)
CALM_SEEDS = range(40)


def breaks(name):
    """Check that the control is missed, and that the real system holds on the same seeds."""
    control = CONTROLS[name]
    report = first_break(control, SEEDS)
    assert report is not None, f"{control.says}: no seed below {len(SEEDS)} shows it"
    for seed in {*CALM_SEEDS, report.seed}:
        unmodified = World(seed, control.unmodified).run()
        assert not unmodified.violations, f"seed {seed}: {unmodified.violations[0]}"
    return report


def test_guard_off_breaks_one_row():
    breaks("guard")


def test_guard_off_numbers_two_versions_alike():
    breaks("versions-guard")


def test_contents_that_nobody_looks_at_stand_twice():
    breaks("versions-contents")


def test_numbers_that_nobody_looks_at_are_given_twice():
    breaks("versions-numbers")


def test_verification_off_lets_a_foreign_version_through():
    breaks("versions-verification")


def test_token_off_breaks_the_fence():
    breaks("token")


def test_ledger_off_breaks_exactly_once():
    breaks("ledger")


def test_verification_off_lets_foreign_duplicates_through():
    breaks("verification")


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_lock_off_breaks_nothing(first):
    """It only wastes work, which is the point."""
    for seed in range(first, first + 50):
        report = World(seed, CONTROLS["lock"].kit).run()
        assert not report.violations, f"seed {seed}: {report.violations[0]}"


def test_lock_off_wastes_work():
    def conflicts(kit):
        return sum(World(seed, kit).run().counts["refused conflict"] for seed in range(60))

    assert conflicts(CONTROLS["lock"].kit) > conflicts(Kit(shape=as_drawn))


def test_failure_01_expired_holder_commits():
    breaks("expired-holder")


def test_failure_02_release_of_somebody_elses_lock():
    breaks("careless-release")


def test_failure_03_local_clocks_decide_expiry():
    breaks("local-clocks")


def test_failure_04_no_renewal():
    breaks("no-renewal")


def test_failure_06_a_check_that_could_not_run_counts_as_passed():
    breaks("unrun-check")


def test_failure_07_validation_after_commit():
    breaks("check-after-commit")


def test_failure_09_last_merge_wins():
    breaks("last-merge-wins")


def test_failure_11_clean_up_looks_again():
    breaks("clean-up-lists-again")


def test_failure_12_rows_of_other_dates():
    breaks("one-date")


def test_failure_13_crash_between_merge_and_clean_up():
    breaks("no-ledger")


@pytest.mark.parametrize("seed", range(20))
def test_failure_14_existing_duplicates(seed):
    """Duplicates that were there before fail their own date, loudly; the other dates are merged."""
    drawn = draw_scenario(seed)
    row = ("old", DATES[0], "magic", None, 0, 1)
    rows = [("new", date, "jokic", None, number, 2) for number, date in enumerate(DATES)]
    staging = replace(drawn.stagings[0], batch="b1", columns=SPEC.column_names, rows=tuple(rows), at_us=(0,))
    scenario = Scenario(stagings=(staging,), jobs=(), commit_domain=drawn.commit_domain, max_partitions=2)
    world = World(seed, Kit(heal=False), scenario, FaultPlan())
    world.checker.start_with([row])
    world.warehouse.insert_foreign(SPEC, [row, row])
    results = []

    def consolidate():
        world.scheduler.sleep_us(1)
        consolidator = world.consolidator(world.scheduler.process("p"))
        request = Request(spec=SPEC, batch="b1", holder="p")
        results.append(consolidator.consolidate(request))
        state = world.warehouse.database.tables[SPEC.name]
        doubled = next(number for number, found in state.rows.items() if found[2] == "magic")
        transaction = world.warehouse.database.begin(SPEC.name, "repair")
        transaction.deleted, transaction.unchecked = {doubled}, True
        world.warehouse.database.commit(transaction)
        results.append(consolidator.consolidate(request))

    world.scheduler.spawn(world.scheduler.process("p"), "p", consolidate)
    report = world.run()
    first, second = results
    assert first.status == "failed"
    assert {part.partition: part.status for part in first.partitions} == {
        DATES[0].isoformat(): "failed",
        DATES[1].isoformat(): "committed",
        DATES[2].isoformat(): "committed",
    }
    (failed,) = (part for part in first.partitions if part.status == "failed")
    assert failed.error_kind == "duplicates"
    assert "magic" in failed.error
    assert first.parts_removed == 0, "a part with a failed date stays"
    assert second.status == "committed"
    assert second.parts_removed == 1
    assert not report.violations


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_says_what_it_breaks(name):
    control = CONTROLS[name]
    assert control.says
    assert control.expects or name in {"lock", "scripts", "scripts-claim-not-needed"}
    known = {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "lease", "efficiency", "liveness"}
    assert control.expects <= known
