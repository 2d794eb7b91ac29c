"""What a run tells: the verdict, the numbers, and what of it was kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.errors import EXIT_DONE, EXIT_FINDINGS
from onerow.testing.chaos.verdict import INVARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.testing.chaos.evidence import Evidence
    from onerow.testing.chaos.plan import Options
    from onerow.testing.chaos.verdict import Verdict, Violation

MAX_TOLD: Final = 20

NUMBERS: Final = (
    "consolidations", "committed", "parts", "rows_staged", "rows", "kills", "pauses", "fenced", "retries",
    "lock_waits", "lock_wait_s", "lost_leases", "forced_releases", "unknown", "looks",
    "duplicates", "lost_rows", "wrong_winners",
)  # fmt: skip
"""The numbers of a report, in this order. ``committed`` counts partitions, ``fenced`` commits that were refused
because the lease had passed on, ``unknown`` answers that were resolved later."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a run.

    Attributes:
        engine: the warehouse's kind, in a word or two.
        faults: how often each fault was done to the run, by kind.
        not_applicable: faults that could not be done to these backends, with the reason.
        errors: what consolidations, stagings and looks failed with, by kind. Failing is allowed, lying is not.
        kept: what a run with violations leaves behind, by what it is.
    """

    engine: str
    warehouse: str
    locks: str
    table: str
    options: Options
    numbers: Mapping[str, float]
    faults: Mapping[str, int]
    not_applicable: Mapping[str, str]
    errors: Mapping[str, int]
    violated: Mapping[str, int]
    violations: tuple[Violation, ...]
    kept: Mapping[str, str]

    @property
    def clean(self) -> bool:
        """Whether every invariant held."""
        return not self.violations

    @property
    def exit_code(self) -> int:
        """0: clean, 3: violations."""
        return EXIT_DONE if self.clean else EXIT_FINDINGS

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        return {
            "clean": self.clean,
            "engine": self.engine,
            "warehouse": self.warehouse,
            "locks": self.locks,
            "table": self.table,
            "seed": self.options.seed,
            "seconds": self.options.seconds,
            "processes": self.options.processes,
            "invariants": {
                name: {"says": said, "violations": self.violated[name]} for name, said in INVARIANTS.items()
            },
            "numbers": dict(self.numbers),
            "faults": dict(self.faults),
            "not_applicable": dict(self.not_applicable),
            "errors": dict(self.errors),
            "violations": [
                {"invariant": violation.invariant, "message": violation.message}
                for violation in self.violations[:MAX_TOLD]
            ],
            "kept": dict(self.kept),
        }


def count_up(evidence: Evidence, verdict: Verdict, faults: Mapping[str, int]) -> dict[str, float]:
    """Return the numbers of a report."""
    answers = [part for event in evidence.results for part in event["result"]["partitions"]]
    status = Counter(part["status"] for part in answers)
    heard: Counter[str] = Counter()
    for event in evidence.results:
        heard.update(event["heard"])
    numbers = {
        "consolidations": len(evidence.results),
        "committed": sum(entry.action == "consolidate" for entry in evidence.history),
        "parts": len(evidence.staged),
        "rows_staged": sum(len(rows) for part in evidence.staged.values() for rows in part.rows.values()),
        "rows": len(evidence.table),
        "kills": faults.get("kill", 0),
        "pauses": faults.get("pause", 0),
        "fenced": status["fenced"],
        "retries": sum(max(part["attempts"] - 1, 0) for part in answers),
        "lock_waits": heard["lock_waiting"],
        "lock_wait_s": round(sum(part["lock_wait_s"] for part in answers), 1),
        "lost_leases": heard["lock_lost"],
        "forced_releases": evidence.forced,
        "unknown": status["unknown"],
        "looks": evidence.seen["looks"],
        "duplicates": verdict.duplicates,
        "lost_rows": verdict.lost_rows,
        "wrong_winners": verdict.wrong_winners,
    }
    return {name: numbers[name] for name in NUMBERS}


def count_errors(evidence: Evidence) -> dict[str, int]:
    """Return what failed, by kind."""
    errors = Counter(evidence.errors)
    for event in evidence.results:
        errors.update(part["error_kind"] for part in event["result"]["partitions"] if part["error_kind"])
    return dict(sorted(errors.items()))
