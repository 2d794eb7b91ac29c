"""What a run has left behind, gathered for the verdict: journals, staging, ledger, history and the table itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from onerow.testing.chaos import journal as journals
from onerow.testing.chaos.plan import row_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onerow.core.parts import PartManifest
    from onerow.ports.warehouse import HistoryEntry
    from onerow.services.store import Store
    from onerow.testing.chaos.bare import Bare, LedgerLine, Row

ALL: Final = 100_000_000


@dataclass(slots=True)
class StagedRows:
    """A part as its worker knows it.

    Attributes:
        rows: by partition, as canonical text.
        acknowledged: the identity that the worker was told; "" if it was never told.
    """

    batch: str
    rows: Mapping[str, Sequence[Row]]
    acknowledged: str = ""


@dataclass(slots=True)
class Evidence:
    """Everything that the verdict looks at. Each part can be made by hand, for the tests of the verdict.

    Attributes:
        staged: by the part's name, which is its worker's in the manifest.
        results: the journals' results of consolidations: ``lock``, ``heard``, ``result``.
        missing: parts that were not in the ledger right after a success that should have merged them.
        seen: what the reader saw: number of ``duplicate``, ``vanished``, ``older``, and of ``looks``.
        table: the rows of the scratch table, read plainly.
        history: oldest commit first.
        waiting: batches that could not be merged in the end, with the reason.
        findings: what ``onerow check`` found in the end.
        defects: processes that ended as no process of ours should.
    """

    staged: dict[str, StagedRows] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    forced: int = 0
    table: Sequence[Row] = ()
    ledger: Sequence[LedgerLine] = ()
    history: Sequence[HistoryEntry] = ()
    manifests: Sequence[PartManifest] = ()
    waiting: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    plain: bool = False


def read_journals(folder: Path, evidence: Evidence) -> None:
    """Take everything that the processes have written down."""
    for path in sorted(folder.glob(f"*{journals.SUFFIX}")):
        for event in journals.read(path):
            _take(event, evidence)


def _take(event: dict[str, Any], evidence: Evidence) -> None:
    match event["e"]:
        case "staging":
            rows: dict[str, list[Row]] = {}
            for draw in event["rows"]:
                row = row_of(tuple(draw))
                rows.setdefault(row["game_date"].isoformat(), []).append(tuple(row.values()))
            evidence.staged.setdefault(event["part"], StagedRows(event["batch"], rows))
        case "staged":
            evidence.staged[event["part"]].acknowledged = event["id"]
        case "result":
            evidence.results.append(event)
        case "merged":
            evidence.results.append({"heard": {}, "result": {"partitions": []}})
        case "looked":
            evidence.missing += event["missing"]
        case "error":
            evidence.errors[event["kind"]] += 1
        case "looks":
            names = ("duplicate", "vanished", "older")
            evidence.seen = Counter({"looks": event["count"], **{name: event.get(name, 0) for name in names}})
        case "saw":
            evidence.examples.append(f"{event['what']}: {', '.join(event['key'])}")
        case "forced":
            evidence.forced += 1


def read_store(store: Store, table: str, evidence: Evidence) -> None:
    """Take what onerow itself tells: manifests, history, and its own check."""
    parts = store.ports.parts
    evidence.manifests = [part for batch in parts.batches(table) for part in parts.parts(table, batch)]
    history = store.history(table, limit=ALL)
    evidence.history = sorted(history, key=lambda entry: entry.committed_at)
    for report in store.check(table):
        if report.result is None:
            evidence.findings.append(f"the check could not run: {report.error}")
        else:
            evidence.findings += [finding.message for finding in report.result.findings]
            evidence.findings += [f"{found.rows} rows of {dict(found.key)}" for found in report.result.duplicates]


def read_engine(bare: Bare, evidence: Evidence) -> None:
    """Take what stands in the engine, read without onerow."""
    evidence.table = bare.rows()
    if not evidence.plain:
        evidence.ledger = bare.ledger()
