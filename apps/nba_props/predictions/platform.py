"""The platform on this machine, in one command: a season, workers, a coordinator, overlapping runs, grading, the page.

    python -m predictions.platform --serve

Some dates of the season are predicted by two workers, each date twice: a scheduled run, and a retry that begins 0.4 s
later, as in the night of the incident. Then the table is compared with what must be in it, the predictions are graded
against what the players scored, and the systems are shown side by side. With ``--serve`` the services go on, and the
coordinator's page can be looked at. Everything is in the project's folder, which is made anew each time.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
from rich.console import Console
from rich.table import Table

import onerow
from predictions import settings
from predictions.backfill import prepare
from predictions.coordinator import dispatch
from predictions.grading.grade import grade_date
from predictions.grading.metrics import metrics_of, table_of
from predictions.reconciliation import FINDINGS, reconcile
from predictions.season import Season, open_season

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

APP: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = f"{APP / 'run' / 'platform'}"
RUNS: Final = ("scheduled", "retry")
APART_S: Final = 0.392
"""01:06:34.538 and 01:06:34.930."""
WARM_UP: Final = 20
"""So many dates of the season are the past of the first one that is predicted."""
WAIT_S: Final = 300.0
STOP_S: Final = 40.0
LEASE_S: Final = 10.0
WORKERS: Final = 2

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Service:
    """One of the services, in a process of its own; its log is a file in the project's folder.

    Args:
        module: what is run.
        name: of its log.
        project_id: whose service it is.
        port: 0: any that is free.
        environ: beside this process's own.
    """

    def __init__(self, module: str, name: str, project_id: str, *, port: int = 0, **environ: str) -> None:
        self.log = settings.folder_of(project_id) / f"{name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "--project-id", project_id, "--port", str(port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environ},
            )
        self.url = ""

    def __enter__(self) -> Self:
        """Wait until it takes requests.

        Raises:
            ConfigurationError: it has not started; its log says why.
        """
        assert self._process.stdout is not None  # noqa: S101 -- it was asked for
        line = self._process.stdout.readline()
        self.url = line.rpartition(" ")[2].strip()
        if not self.url.startswith("http"):
            self.__exit__()
            raise onerow.ConfigurationError(f"A service has not started: {self.log.read_text().strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        """Have it finish what it does."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None


def predict(coordinator: str, days: Sequence[dt.date]) -> list[dict[str, Any]]:
    """Have each day predicted by a scheduled run and a retry that overlap; return how the batches ended.

    Raises:
        OnerowError: a run has failed; says how.
    """
    ended: list[dict[str, Any]] = []
    with httpx.Client(base_url=coordinator, timeout=WAIT_S + 30, trust_env=False) as client:

        def start(day: dt.date, run: str, after_s: float) -> dict[str, Any]:
            time.sleep(after_s)
            answer = client.post("/start", json={"game_date": f"{day}", "run": run, "wait_s": WAIT_S})
            told: dict[str, Any] = answer.json()
            if not answer.is_success or told.get("state") != "done":
                raise onerow.OnerowError(f"{day}, run {run}: {told.get('detail') or told}")
            return told

        with ThreadPoolExecutor(max_workers=len(RUNS)) as pool:
            for day in days:
                running = [pool.submit(start, day, run, number * APART_S) for number, run in enumerate(RUNS)]
                ended += [one.result() for one in running]
    return ended


def show(season: Season, batches: Sequence[dict[str, Any]]) -> None:
    """Show the batches."""
    table = Table("batch", "players", "workers", "opened", "consolidated", "state")
    for one in batches:
        day = dt.datetime.strptime(one["batch_id"][:8], "%Y%m%d").replace(tzinfo=dt.UTC).date()
        players = len(season.candidates(day))
        opened, finished = (str(one[name])[11:23] for name in ("opened_at", "finished_at"))
        table.add_row(one["batch_id"], str(players), str(one["workers"]), opened, finished, one["state"])
    console.print(table)


def run(project_id: str, days: Sequence[dt.date], season: Season, *, port: int, serve: bool) -> int:
    """Run the platform; return the exit code."""
    prepare(project_id, fresh=True, lease_s=LEASE_S)
    with ExitStack() as stack:
        workers = [
            Service("predictions.worker.worker", f"worker_{number}", project_id) for number in range(1, WORKERS + 1)
        ]
        urls = [stack.enter_context(worker).url for worker in workers]
        coordinator = stack.enter_context(
            Service(
                "predictions.coordinator.coordinator", "coordinator", project_id, port=port,
                **{dispatch.WORKERS: ",".join(urls), dispatch.TOPIC: ""},
            )
        )  # fmt: skip
        console.print(f"{season.name}\n{WORKERS} workers and a coordinator, in {settings.folder_of(project_id)}\n")
        show(season, predict(coordinator.url, days))
        found = reconcile(project_id, season, days, RUNS)
        console.print("\n".join(found.told()) + "\n")
        graded = [grade_date(project_id, day, season=season) for day in days]
        for one in graded:
            console.print("\n".join(one.told()))
        console.print()
        console.print(table_of(metrics_of(project_id, since=min(days), until=max(days))))
        if serve:
            console.print(f"\nThe page: {coordinator.url}  (Ctrl-C ends it)")
            _wait(workers)
        else:
            console.print("\nThe services have ended. With --serve they go on, and there is a page to look at.")
    return 0 if found.clean and all(one.success for one in graded) else FINDINGS


def _wait(workers: Sequence[Service]) -> None:
    """Wait until somebody ends it."""
    try:
        while not any(worker.ended for worker in workers):
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Ending.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the platform on this machine; 0 if everything is there once and graded."""
    parser = argparse.ArgumentParser(
        prog="python -m predictions.platform", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project-id", default=PROJECT, help="a folder; it is made anew")
    parser.add_argument("--dates", type=int, default=3, help="how many game dates")
    parser.add_argument("--since", type=dt.date.fromisoformat, metavar="YYYY-MM-DD", help="the first of them")
    parser.add_argument("--port", type=int, default=0, help="of the page; 0: any that is free")
    parser.add_argument("--serve", action="store_true", help="let the services go on, to look at the page")
    asked = parser.parse_args(arguments)
    logging.getLogger().addHandler(logging.NullHandler())  # the services' logs are files; what went wrong is told
    try:
        season = open_season()
        since = asked.since or season.dates[min(WARM_UP, len(season.dates) // 2)]
        playing = (day for day in season.dates if day >= since and season.candidates(day))
        days = list(islice(playing, asked.dates))
        if not days:
            raise onerow.UsageError(f"There are no game dates from {since} on in {season.name}.")
        return run(asked.project_id, days, season, port=asked.port, serve=asked.serve)
    except onerow.OnerowError as error:
        console.print(str(error), style="red")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
