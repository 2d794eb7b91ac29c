"""The season's backfill: every date predicted and consolidated, by several processes at once.

    python -m predictions.backfill --processes 4 --runs 2

Each process takes the next batch that nobody has opened. One that dies is started again, and so may be the whole
command: what is done stays done, what is staged is not predicted again, and a batch that a dead process was
consolidating is taken over. Processes of other machines, or tasks of a Cloud Run job, take part with ``--join``.

At the end the table is compared with what must be in it. Exit code 0: nothing lost, nothing doubled; 3: something is.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onerow
from predictions import settings
from predictions.coordinator.batch_state_manager import BatchStateManager, open_batch_states
from predictions.coordinator.dispatch import dispatch_of
from predictions.coordinator.fan_out import PredictionCoordinator, batch_name
from predictions.reconciliation import FINDINGS, reconcile
from predictions.season import Season, open_season
from predictions.worker.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAYERS_PER_WORKER: Final = 120
DAY_S: Final = 900.0
OTHERS_S: Final = 20.0
"""How long a batch that somebody else has opened is waited for before it is looked after."""
RESTARTS: Final = 5
LOG: Final = logging.getLogger("predictions.backfill")


def backfill(project_id: str, season: Season, days: Sequence[dt.date], runs: Sequence[str]) -> list[str]:
    """Predict and consolidate days, beside any number of processes that do the same.

    First each takes the next batch that nobody has opened; then whatever is not done, because a process has died, is
    finished by whoever is left.

    Returns:
        What went wrong, a line for each batch that is not done.
    """

    def found() -> Season:
        return season

    wrong: list[str] = []
    with open_batch_states(project_id) as batches, closing(dispatch_of(Predictor(project_id, found))) as dispatch:
        coordinator = PredictionCoordinator(batches, found, dispatch, players_per_worker=PLAYERS_PER_WORKER)
        wanted = [(day, run) for day in days for run in runs]
        for day, run in wanted:
            if not _is_open(batches, day, run):
                _one(coordinator, day, run)  # what fails is found again below
        for day, run in wanted:
            if _is_open(batches, day, run) and batches.wait(batch_name(day, run), OTHERS_S).state == "done":
                continue
            why = _one(coordinator, day, run)
            if why:
                LOG.error("%s: %s", batch_name(day, run), why)
                wrong.append(f"{batch_name(day, run)}: {why}")
    return wrong


def _is_open(batches: BatchStateManager, day: dt.date, run: str) -> bool:
    """Say whether somebody has opened a batch."""
    try:
        batches.status(batch_name(day, run))
    except onerow.BatchNotFoundError:
        return False
    return True


def _one(coordinator: PredictionCoordinator, day: dt.date, run: str) -> str:
    """Do a day of a run; return why it is not done, "" if it is."""
    try:
        batch_id = coordinator.start(day, run).batch_id
        status = coordinator.batches.wait(batch_id, DAY_S)
    except onerow.OnerowError as error:
        return str(error)
    return "" if status.state == "done" else f"{status.state}: {status.error or 'not in time'}"


class Crew:
    """The processes of a backfill: started, started again when they die, and killed if one wants to see that."""

    def __init__(self, words: Sequence[str], processes: int) -> None:
        self._words = words
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._starts = dict.fromkeys(range(processes), 0)
        self.killed = 0

    def run(self, *, kills: int, every_s: float, chance: random.Random) -> bool:
        """Run until all have ended well; return whether they have."""
        for number in self._starts:
            self._start(number)
        next_kill_s = time.monotonic() + every_s
        allowed = RESTARTS + kills
        try:
            while self._running:
                time.sleep(0.1)
                if self.killed < kills and time.monotonic() >= next_kill_s:
                    chance.choice(list(self._running.values())).kill()
                    self.killed += 1
                    next_kill_s = time.monotonic() + every_s
                for number, process in list(self._running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del self._running[number]
                    if code != 0:
                        if self._starts[number] > allowed:
                            LOG.error("Process %d has ended with %d too often.", number, code)
                            return False
                        LOG.warning("Process %d has ended with %d; another one is started.", number, code)
                        self._start(number)
        finally:
            for process in self._running.values():
                process.kill()
                process.wait()
        return True

    def _start(self, number: int) -> None:
        self._starts[number] += 1
        self._running[number] = subprocess.Popen([sys.executable, "-m", "predictions.backfill", *self._words, "--join"])


def prepare(project_id: str, *, fresh: bool, lease_s: float | None) -> None:
    """Make a project of files ready: empty if told to, with a lease that is soon over after a kill.

    Raises:
        ConfigurationError: it is to be emptied, and is none that this app has made, or is no folder.
    """
    folder = settings.folder_of(project_id)
    if fresh and folder.exists():
        if not settings.is_embedded(project_id) or not (folder / "onerow.toml").exists():
            raise onerow.ConfigurationError(f"{folder} is no project of this app; nothing was removed.")
        shutil.rmtree(folder)
    file = folder / "onerow.toml"
    if lease_s is not None and not file.exists():
        text = settings.configuration(project_id)
        text = text.replace('duration    = "300s"', f'duration    = "{lease_s:g}s"')
        text = text.replace('renew_every = "10s"', f'renew_every = "{lease_s / 4:g}s"')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{text}\n[coordinator]\nclaim = "{lease_s:g}s"\n', encoding="utf-8")
    with settings.open_store(project_id):  # made once, before all processes begin
        pass


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m predictions.backfill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project-id", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--runs", type=int, default=1, help="so many runs of each date, at the same time")
    parser.add_argument("--name", default="backfill", help="of the runs: NAME1, NAME2 and so on")
    parser.add_argument("--since", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="default: the first date")
    parser.add_argument("--dates", type=int, help="how many; default: all of the season")
    parser.add_argument("--fresh", action="store_true", help="empty the project's folder first")
    parser.add_argument("--lease", type=float, metavar="SECONDS", help="of a project that is made now; default: 300")
    parser.add_argument("--kills", type=int, default=0, help="kill a process now and then, to see that nothing is lost")
    parser.add_argument("--kill-every", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--join", action="store_true", help="be one process of many: begin none, compare nothing")
    parser.add_argument("--check", action="store_true", help="predict nothing, compare the table only")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Backfill and compare; 0 if everything is there once."""
    asked = _arguments(arguments)
    project_id = settings.project_of(asked.project_id)
    runs = [f"{asked.name}{number}" for number in range(1, asked.runs + 1)]
    try:
        season = open_season()
        playing = (day for day in season.dates if (not asked.since or day >= asked.since) and season.candidates(day))
        days = list(islice(playing, asked.dates))
        if asked.join:
            return 1 if backfill(project_id, season, days, runs) else 0
        began_s = time.monotonic()
        if not asked.check:
            print(f"{season.name}: {len(days)} dates, {len(runs)} runs, {asked.processes} processes", flush=True)
            prepare(project_id, fresh=asked.fresh, lease_s=asked.lease)
            _run_crew(asked, project_id, days)
            print(f"took {time.monotonic() - began_s:.1f} s", flush=True)
        found = reconcile(project_id, season, days, runs)
    except onerow.OnerowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(found.told()), flush=True)
    return 0 if found.clean else FINDINGS


def _run_crew(asked: argparse.Namespace, project_id: str, days: Sequence[dt.date]) -> None:
    words = ["--project-id", project_id, "--runs", str(asked.runs), "--name", asked.name]
    words += ["--dates", str(len(days))] + (["--since", str(days[0])] if days else [])
    crew = Crew(words, asked.processes)
    done = crew.run(kills=asked.kills, every_s=asked.kill_every, chance=random.Random(7))
    told = f", {crew.killed} of them killed meanwhile" if crew.killed else ""
    print(f"{asked.processes} processes{told}: {'all have ended well' if done else 'one has ended too often'}")


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")))
    )
    sys.exit(main())
