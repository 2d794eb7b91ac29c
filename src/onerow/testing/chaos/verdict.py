"""The checker: reads the evidence of a run and says, invariant by invariant, what did not hold.

It shares no code with the product but the words of the table spec: who should have won is worked out here anew,
from what the workers say that they staged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from onerow.testing.chaos.bare import key_of, order_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onerow.ports.warehouse import HistoryEntry
    from onerow.testing.chaos.bare import Row
    from onerow.testing.chaos.evidence import Evidence

INVARIANTS: Final = {
    "I1": "one row per key",
    "I2": "nothing lost",
    "I3": "newest wins",
    "I4": "fenced: tokens never go down",
    "I5": "duplicates are never visible",
    "I6": "every part exactly once, and the counts add up",
    "I7": "only what is merged is removed",
    "I8": "every answer was true",
    "end": "every process ended as it should, nothing waits",
}

_FAILED: Final = frozenset({"failed", "fenced", "lock_timeout"})
_DAMAGED: Final = "part_corrupt"
"""A part that is gone when it is to be merged may have been merged and removed by somebody else a moment before; if it
was not, it is told as removed or as waiting."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold, of ``INVARIANTS``."""

    invariant: str
    message: str


@dataclass(slots=True)
class Verdict:
    """What the checker found.

    Attributes:
        duplicates: rows beyond one per key.
        lost_rows: keys that were staged and are not in the table.
        wrong_winners: keys whose row is not the newest of those that were staged.
    """

    violations: list[Violation] = field(default_factory=list)
    duplicates: int = 0
    lost_rows: int = 0
    wrong_winners: int = 0

    def fail(self, invariant: str, message: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(invariant, message))

    def count(self) -> dict[str, int]:
        """Return the number of violations by invariant, zeros included."""
        found = Counter(violation.invariant for violation in self.violations)
        return {name: found[name] for name in INVARIANTS}


def judge(evidence: Evidence) -> Verdict:
    """Return what did not hold."""
    verdict = Verdict()
    _judge_rows(evidence, verdict)
    _judge_reader(evidence, verdict)
    if not evidence.plain:
        _judge_tokens(evidence.history, verdict)
        _judge_ledger(evidence, verdict)
        _judge_counts(evidence, verdict)
        _judge_removal(evidence, verdict)
        _judge_answers(evidence, verdict)
    for batch, reason in evidence.waiting.items():
        verdict.fail("end", f"batch {batch} could not be merged in the end: {reason}")
    for finding in evidence.findings:
        verdict.fail("end", f"`onerow check` finds: {finding}")
    for defect in evidence.defects:
        verdict.fail("end", defect)
    return verdict


# --- the table: I1, I2, I3 -------------------------------------------------------------------


def _judge_rows(evidence: Evidence, verdict: Verdict) -> None:
    must, may = _staged_rows(evidence)
    newest = _newest(must)
    known = {*must, *may}
    found: dict[Row, list[Row]] = defaultdict(list)
    for row in evidence.table:
        found[key_of(row)].append(row)
        if row not in known:
            verdict.fail("I2", f"a row that nobody staged, or that the ledger does not know of: {_text(row)}")
    for key, rows in found.items():
        if len(rows) > 1:
            verdict.duplicates += len(rows) - 1
            verdict.fail("I1", f"{len(rows)} rows of {_text(key)}")
    for key, winner in newest.items():
        rows = found.get(key, [])
        if not rows:
            verdict.lost_rows += 1
            verdict.fail("I2", f"no row of {_text(key)}, of which {_text(winner)} was staged")
            continue
        best = max(rows, key=order_of)
        if best != winner and not (best in may and order_of(best) > order_of(winner)):
            verdict.wrong_winners += 1
            verdict.fail("I3", f"{_text(best)} stands where {_text(winner)} is newer")


def _staged_rows(evidence: Evidence) -> tuple[set[Row], set[Row]]:
    """Return the rows that the table must account for, and those that it may, because nobody knows.

    With a ledger everybody knows: a part counts if its worker was told or the ledger names it, and no other does. What
    still waits in staging is not lost; it is told as waiting.
    """
    names = {part.part_id: part.worker for part in evidence.manifests}
    merged = {(names.get(line.part_id), line.partition) for line in evidence.ledger}
    waiting = {part.worker for part in evidence.manifests if part.state == "staged"}
    must: set[Row] = set()
    may: set[Row] = set()
    for name, part in evidence.staged.items():
        for partition, rows in part.rows.items():
            if (name, partition) in merged or (part.acknowledged and name not in waiting):
                must.update(rows)
            elif evidence.plain:
                may.update(rows)
    return must, may


def _newest(rows: Iterable[Row]) -> dict[Row, Row]:
    newest: dict[Row, Row] = {}
    for row in rows:
        key = key_of(row)
        if key not in newest or order_of(newest[key]) < order_of(row):
            newest[key] = row
    return newest


# --- the reader: I5, and I2 and I3 at every look ------------------------------------------------


def _judge_reader(evidence: Evidence, verdict: Verdict) -> None:
    for what, invariant, said in (
        ("duplicate", "I5", "a reader saw a key twice"),
        ("vanished", "I2", "a reader saw a key vanish"),
        ("older", "I3", "a reader saw a row replaced by an older one"),
    ):
        if evidence.seen[what]:
            first = next((text for text in evidence.examples if text.startswith(what)), "")
            verdict.fail(invariant, f"{said}, {evidence.seen[what]} times; first {first}")
    if not evidence.seen["looks"]:
        verdict.fail("end", "the reader has not seen the table once")


# --- the ledger and the history: I4, I6 -----------------------------------------------------------


def _judge_tokens(history: Iterable[HistoryEntry], verdict: Verdict) -> None:
    highest: dict[str | None, int] = {}
    for entry in history:
        if entry.token is None:
            continue
        before = highest.get(entry.partition, 0)
        if entry.token < before:
            verdict.fail(
                "I4",
                f"{entry.action} {entry.consolidation} of {entry.partition} committed with token {entry.token} "
                f"after {before}",
            )
        highest[entry.partition] = max(before, entry.token)


def _judge_ledger(evidence: Evidence, verdict: Verdict) -> None:
    parts = {part.part_id: part for part in evidence.manifests}
    for (part_id, partition), times in Counter((line.part_id, line.partition) for line in evidence.ledger).items():
        if times > 1:
            verdict.fail("I6", f"the ledger names part {part_id} {times} times for {partition}")
    for line in evidence.ledger:
        part = parts.get(line.part_id)
        staged = evidence.staged.get(part.worker) if part is not None else None
        if staged is None:
            verdict.fail("I6", f"the ledger names part {line.part_id}, which nobody staged")
        elif len(staged.rows.get(line.partition, ())) != line.rows_staged:
            verdict.fail(
                "I6",
                f"the ledger counts {line.rows_staged} rows of part {line.part_id} in {line.partition}, "
                f"{len(staged.rows.get(line.partition, ()))} were staged",
            )


def _judge_counts(evidence: Evidence, verdict: Verdict) -> None:
    named: Counter[tuple[str, str | None]] = Counter()
    rows: Counter[tuple[str, str | None]] = Counter()
    for line in evidence.ledger:
        named[line.consolidation, line.partition] += 1
        rows[line.consolidation, line.partition] += line.rows_staged
    inserted: Counter[str | None] = Counter()
    told: set[tuple[str, str | None]] = set()
    for entry in evidence.history:
        if entry.action != "consolidate":
            continue
        key = (entry.consolidation, entry.partition)
        counts = (entry.rows_inserted, entry.rows_updated, entry.rows_unchanged, entry.rows_superseded)
        if sum(counts) != entry.rows_staged or min(counts) < 0:
            verdict.fail("I6", f"the counts of {key} do not add up: {counts} of {entry.rows_staged}")
        if key in told:
            verdict.fail("I6", f"the history names {key} twice")
        elif (entry.parts, entry.rows_staged) != (named[key], rows[key]):
            verdict.fail(
                "I6",
                f"{key} says {entry.parts} parts, {entry.rows_staged} rows; the ledger {named[key]}, {rows[key]}",
            )
        told.add(key)
        inserted[entry.partition] += entry.rows_inserted
    for key in named.keys() - told:
        verdict.fail("I6", f"the ledger names {key}, the history does not")
    standing = Counter(key_of(row)[0].isoformat() for row in evidence.table)
    for partition in {*standing, *inserted}:
        if standing[str(partition)] != inserted[partition]:
            verdict.fail(
                "I6", f"{partition} has {standing[str(partition)]} rows, {inserted[partition]} were inserted"
            )


# --- staging: I2, I7 ------------------------------------------------------------------------------


def _judge_removal(evidence: Evidence, verdict: Verdict) -> None:
    merged = {(line.part_id, line.partition) for line in evidence.ledger}
    known = set()
    for part in evidence.manifests:
        known.add(part.part_id)
        left = [name for name in part.partition_names(partitioned=True) if (part.part_id, name) not in merged]
        if left and part.state in {"retired", "purged"}:
            verdict.fail("I7", f"part {part.part_id} of {part.worker} is {part.state} but not merged into {left}")
        elif left:
            verdict.fail("end", f"part {part.part_id} of {part.worker} still waits to be merged into {left}")
    for name, staged in evidence.staged.items():
        if staged.acknowledged and staged.acknowledged not in known:
            verdict.fail("I7", f"part {staged.acknowledged} of {name} was acknowledged and is not known any more")


# --- what was answered: I7, I8 -----------------------------------------------------------------------


def _judge_answers(evidence: Evidence, verdict: Verdict) -> None:
    committed = {
        (entry.consolidation, entry.partition): entry for entry in evidence.history if entry.action == "consolidate"
    }
    for event in evidence.results:
        result = event["result"]
        for part in result["partitions"]:
            _judge_answer(result["consolidation"], part, committed, verdict)
    for part_id in evidence.missing:
        verdict.fail("I8", f"part {part_id} was acknowledged, and not in the ledger after a consolidation's success")


def _judge_answer(
    run: str, part: dict[str, Any], committed: dict[tuple[str, str | None], HistoryEntry], verdict: Verdict
) -> None:
    entry = committed.get((run, part["partition"]))
    if part["status"] == "committed":
        counts = ("parts", "rows_staged", "rows_inserted", "rows_updated", "rows_unchanged", "rows_superseded")
        if entry is None:
            verdict.fail("I8", f"{run} reports {part['partition']} as committed; the history has nothing of it")
        elif any(getattr(entry, name) != part[name] for name in counts):
            verdict.fail("I8", f"{run} reports other counts of {part['partition']} than its commit has")
    elif part["status"] in _FAILED and entry is not None:
        verdict.fail("I8", f"{run} reports {part['partition']} as {part['status']}, and has committed it")
    if part["error_kind"] == _DAMAGED:
        verdict.fail("I7", f"{run} of {part['partition']}: {part['error']}")


def _text(row: Row) -> str:
    return ", ".join(str(value) for value in row)
