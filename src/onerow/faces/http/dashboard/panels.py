"""What the overview page shows beside the overview itself: sums at a glance, and figures as charts and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onerow.faces.http.dashboard import charts
from onerow.services.overview.verdict import NONE, counted, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.faces.http.dashboard.charts import Chart
    from onerow.services.overview.figures import Figures, Period, Spread
    from onerow.services.overview.model import Checked, Limits, Overview

UNSEEN = "unknown"
MAX_COLUMNS = 14
MAX_SERIES = 4


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart with the same figures in words and as a table.

    Attributes:
        chart: None if there is nothing to draw; the words tell why.
        legend: the names of its series, empty where it shows spreads.
        style: a class that changes the colours of the series.
    """

    id: str
    title: str
    summary: str
    chart: Chart | None
    legend: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    style: str = ""


def facts(seen: Overview) -> dict[str, Any]:
    """Return the sums at a glance; what could not be seen is called unknown, never 0."""
    checks, incidents, locks = seen.checks.value, seen.incidents.value, seen.locks.value
    backlog, figures = seen.backlog.value, seen.figures.value
    duplicates = UNSEEN
    if checks and any(check.duplicate_keys for check in checks):
        duplicates = f"{sum(check.duplicate_keys for check in checks):,}"
    elif checks and all(check.state in {"clean", "findings"} for check in checks):
        duplicates = "0"
    rate = None if figures is None else figures.total.pass_rate
    return {
        "duplicates": duplicates,
        "incidents": UNSEEN if incidents is None else f"{sum(incident.open for incident in incidents):,}",
        "locks": UNSEEN if locks is None else f"{sum(lock.lock.state != 'free' for lock in locks):,}",
        "parts": UNSEEN if backlog is None else f"{sum(item.parts for item in backlog):,}",
        "passed": UNSEEN if figures is None else "none ran" if rate is None else percent(rate),
        "quarantined": sum(entry.rows for entry in seen.quarantine.value or ()),
    }


def percent(share: float) -> str:
    """Return a share as percents; it is 100 % only if nothing is missing."""
    if share == 1.0:
        return "100 %"
    return f"{min(share * 100, 99.99):.2f} %".replace(".00", "")


def panels(seen: Overview, limits: Limits) -> list[Panel]:
    """Return the charts; those of consolidations only if any has run."""
    found = [] if seen.checks.value is None else [_duplicates(seen.checks.value)]
    figures = seen.figures.value
    if figures is not None and figures.total.consolidations:
        found += [_outcomes(figures), _durations(figures, limits)]
        found += [_waits(figures, limits), _verified(figures), _rows(figures)]
    return found


def _duplicates(checks: Sequence[Checked]) -> Panel:
    """Return the duplicates by partition, one series for each table; a table without partitions is told in words."""
    tables = [check for check in checks if check.duplicate_keys]
    series = tables[:MAX_SERIES]
    counts = {
        (check.table, item.partition): item.keys
        for check in series
        for item in check.by_partition
        if item.partition is not None
    }
    names = sorted({name for _, name in counts})[-MAX_COLUMNS:]
    columns = [(name, tuple(counts.get((check.table, name), 0) for check in series)) for name in names]
    untold = [check.table for check in checks if check.state in {"never", "failed", "old"}]
    if tables:
        summary = ", ".join(f"{check.table}: {counted(check.duplicate_keys, 'key')}" for check in tables) + "."
    elif untold:
        summary = f"Not known for {', '.join(untold)}."
    else:
        summary = f"None in {counted(sum(check.partitions for check in checks), 'partition')} of all tables."
    return Panel(
        id="duplicates",
        title="Keys with duplicates, by partition",
        summary=summary,
        chart=charts.stacked(columns, [f"keys of {check.table}" for check in series]) if columns else None,
        legend=tuple(check.table for check in series),
        head=("Partition", *(check.table for check in series)),
        rows=tuple((name, *(f"{count:,}" for count in counted_keys)) for name, counted_keys in columns),
        style="bad",
    )


def _outcomes(figures: Figures) -> Panel:
    groups = (
        ("ended well", ("committed", "already_merged", "nothing_staged")),
        ("lock not had, or fenced out", ("lock_timeout", "fenced")),
        ("failed", ("failed",)),
        ("unknown", ("unknown",)),
    )

    def counts(period: Period) -> tuple[int, ...]:
        return tuple(sum(period.outcomes.get(status, 0) for status in statuses) for _, statuses in groups)

    names = tuple(name for name, _ in groups)
    said = ", ".join(f"{count:,} {name}" for count, name in zip(counts(figures.total), names, strict=True) if count)
    return Panel(
        id="outcomes",
        title="How consolidations ended",
        summary=f"{said}.",
        chart=charts.stacked([(day.day, counts(day)) for day in figures.days], names),
        legend=names,
        head=("Day", *(name.capitalize() for name in names)),
        rows=tuple((day.day, *(f"{count:,}" for count in counts(day))) for day in figures.days),
        style="outcomes",
    )


def _durations(figures: Figures, limits: Limits) -> Panel:
    return Panel(
        id="durations",
        title="How long consolidations take",
        summary=_spread(figures.total.duration),
        chart=charts.spreads(figures.days, _duration, limit_s=limits.consolidation_s),
        legend=(),
        head=("Day", "Consolidations", "p50", "p90", "p99", "Longest"),
        rows=tuple((day.day, f"{day.consolidations:,}", *_cells(day.duration)) for day in figures.days),
    )


def _waits(figures: Figures, limits: Limits) -> Panel:
    return Panel(
        id="waits",
        title="How long locks are waited for",
        summary=_spread(figures.total.lock_wait),
        chart=charts.spreads(figures.days, _wait, limit_s=limits.lock_wait_s),
        legend=(),
        head=("Day", "Locks", "p50", "p90", "p99", "Longest"),
        rows=tuple(
            (day.day, f"{day.lock_wait.count if day.lock_wait else 0:,}", *_cells(day.lock_wait))
            for day in figures.days
        ),
    )


def _verified(figures: Figures) -> Panel:
    total = figures.total
    rate = "No check has run." if total.pass_rate is None else f"{percent(total.pass_rate)} passed."
    return Panel(
        id="verified",
        title="Checks inside the transactions",
        summary=f"{rate} {total.verified:,} passed, {total.refused:,} failed and were rolled back.",
        chart=charts.stacked([(day.day, (day.verified, day.refused)) for day in figures.days], ["passed", "failed"]),
        legend=("passed", "failed, rolled back"),
        head=("Day", "Passed", "Failed", "Pass rate"),
        rows=tuple(
            (
                day.day,
                f"{day.verified:,}",
                f"{day.refused:,}",
                NONE if day.pass_rate is None else percent(day.pass_rate),
            )
            for day in figures.days
        ),
        style="two",
    )


def _rows(figures: Figures) -> Panel:
    kinds = ("inserted", "updated", "unchanged", "superseded")

    def counts(period: Period) -> tuple[int, ...]:
        return tuple(getattr(period.rows, kind) for kind in kinds)

    said = ", ".join(f"{count:,} {kind}" for count, kind in zip(counts(figures.total), kinds, strict=True))
    return Panel(
        id="rows",
        title="What became of the rows",
        summary=f"{counted(figures.total.rows.staged, 'row')} merged: {said}.",
        chart=charts.stacked([(day.day, counts(day)) for day in figures.days], kinds),
        legend=kinds,
        head=("Day", *(kind.capitalize() for kind in kinds)),
        rows=tuple((day.day, *(f"{count:,}" for count in counts(day))) for day in figures.days),
    )


def _duration(period: Period) -> Spread | None:
    return period.duration


def _wait(period: Period) -> Spread | None:
    return period.lock_wait


def _cells(spread: Spread | None) -> tuple[str, ...]:
    if spread is None:
        return (NONE,) * 4
    return tuple(span(value) for value in (spread.p50_s, spread.p90_s, spread.p99_s, spread.longest_s))


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "None had anything to do."
    return (
        f"Half within {span(spread.p50_s)}, 90 % within {span(spread.p90_s)}, 99 % within {span(spread.p99_s)}, "
        f"the longest {span(spread.longest_s)}."
    )
