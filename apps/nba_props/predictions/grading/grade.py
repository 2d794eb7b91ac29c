"""After the games: each prediction of a date against its result, into ``prediction_grades``, exactly once.

    python -m predictions.grading.grade --game-date 2026-01-17

What has changed since the last time is staged and consolidated: nothing, if neither a prediction nor a box score has.
All parts of a date are of one batch, so that one that a crash has left behind is merged by the next run. The newer of
two grades is the one whose grader has begun later; and a grade is always newer than the one that it has seen.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import onerow
from onerow.errors import DataError
from predictions import settings
from predictions.grading.rules import judge
from predictions.reading import open_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.cloud import bigquery

    from onerow import ConsolidationResult, Store
    from predictions.reading import Reader

    Row = Mapping[str, Any]
    Key = tuple[Any, ...]

LOG: Final = logging.getLogger("predictions.grading.grade")
KEY: Final = ("game_id", "player_lookup", "system_id", "current_points_line")
COPIED: Final = ("prediction_id", "game_date", *KEY, "predicted_points", "confidence", "recommendation")
WORKER: Final = "grader"
TICK: Final = dt.timedelta(microseconds=1)

_PREDICTIONS: Final = f"""
select {", ".join(COPIED)} from {{predictions}} where game_date = $day
qualify row_number() over (
    partition by {", ".join(KEY)} order by created_at desc nulls last, prediction_id desc nulls last
) = 1
"""
_GRADES: Final = "select * from {grades} where game_date = $day"


class Outcome(Protocol):
    """What came of a player's game; ``predictions.season`` has them."""

    @property
    def game_id(self) -> str:
        """The game."""
        ...

    @property
    def player_lookup(self) -> str:
        """The player."""
        ...

    @property
    def points(self) -> int | None:
        """Points; None: he did not play."""
        ...


class Results(Protocol):
    """Where results come from: a season."""

    def results(self, day: dt.date) -> Sequence[Outcome]:
        """Return what came of a day's games."""
        ...


@dataclass(frozen=True)
class Grading:
    """What became of the predictions of a date.

    Attributes:
        predictions: business keys that were predicted.
        graded: those whose game has a result.
        changed: grades that are new or other than before, which were staged; none in a dry run.
        without_result: predictions whose game has none yet, by game.
        did_not_play: predictions whose player did not play; they are graded, and nothing is decided.
        consolidation: None where nothing had to be merged.
    """

    game_date: dt.date
    predictions: int
    graded: int
    changed: int
    did_not_play: int = 0
    without_result: Mapping[str, int] = field(default_factory=dict)
    consolidation: ConsolidationResult | None = None
    dry_run: bool = False

    @property
    def success(self) -> bool:
        """Whether the grades are in the table."""
        return self.consolidation is None or self.consolidation.success

    @property
    def exit_code(self) -> int:
        """The consolidation's."""
        return 0 if self.consolidation is None else self.consolidation.exit_code

    def told(self) -> list[str]:
        """Return what people are told."""
        verb = "would be staged" if self.dry_run else "staged"
        changed = f"{self.changed} grades new or changed, {verb}" if self.changed else "no grade new or changed"
        first = (
            f"{self.game_date}: {self.predictions} predictions, {self.graded} graded ({self.did_not_play} of players "
            f"who did not play), {changed}."
        )
        lines = [first]
        if self.without_result:
            games = ", ".join(f"{game} ({count})" for game, count in sorted(self.without_result.items()))
            lines.append(f"Not graded, their games have no result yet: {games}.")
        if self.consolidation is not None:
            done = self.consolidation
            why = f" {done.error}" if done.error else ""
            lines.append(f"{done.status}: {done.rows_affected} grades written.{why}")
        return lines


def grade_date(
    project_id: str,
    game_date: str | dt.date,
    *,
    client: bigquery.Client | None = None,
    season: Results | None = None,
    dry_run: bool = False,
) -> Grading:
    """Grade the predictions of a date, exactly once.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud (see ``predictions.settings``).
        game_date: the date.
        client: of BigQuery; None: one is made where it is needed.
        season: has the results; None: the season that ``predictions.season`` finds.
        dry_run: stage nothing, and tell what would be staged.

    Returns:
        What became of it. A consolidation that has failed is told there; what it was to merge waits in staging, and
        grading again merges it.

    Raises:
        DataError: confidences of the date are no shares; nothing was staged.
        OnerowError: something could not be read or staged.
    """
    begun = dt.datetime.now(dt.UTC)
    day = game_date if isinstance(game_date, dt.date) else _date(game_date)
    found = (season or season_of_the_platform()).results(day)
    with settings.open_store(project_id) as store:
        batch = f"grades_{day}"
        left_behind = None if dry_run else _merge_what_waits(store, batch)
        with open_reader(project_id, client) as reader:
            predictions, stored = _read(reader, day)
        points = _points(found)
        games = {game for (game, _), actual in points.items() if actual is not None}
        playable = [row for row in predictions if row["game_id"] in games]
        made = [_grade(row, points.get((row["game_id"], row["player_lookup"]))) for row in playable]
        changed = list(_changed(made, stored, begun))
        done = left_behind
        if changed and not dry_run:
            store.stage(settings.GRADES, changed, batch=batch, worker=WORKER)
            done = store.consolidate(settings.GRADES, batch)
    missing: dict[str, int] = {}
    for row in predictions:
        if row["game_id"] not in games:
            missing[row["game_id"]] = missing.get(row["game_id"], 0) + 1
    absent = sum(row["actual_points"] is None for row in made)
    grading = Grading(day, len(predictions), len(made), len(changed), absent, missing, done, dry_run)
    for line in grading.told():
        LOG.log(logging.INFO if grading.success else logging.ERROR, "%s", line)
    return grading


def _merge_what_waits(store: Store, batch: str) -> ConsolidationResult | None:
    """Merge parts that an earlier run has staged and not merged."""
    spec = store.table(settings.GRADES)
    staged = store.ports.parts.parts(spec.name, batch)
    merged = store.ports.warehouse.merged(spec.name, batch) if staged else frozenset()
    done = {part_id for part_id, _ in merged}
    if all(part.state != "staged" or part.part_id in done for part in staged):
        return None
    return store.consolidate(settings.GRADES, batch)


def _read(reader: Reader, day: dt.date) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the newest prediction of each key, and the grades that are there.

    Raises:
        DataError: confidences are no shares.
    """
    predictions = reader.rows(_PREDICTIONS, day=day)
    wrong = sum(row["confidence"] is not None and not 0 <= row["confidence"] <= 1 for row in predictions)
    if wrong:
        raise DataError(
            f"{wrong} predictions of {day} have a confidence that is no share from 0 to 1; nothing was graded.",
            hint=f"Look at them with: python -m predictions.grading.repair confidence --game-date {day}",
        )
    return predictions, reader.rows(_GRADES, day=day)


def _points(found: Iterable[Outcome]) -> dict[tuple[str, str], int | None]:
    return {(one.game_id, one.player_lookup): one.points for one in found}


def _grade(row: Row, actual: int | None) -> dict[str, Any]:
    verdict = judge(
        predicted=row["predicted_points"],
        line=row["current_points_line"],
        recommendation=row["recommendation"],
        actual=actual,
    )
    return {
        **{name: row[name] for name in COPIED},
        "actual_points": actual,
        "absolute_error": verdict.absolute_error,
        "signed_error": verdict.signed_error,
        "is_correct": verdict.is_correct,
        "return_units": verdict.return_units,
    }


def _changed(made: Iterable[dict[str, Any]], stored: Iterable[Row], begun: dt.datetime) -> Iterable[dict[str, Any]]:
    """Yield the grades that are not in the table as they are, newer than what is there."""
    there: dict[Key, list[Row]] = {}
    for row in stored:
        there.setdefault(_key(row), []).append(row)
    for grade in made:
        old = there.get(_key(grade), [])
        newest = max((row["graded_at"] for row in old if row["graded_at"] is not None), default=None)
        if any(row["graded_at"] == newest and all(row[name] == grade[name] for name in grade) for row in old):
            continue
        yield {**grade, "graded_at": begun if newest is None else max(begun, newest + TICK)}


def _key(row: Row) -> Key:
    return tuple(row[name] for name in KEY)


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise onerow.UsageError(f"{text!r} is no date.", hint="Write it as 2026-01-17.") from error


def season_of_the_platform() -> Results:
    """Return the season that ``predictions.season`` finds; reading it takes seconds.

    Raises:
        UsageError: its files are not what they should be.
    """
    from predictions.season import open_season  # noqa: PLC0415 -- callers that bring their own need none

    return open_season()


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade the predictions of dates; 0 if all their grades are in the table, also where games have no result yet."""
    parser = argparse.ArgumentParser(prog="python -m predictions.grading.grade", description=main.__doc__)
    parser.add_argument("--game-date", required=True, action="append", metavar="YYYY-MM-DD", help="may be repeated")
    parser.add_argument("--project", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be written, and write nothing")
    asked = parser.parse_args(arguments)
    worst = 0
    try:
        season = season_of_the_platform()
        for text in asked.game_date:
            done = grade_date(settings.project_of(asked.project), text, season=season, dry_run=asked.dry_run)
            sys.stdout.write("\n".join(done.told()) + "\n")
            worst = max(worst, done.exit_code)
    except onerow.OnerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return worst


if __name__ == "__main__":
    sys.exit(main())
