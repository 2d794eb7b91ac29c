"""The torture test on every engine, and beside it the same work without onerow and with protections switched off.

``make chaos`` runs ``onerow chaos``'s kit on every engine; ``python -m benchmarks.chaos --compare`` prints the
README's table as Markdown. PostgreSQL servers are started as the tests do it (``tests`` must be importable).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onerow.config import Settings, companion_locks, parse_url
from onerow.errors import EXIT_DONE, gravest
from onerow.testing import chaos
from onerow.testing.firestore.process import Double

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ENGINES: Final[dict[str, str]] = {
    "DuckDB file": "duckdb:///warehouse.duckdb",
    "DuckLake, SQLite catalog": "ducklake:sqlite:///catalog.sqlite?data_path=lake",
    "DuckLake, PostgreSQL catalog": "ducklake:{postgresql}data_path=lake",
    "PostgreSQL": "{postgresql}",
    "DuckLake, SQLite catalog, Firestore locks": "ducklake:sqlite:///catalog.sqlite?data_path=lake",
    "DuckLake, PostgreSQL catalog, Firestore locks": "ducklake:{postgresql}data_path=lake",
    "PostgreSQL, Firestore locks": "{postgresql}",
}
FIRESTORE: Final = "Firestore locks"
"""Where it stands in a name, locks are in the test kit's double of Firestore, a process of its own."""

OVERLAPPING: Final[Mapping[str, Any]] = {"unlocked": 1.0, "linger_s": 0.05}
STALE: Final[Mapping[str, Any]] = {"stumbles": "leased", "unlocked": 0.0, "fault_every_s": 1e9, "skewed": False}


@dataclass(frozen=True)
class Way:
    """One column of the table: how the work is done."""

    title: str
    options: Mapping[str, Any]


WAYS: Final = (
    Way("plain MERGE", {"plain": True}),
    Way("onerow", {}),
    Way("lock off", {"unlocked": 1.0}),
    Way("guard and lock off", {**OVERLAPPING, "without": frozenset({"guard"})}),
    Way("token off", {**STALE, "without": frozenset({"token", "lease_check"})}),
)


@contextmanager
def backends(names: Sequence[str]) -> Iterator[dict[str, Settings]]:
    """Give the settings of each engine, in folders and databases that are gone afterwards."""
    servers: Any = import_module("support.postgres")
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onerow-chaos-backends-"))
            made: dict[str, Settings] = {}
            emulator = ""
            for number, name in enumerate(names):
                home = Path(folder) / str(number)
                home.mkdir()
                url = ENGINES[name]
                if "{postgresql}" in url:
                    databases = servers.databases()
                    server = databases.url(databases.create())
                    url = url.format(postgresql=server + ("&" if "?" in server else "?")).rstrip("?&")
                warehouse = parse_url(url, home)
                locks = companion_locks(warehouse)
                if FIRESTORE in name:
                    emulator = emulator or stack.enter_context(Double()).address
                    locks = parse_url(f"firestore://chaos-{number}?emulator={emulator}", home)
                made[name] = Settings(warehouse=warehouse, locks=locks, staging=home / "staging", tables={})
            yield made
    finally:
        servers.close_all()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0: everything held, 3: something did not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long each run is (default: 2)")
    parser.add_argument("--processes", type=int, default=6, help="how many workers there are (default: 6)")
    parser.add_argument("--seed", type=int, default=1, help="what everybody does is drawn from it (default: 1)")
    parser.add_argument("--engine", action="append", choices=sorted(ENGINES), help="only these (default: all)")
    parser.add_argument("--compare", action="store_true", help="measure all ways of the table, print Markdown")
    parser.add_argument("--results", type=Path, help="write all reports to this file, as JSON")
    asked = parser.parse_args(arguments)
    logging.getLogger("onerow").setLevel(logging.CRITICAL + 1)  # the reports tell it
    names = asked.engine or list(ENGINES)
    reports: dict[str, dict[str, chaos.Report]] = {}
    with backends(names) as made:
        for name in names:
            for way in WAYS if asked.compare else WAYS[1:2]:
                report = run(made[name], asked, way)
                reports.setdefault(name, {})[way.title] = report
                say(f"{name}, {way.title}: {verdict(report)}")
                for violation in () if asked.compare else report.violations[:10]:
                    say(f"  {violation.invariant}: {violation.message}")
    if asked.results:
        told = {name: {way: report.to_json() for way, report in found.items()} for name, found in reports.items()}
        asked.results.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if asked.compare:
        sys.stdout.write(markdown(reports))
        return EXIT_DONE
    return gravest([found["onerow"].exit_code for found in reports.values()])


def run(settings: Settings, asked: argparse.Namespace, way: Way) -> chaos.Report:
    """Run one way on one engine."""
    options = chaos.Options(
        seconds=asked.minutes * 60, processes=asked.processes, seed=asked.seed, **way.options
    )
    return chaos.run(settings, options)


def verdict(report: chaos.Report) -> str:
    """Return a run in one line."""
    broken = ", ".join(name for name, count in report.violated.items() if count)
    numbers = ", ".join(f"{int(value)} {name.replace('_', ' ')}" for name, value in report.numbers.items() if value)
    return f"{f'BROKEN {broken}' if broken else 'clean'}: {numbers}"


def markdown(reports: Mapping[str, Mapping[str, chaos.Report]]) -> str:
    """Return the table: each cell duplicates / lost rows / wrong winners, and other invariants that were broken."""
    lines = [
        "| engine | " + " | ".join(way.title for way in WAYS) + " |",
        "| --- |" + " --- |" * len(WAYS),
    ]
    for name, found in reports.items():
        lines.append(f"| {name} | " + " | ".join(cell(found[way.title]) for way in WAYS) + " |")
    return "\n".join(lines) + "\n"


def cell(report: chaos.Report) -> str:
    """Return what a run did to the data, in a few words."""
    numbers = report.numbers
    wrong = [
        f"{int(numbers[name])} {said}"
        for name, said in (("duplicates", "duplicates"), ("lost_rows", "lost"), ("wrong_winners", "wrong winners"))
        if numbers[name]
    ]
    if report.violated["I4"]:
        wrong.append(f"{report.violated['I4']} stale commits")
    if not wrong and not report.clean:
        wrong.append("broken: " + ", ".join(name for name, count in report.violated.items() if count))
    return ", ".join(wrong) or "0"


def say(text: str) -> None:
    """Tell it at once, beside the table."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
