"""`make serve`: coordinator and worker on this machine, with sample data that keeps coming, and the page to look at.

The configuration is the demo's; everything is in ``demo/run/serve`` and made anew at each start. What is handed in:
a batch of predictions for each of some game dates, in 15 parts by 15 workers; then a batch every now and then, with
what happens in life: a delivery that is sent twice, a batch that misses a worker, batches that overlap.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import duckdb
import httpx
from rich.console import Console

import onerow
from demo.predictions import CONFIG, PARTS, make_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.predictions import Row

FOLDER: Final = Path(__file__).resolve().parent / "run" / "serve"
TABLE: Final = "player_prop_predictions"
DATES: Final = 6
START_S: Final = 60.0
SECTIONS: Final = """
[coordinator]
deadline = "45s"

[monitor]
every = "15s"
check_every = "15s"
"""

console = Console(highlight=False, soft_wrap=True)


class Service:
    """A service in a process of its own."""

    def __init__(self, *words: str) -> None:
        program = str(Path(sys.executable).with_name("onerow"))
        command = [program, "--output", "json", "--config", str(FOLDER), "serve", *words]
        self._log: IO[str] = (FOLDER / f"{words[0]}.log").open("w")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def url(self) -> str:
        """Return where it listens.

        Raises:
            SystemExit: it has not started; its log says why.
        """
        assert self._process.stdout is not None  # noqa: S101 -- it was asked for
        line = self._process.stdout.readline()
        try:
            return str(json.loads(line)["url"])
        except (ValueError, KeyError):  # it tells an error, or nothing
            raise SystemExit(f"A service has not started, its port may be taken; see {self._log.name}.") from None

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Have it finish what it does."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


class Team:
    """Fifteen workers that hand in predictions."""

    def __init__(self, coordinator: str, worker: str) -> None:
        self.coordinator = httpx.Client(base_url=coordinator, timeout=30)
        self.worker = httpx.Client(base_url=worker, timeout=30)
        self.chance = random.Random(7)
        self.first = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=DATES - 1)

    def batch(self, number: int, day: dt.date, *, missing: int = 0, repeats: int = 0) -> str:
        """Open a batch and hand its parts in, all but the last ``missing``; some of them twice."""
        name = f"{day:%Y%m%d}_{number:03d}"
        path = f"/v1/tables/{TABLE}/batches/{name}"
        self._send(self.coordinator, "PUT", path, json={"expected_workers": PARTS})
        parts = [(number, _lines(rows, day)) for number, rows in enumerate(make_batch(number, seed=day.toordinal()), 1)]
        parts = parts[: PARTS - missing]
        for worker, lines in parts + self.chance.sample(parts, repeats):
            self._send(
                self.worker, "POST", f"{path}/rows", params={"worker": f"worker_{worker}"}, content=lines,
                headers={"Content-Type": "application/x-ndjson"},
            )  # fmt: skip
        return name

    def days(self) -> Iterator[dt.date]:
        """Return the game dates, the first one first."""
        for number in range(DATES):
            yield self.first + dt.timedelta(days=number)

    @staticmethod
    def _send(client: httpx.Client, method: str, path: str, **more: Any) -> None:
        """Send a request, again where the service asks for that."""
        for _ in range(20):
            answer = client.request(method, path, **more)
            if answer.status_code not in {429, 503}:
                break
            time.sleep(float(answer.headers.get("retry-after", 1)))
        answer.raise_for_status()


def _lines(rows: list[Row], day: dt.date) -> str:
    """Return rows as NDJSON, made for ``day`` and made now."""
    now = dt.datetime.now(dt.UTC)
    stamp = f"{now:%H%M%S}"
    made = [
        {
            **row,
            "game_date": day,
            "game_id": f"{day:%Y%m%d}-{row['game_id']}",
            "prediction_id": f"{stamp}-{row['prediction_id']}",
            "created_at": now,
        }
        for row in rows
    ]
    return "".join(json.dumps(row, default=str) + "\n" for row in made)


def prepare() -> None:
    """Make the folder, the configuration and the tables."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "onerow.toml").write_text(CONFIG.format(lease="10s") + SECTIONS)
    with onerow.open(FOLDER / "onerow.toml") as store:
        store.init()


def feed(team: Team, services: list[Service], every_s: float) -> None:
    """Hand in batches until a service ends or somebody stops it."""
    for number, day in enumerate(team.days(), 1):
        name = team.batch(number, day, repeats=2)
        console.print(f"  handed in: batch {name}, {PARTS} parts, two of them sent twice")
    days, number = list(team.days()), DATES
    while not any(service.ended for service in services):
        time.sleep(every_s)
        number += 1
        day = team.chance.choice(days[-3:])
        missing = 1 if number % 4 == 0 else 0
        name = team.batch(number, day, missing=missing, repeats=team.chance.randrange(3))
        console.print(f"  handed in: batch {name}{', but one worker is missing' if missing else ''}")


def duplicate_a_row() -> None:
    """Do what a program does that knows nothing of onerow: insert a row whose key is there."""
    for _ in range(100):
        try:
            database = duckdb.connect(str(FOLDER / "predictions.duckdb"))
        except duckdb.IOException:  # a service has the file at this moment
            time.sleep(0.1)
            continue
        break
    else:
        raise SystemExit("The warehouse was busy for ten seconds; try again.")
    with database:
        database.execute(
            "insert into nba.player_prop_predictions select * replace ('inserted-by-hand' as prediction_id) "
            "from nba.player_prop_predictions order by game_date desc, prediction_id limit 1"
        )
        row = database.execute(
            "select game_date from nba.player_prop_predictions where prediction_id = 'inserted-by-hand'"
        ).fetchone()
    if row is None:
        raise SystemExit("The table is empty, so nothing was duplicated; wait until a batch is consolidated.")
    console.print(f"One key of {row[0]} has two rows now. The monitor finds it at its next look.")


def hold_a_lock(seconds: float = 600.0) -> None:
    """Take the lock of the newest date and keep it, as a process does that hangs."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    with onerow.open(FOLDER / "onerow.toml") as store, store.lock(TABLE, day, batch="hanging"):
        console.print(f"The lock of {TABLE}/{day} is held for {seconds:g} s. Look at the page, and force-release it.")
        time.sleep(seconds)


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8470, help="of the coordinator and its page; 0: any")
    parser.add_argument("--worker-port", type=int, default=8471, help="of the worker; 0: any")
    parser.add_argument("--break", dest="breaking", choices=["duplicate", "lock"], help="in a demonstration that runs")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between batches")
    asked = parser.parse_args()
    if asked.breaking == "duplicate":
        duplicate_a_row()
        return
    if asked.breaking == "lock":
        hold_a_lock()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    prepare()
    services: list[Service] = []
    try:
        services.append(Service("coordinator", "--port", str(asked.port)))
        coordinator = services[0].url()
        services.append(Service("worker", "--port", str(asked.worker_port), "--coordinator", coordinator))
        worker = services[1].url()
        here, python = os.path.relpath(FOLDER), os.path.relpath(sys.executable)
        console.print(f"[bold]The page: {coordinator}[/]   the worker: {worker}   everything is in {here}\n")
        console.print("Break something, and look at the page (the monitor looks every 15 s):")
        console.print(f"  a duplicate     {python} -m demo.serve --break duplicate")
        console.print(f"  a stuck lock    {python} -m demo.serve --break lock")
        program = Path(python).with_name("onerow")
        console.print(f"  mend it         {program} --config {here} dedupe --table {TABLE} --apply\n")
        feed(Team(coordinator, worker), services, asked.every)
        raise SystemExit(f"A service has ended; see the logs in {here}.")
    except KeyboardInterrupt:
        console.print("\nStopping: what runs is finished.")
    finally:
        for service in reversed(services):
            service.stop()


if __name__ == "__main__":
    main()
