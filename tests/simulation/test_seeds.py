"""The real protocol under 500 seeds. A failure prints the command that replays it."""

from __future__ import annotations

from collections import Counter

import pytest

from onerow.testing.simulate import COVERED
from onerow.testing.world import run_seed

SEEDS = 500
BLOCK = 50


def replay(report):
    lines = [str(violation) for violation in report.violations]
    return "\n".join([*lines, f"python -m onerow.testing.simulate --seed {report.seed}"])


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_breaks_an_invariant(first):
    for seed in range(first, first + BLOCK):
        report = run_seed(seed)
        assert not report.violations, replay(report)


@pytest.mark.parametrize("first", [0])
def test_the_seeds_meet_what_they_are_for(first):
    """Hundreds of quiet runs would prove nothing: every outcome and every fault has to have been there."""
    counts = Counter()
    for seed in range(first, first + 150):
        counts.update(run_seed(seed).counts)
    missing = [name for name in COVERED if not counts[name]]
    assert not missing


# Seeds that found something once. Each keeps the story of what it found.
FOUND = {
    12424: "A grant was believed on reading back an older grant of the same owner, which had run out.",
    17501: "A waiter waited for its own lease: its swap had been given up and arrived later.",
}


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_found_something_stays_found(seed):
    report = run_seed(seed)
    assert not report.violations, replay(report)
