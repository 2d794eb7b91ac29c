"""Every interleaving of two consolidations with at most one fault."""

from __future__ import annotations

import pytest

from onerow.testing.controls import CONTROLS
from onerow.testing.explore import ONE_BATCH_TWICE, TWO_BATCHES, explore, replay


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute on a free core; `make simulate` explores one batch that is consolidated twice too
def test_no_interleaving_of_two_batches_breaks_an_invariant():
    found = explore(scenario=TWO_BATCHES)
    assert found.violation is None, "\n".join(found.trace)
    assert found.complete
    assert found.states > 5_000


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("control", "invariant"), [("guard", {"I1"}), ("token", {"I4"}), ("ledger", {"I6"})])
def test_exploration_finds_what_is_missing(control, invariant):
    scenario = ONE_BATCH_TWICE if control == "ledger" else TWO_BATCHES
    found = explore(kit=CONTROLS[control].kit, scenario=scenario)
    assert found.violation is not None
    assert found.violation.invariant in invariant
    assert replay(found.choices, kit=CONTROLS[control].kit, scenario=scenario) == found.trace
