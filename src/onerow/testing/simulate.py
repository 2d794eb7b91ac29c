"""Runs the simulation from the command line.

::

    python -m onerow.testing.simulate --seeds 20000 --jobs 2      many seeds; the first failure is explained
    python -m onerow.testing.simulate --seed 12424                one seed, with its trace
    python -m onerow.testing.simulate --control guard             a protection switched off: must fail
    python -m onerow.testing.simulate --explore                   every interleaving of two consolidations
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from onerow.testing.controls import CONTROLS
from onerow.testing.explore import ONE_BATCH_TWICE, TWO_BATCHES, Exploration, explore
from onerow.testing.world import Kit, Report, run_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 50
PROGRESS_S = 5.0

COVERED = (
    "committed",
    "committed, read back",
    "already merged",
    "refused conflict",
    "refused stale",
    "refused outdated",
    "refused cancelled",
    "unknown",
    "result committed",
    "result already_merged",
    "result fenced",
    "result failed",
    "result unknown",
    "crash",
    "pause",
    "force_release",
)
"""What a run of some hundred seeds must have met: else it proves less than it seems to."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0: all went as it should."""
    options = _parser().parse_args(arguments)
    logging.getLogger("onerow").setLevel(logging.CRITICAL + 1)  # the trace tells more
    if options.explore:
        return _explore(options.control)
    if options.seed is not None:
        report = run_seed(options.seed, kit=_kit(options.control), tracing=True)
        _say("\n".join(report.trace))
        _explain(report, options.control)
        return _verdict([report] if report.violations else [], options.control)
    return _many(options.first, options.first + options.seeds, options.control, options.jobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onerow.testing.simulate", description="Deterministic simulation of the protocol."
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds to run (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--seed", type=int, help="run this seed only, and print its trace")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes to use (default: 1)")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="switch a protection off")
    parser.add_argument("--explore", action="store_true", help="visit every interleaving of two consolidations")
    return parser


def _many(first: int, end: int, control: str | None, jobs: int) -> int:
    begun_s = said_s = time.monotonic()
    counts: Counter[str] = Counter()
    done = steps = 0
    failed: list[Report] = []
    for reports in _blocks(first, end, control, jobs):
        for report in reports:
            counts.update(report.counts)
            done += 1
            steps += report.steps
            failed += [report] if report.violations else []
        now_s = time.monotonic()
        if now_s - said_s >= PROGRESS_S:
            said_s = now_s
            _say(f"{done} of {end - first} seeds, {done / (now_s - begun_s):.0f} seeds/s, {len(failed)} violations")
        if failed:
            break
    seconds = max(time.monotonic() - begun_s, 1e-9)
    _say(f"{done} seeds, {steps} steps, {seconds:.1f} s, {done / seconds:.0f} seeds/s")
    for name in sorted({*counts, *COVERED}):
        _say(f"{counts[name]:>9}  {name}")
    if failed:
        worst = min(failed, key=lambda report: report.seed)
        _explain(run_seed(worst.seed, kit=_kit(control), tracing=True), control, last_lines=40)
    return _verdict(failed, control)


def _blocks(first: int, end: int, control: str | None, jobs: int) -> Iterator[list[Report]]:
    blocks = [(start, min(start + BLOCK, end), control) for start in range(first, end, BLOCK)]
    if jobs <= 1:
        yield from map(_run_block, blocks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_block, blocks)


def _run_block(block: tuple[int, int, str | None]) -> list[Report]:
    logging.getLogger("onerow").setLevel(logging.CRITICAL + 1)
    start, end, control = block
    return [run_seed(seed, kit=_kit(control)) for seed in range(start, end)]


def _kit(control: str | None) -> Kit | None:
    return CONTROLS[control].kit if control else None


def _explain(report: Report, control: str | None, *, last_lines: int = 0) -> None:
    if not report.violations:
        _say(f"seed {report.seed}: no violation in {report.steps} steps, {report.virtual_s:.0f} virtual seconds")
        return
    if last_lines:
        _say("\n".join(report.trace[-last_lines:]))
    for violation in report.violations:
        _say(f"seed {report.seed}: {violation}")
    switched = f" --control {control}" if control else ""
    _say(f"replay: python -m onerow.testing.simulate --seed {report.seed}{switched}")


def _verdict(failed: Sequence[Report], control: str | None) -> int:
    """Return the exit code: a control has to fail in what it is there to break, everything else must not."""
    if control is None or not CONTROLS[control].expects:
        return 1 if failed else 0
    expects = CONTROLS[control].expects
    broken = {violation.invariant for report in failed for violation in report.violations}
    _say(f"control {control} must break {', '.join(sorted(expects))}; broke {', '.join(sorted(broken)) or 'nothing'}")
    return 0 if broken & expects else 1


def _explore(control: str | None) -> int:
    for name, scenario in (("two batches", TWO_BATCHES), ("one batch twice", ONE_BATCH_TWICE)):
        found: Exploration = explore(kit=_kit(control), scenario=scenario)
        end = "complete" if found.complete else f"stopped: {found.violation}"
        _say(f"{name}: {found.executions} executions, {found.states} states, {found.seconds:.1f} s, {end}")
        if found.violation is not None:
            _say("\n".join(found.trace))
            return 0 if control else 1
    return 1 if control and CONTROLS[control].expects else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
