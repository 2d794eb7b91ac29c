"""Draws the newest results of all engines: ``python -m benchmarks.plot`` writes ``results/speed.svg``."""

from __future__ import annotations

import json
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from benchmarks import data

ENGINES: Final = {"duckdb_merge": "DuckDB file", "postgresql": "PostgreSQL", "ducklake": "DuckLake"}
GOALS: Final = {"587 rows": None, "100,000 rows": 1.3, "1,000,000 rows, 37 dates": 1.15}


def newest(name: str) -> dict[str, Any] | None:
    """Return the newest results of a benchmark; None if it was never run."""
    files = sorted(data.RESULTS.glob(f"{name}-2*.json"))
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


def ratios(found: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Return median and quartiles of onerow against the fastest plain MERGE, by batch."""
    spreads = {}
    for result in found["results"]:
        # DuckDB's own benchmark measures several sides, the others one.
        ratio = result["sides"]["big"]["ratio"]["merge"] if "sides" in result else result["ratio"]
        spreads[result["batch"] if "batch" in result else result["workload"]] = (
            ratio["q1"],
            ratio["median"],
            ratio["q3"],
        )
    return spreads


def main() -> None:
    """Draw what was measured."""
    figure, axes = plt.subplots(figsize=(8, 4))
    width = 0.25
    for place, (name, title) in enumerate(ENGINES.items()):
        found = newest(name)
        if found is None:
            continue
        spreads = ratios(found)
        for at, batch in enumerate(GOALS):
            if batch in spreads:
                q1, median, q3 = spreads[batch]
                x = at + (place - 1) * width
                axes.bar(x, median, width * 0.9, color=f"C{place}", label=title if not at else None)
                axes.errorbar(x, median, yerr=[[median - q1], [q3 - median]], color="black", capsize=3)
                axes.annotate(f"{median:.2f}", (x, q3), ha="center", va="bottom", fontsize=8)
    for at, goal in enumerate(GOALS.values()):
        if goal is not None:
            axes.hlines(goal, at - 0.45, at + 0.45, color="gray", linestyles="dashed", linewidth=1)
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks(range(len(GOALS)), list(GOALS))
    axes.set_ylabel("time of onerow / time of the fastest plain MERGE")
    axes.set_title("The whole path of onerow against the bare engine (median and quartiles of pairs)", fontsize=10)
    axes.legend(fontsize=8)
    figure.tight_layout()
    target = data.RESULTS / "speed.svg"
    figure.savefig(target)
    print(f"written to {target}")


if __name__ == "__main__":
    main()
