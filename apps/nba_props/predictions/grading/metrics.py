"""What the grades say of each system: accuracy, error, bias, return, and how much of it has been graded.

    python -m predictions.grading.metrics --since 2026-01-01

Computed in the warehouse, from the rows as they are: a grade that stands twice counts twice, as it would for anybody
who reads the table. Only ``coverage`` counts keys.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

import onerow
from predictions import settings
from predictions.reading import open_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.cloud import bigquery

    from predictions.reading import Reader

FIRST: Final = dt.date(1900, 1, 1)
LAST: Final = dt.date(2199, 12, 31)

PREDICTED: Final = """
select p.game_date, p.system_id, case when g.system_id is null then 0 else 1 end as is_graded
from (
    select distinct game_date, game_id, player_lookup, system_id, current_points_line
    from {predictions} where game_date between $since and $until
) as p left join (
    select distinct game_date, game_id, player_lookup, system_id, current_points_line
    from {grades} where game_date between $since and $until
) as g
on p.game_date = g.game_date and p.game_id = g.game_id and p.player_lookup = g.player_lookup
    and p.system_id = g.system_id and p.current_points_line is not distinct from g.current_points_line
"""
"""One row for each key that was predicted: whether it has a grade."""

_STATEMENT: Final = f"""
with predicted as (
    select system_id, count(*) as predictions, count(case when is_graded = 1 then 1 end) as graded
    from ({PREDICTED}) as k group by system_id
), judged as (
    select system_id, count(*) as grades, count(actual_points) as played, count(is_correct) as decided,
        count(case when is_correct then 1 end) as correct, count(return_units) as bets,
        sum(return_units) as units, avg(absolute_error) as mean_absolute_error, avg(signed_error) as bias,
        avg((confidence - case when is_correct then 1.0 when not is_correct then 0.0 end)
            * (confidence - case when is_correct then 1.0 when not is_correct then 0.0 end)) as brier
    from {{grades}} where game_date between $since and $until group by system_id
)
select coalesce(p.system_id, j.system_id) as system_id, coalesce(predictions, 0) as predictions,
    coalesce(graded, 0) as graded, coalesce(grades, 0) as grades, coalesce(played, 0) as played,
    coalesce(decided, 0) as decided, coalesce(correct, 0) as correct, coalesce(bets, 0) as bets,
    coalesce(units, 0.0) as units, mean_absolute_error, bias, brier
from predicted as p full join judged as j on p.system_id = j.system_id
order by 1
"""


@dataclass(frozen=True, slots=True)
class SystemMetrics:
    """How a system has done.

    Attributes:
        predictions: keys that were predicted.
        graded: those of them that have a grade.
        grades: rows in the table of grades; more than its keys where some stand twice.
        played: grades of players who played.
        decided: grades that are right or wrong; no line, a pass and a push are neither.
        bets, units: units staked at -110 and what they have returned.
        mean_absolute_error, bias: points; bias above 0: predicted too many. None: nothing to compute it from.
        brier: mean squared distance of the confidence from what came; 0.25 is what 50 % always has.
    """

    system_id: str
    predictions: int
    graded: int
    grades: int
    played: int
    decided: int
    correct: int
    bets: int
    units: float
    mean_absolute_error: float | None
    bias: float | None
    brier: float | None

    @property
    def accuracy(self) -> float | None:
        """The share of decided grades that are right."""
        return self.correct / self.decided if self.decided else None

    @property
    def return_share(self) -> float | None:
        """What a staked unit has returned; pushes are staked too."""
        return self.units / self.bets if self.bets else None

    @property
    def coverage(self) -> float | None:
        """The share of predictions that have a grade."""
        return self.graded / self.predictions if self.predictions else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        shares = {name: getattr(self, name) for name in ("accuracy", "return_share", "coverage")}
        return {**asdict(self), **shares}


def metrics_of(
    project_id: str,
    *,
    since: dt.date | None = None,
    until: dt.date | None = None,
    client: bigquery.Client | None = None,
) -> tuple[SystemMetrics, ...]:
    """Return how each system has done, by name.

    Args:
        project_id: see ``predictions.settings``.
        since: first date; None: all.
        until: last date; None: all.
        client: of BigQuery; None: one is made where it is needed.

    Raises:
        OnerowError: the tables cannot be read.
    """
    with open_reader(project_id, client) as reader:
        return read_metrics(reader, since=since, until=until)


def read_metrics(
    reader: Reader, *, since: dt.date | None = None, until: dt.date | None = None
) -> tuple[SystemMetrics, ...]:
    """Return how each system has done, as ``metrics_of``."""
    found = reader.rows(_STATEMENT, since=since or FIRST, until=until or LAST)
    return tuple(SystemMetrics(**row) for row in found)


def table_of(metrics: Sequence[SystemMetrics], title: str | None = None) -> Table:
    """Return metrics as people read them."""
    table = Table(title=title, title_justify="left")
    heads = ("graded", "coverage", "decided", "accuracy", "mean abs. error", "bias", "return", "units", "Brier")
    table.add_column("system")
    for name in heads:
        table.add_column(name, justify="right")
    for one in metrics:
        table.add_row(
            one.system_id, str(one.grades), _share(one.coverage), str(one.decided), _share(one.accuracy),
            _number(one.mean_absolute_error), _number(one.bias, "+.2f"), _share(one.return_share, "+.1%"),
            _number(one.units, "+.1f"), _number(one.brier, ".3f"),
        )  # fmt: skip
    return table


def _share(value: float | None, form: str = ".1%") -> str:
    return "-" if value is None else format(value, form)


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how each system has done."""
    parser = argparse.ArgumentParser(prog="python -m predictions.grading.metrics", description=main.__doc__)
    parser.add_argument("--project", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--since", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="first game date")
    parser.add_argument("--until", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="last game date")
    parser.add_argument("--game-date", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="only this one")
    parser.add_argument("--json", action="store_true", help="for programs")
    asked = parser.parse_args(arguments)
    project_id = settings.project_of(asked.project)
    try:
        with settings.open_store(project_id):
            found = metrics_of(project_id, since=asked.game_date or asked.since, until=asked.game_date or asked.until)
    except onerow.OnerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if asked.json:
        sys.stdout.write(json.dumps([one.to_json() for one in found]) + "\n")
    else:
        Console(highlight=False).print(table_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
