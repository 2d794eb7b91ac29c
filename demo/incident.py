"""`make demo`: ten overlapping batches for one date, ten consolidators at once, one killed, one paused.

First with a plain MERGE in concurrent transactions, then with onerow.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import duckdb
import pyarrow as pa
from rich.console import Console

import onerow
from demo.predictions import BATCHES, CONFIG, GAME_DATE, PARTS, Row, key_of, make_batch, newest

RUN: Final = Path(__file__).resolve().parent / "run"
TABLE: Final = "player_prop_predictions"
LEASE_S: Final = 2.0
TIMEOUT_S: Final = 90.0

console = Console(highlight=False, soft_wrap=True)


def plain_merge(batches: list[list[list[Row]]]) -> tuple[int, int]:
    """Run one plain MERGE a batch, all transactions open before the first commits.

    Returns:
        Keys that have several rows, and rows beyond one per key.
    """
    database = duckdb.connect()
    database.execute("set TimeZone = 'UTC'")
    tables = [pa.Table.from_pylist([row for part in batch for row in part]) for batch in batches]
    database.register("shape", tables[0])
    database.execute("create table target as select * from shape limit 0")
    sessions = [database.cursor() for _ in batches]
    for session, table in zip(sessions, tables, strict=True):
        session.register("staged", table)
        session.execute("begin")
        session.execute(
            """
            merge into target t using (
                select * from staged qualify row_number() over (
                    partition by game_id, player_lookup, system_id, current_points_line
                    order by created_at desc, prediction_id desc) = 1
            ) s
            on t.game_date = s.game_date and t.game_id = s.game_id and t.player_lookup = s.player_lookup
                and t.system_id = s.system_id and t.current_points_line is not distinct from s.current_points_line
            when matched and s.created_at > t.created_at then update set *
            when not matched then insert *
            """
        )
    for session in sessions:
        session.execute("commit")
    found = database.execute(
        "select count(*), coalesce(sum(n - 1), 0) from (select count(*) n from target "
        "group by game_date, game_id, player_lookup, system_id, current_points_line having n > 1)"
    ).fetchone()
    database.close()
    return (0, 0) if found is None else (int(found[0]), int(found[1]))


@dataclass
class Process:
    """A consolidator process and what it has told so far."""

    number: int
    batch: str
    child: subprocess.Popen[str]
    fate: str = ""
    result: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the account calls it."""
        return f"consolidator {self.number}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.child.pid, number)


def start(number: int, batch: str, told: queue.Queue[tuple[Process, dict[str, Any] | None]]) -> Process:
    """Start a consolidator; a thread puts what it tells into the queue, None at its end."""
    child = subprocess.Popen(
        [sys.executable, "-m", "demo.consolidator", str(RUN / "onerow.toml"), batch],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    process = Process(number, batch, child)

    def listen(lines: IO[str]) -> None:
        for line in lines:
            told.put((process, json.loads(line)))
        told.put((process, None))

    if child.stdout is None:
        raise RuntimeError("the consolidator has no output")
    threading.Thread(target=listen, args=(child.stdout,), daemon=True).start()
    return process


def go(process: Process) -> None:
    """Let a consolidator that is ready begin."""
    if process.child.stdin is not None:
        process.child.stdin.write("go\n")
        process.child.stdin.flush()


def tell(process: Process, event: dict[str, Any], began_s: float) -> None:
    """Print one event of the account."""
    at = f"{event['at_s'] - began_s:7.2f} s"
    match event["event"]:
        case "onerow.lock_acquired":
            text = f"holds the lock of {event['partition']}, token …{str(event['token'])[-7:]}"
        case "onerow.merge_committed":
            text = (
                f"committed: {event['rows_staged']} rows staged = {event['rows_inserted']} inserted + "
                f"{event['rows_updated']} updated + {event['rows_unchanged']} unchanged + "
                f"{event['rows_superseded']} superseded"
            )
        case "onerow.lock_released":
            text = "released the lock"
        case "onerow.merge_fenced" | "onerow.lock_lost":
            text = f"[yellow]lost its lease: {event.get('reason', 'a higher token has committed')}[/]"
        case "onerow.merge_failed":
            text = f"[yellow]did not commit ({event['kind']})[/]"
        case _:
            return
    console.print(f"  {at}  {process.name:<15} {text}")


def consolidate_all() -> list[Process]:
    """Run ten consolidators at once; kill the first that merges, pause the next that takes the lock."""
    told: queue.Queue[tuple[Process, dict[str, Any] | None]] = queue.Queue()
    processes = [start(number, f"batch-{number}", told) for number in range(BATCHES)]
    ready = 0
    running = len(processes)
    began_s = time.monotonic()
    killed: Process | None = None
    paused: Process | None = None
    paused_until_s = 0.0
    deadline_s = time.monotonic() + TIMEOUT_S
    while running:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the consolidators did not end in time")
        if paused is not None and paused.fate == "paused" and time.monotonic() >= paused_until_s:
            paused.fate = "resumed"
            console.print(f"  {time.monotonic() - began_s:7.2f} s  {paused.name:<15} [bold]is resumed (SIGCONT)[/]")
            paused.signal(signal.SIGCONT)
        try:
            process, event = told.get(timeout=0.02)
        except queue.Empty:
            continue
        if event is None:
            process.child.wait()
            running -= 1
            continue
        process.events.append(event)
        if event["event"] == "ready":
            ready += 1
            if ready == len(processes):
                began_s = time.monotonic()
                for each in processes:
                    go(each)
            continue
        if event["event"] == "onerow.merge_started" and killed is None:
            killed = process
            process.fate = "killed"
            process.signal(signal.SIGKILL)
            console.print(f"  {event['at_s'] - began_s:7.2f} s  {process.name:<15} [bold]is killed (SIGKILL)[/]")
        elif event["event"] == "onerow.lock_acquired" and killed not in (None, process) and paused is None:
            paused = process
            process.fate = "paused"
            process.signal(signal.SIGSTOP)
            paused_until_s = time.monotonic() + LEASE_S * 2
            tell(process, event, began_s)
            console.print(
                f"  {event['at_s'] - began_s:7.2f} s  {process.name:<15} [bold]is paused (SIGSTOP) for "
                f"{LEASE_S * 2:.0f} s, longer than its lease[/]"
            )
        elif event["event"] == "result":
            process.result = event
        else:
            tell(process, event, began_s)
    return processes


def main() -> int:
    """Run the demo; 0 if onerow has kept its promise."""
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    batches = [make_batch(number) for number in range(BATCHES)]
    everything = [row for batch in batches for part in batch for row in part]
    expected = newest(everything)
    console.print(
        f"[bold]The incident[/]: {BATCHES} batches of {PARTS} parts predict the same props of {GAME_DATE}; "
        f"{len(everything)} rows, {len(expected)} keys.\n"
    )

    console.print("[bold]1. A plain MERGE per batch, in concurrent transactions[/]")
    keys, extra = plain_merge(batches)
    console.print(
        f"  every MERGE and every COMMIT succeeded; [red]{keys} keys are duplicated, {extra} rows too many[/]\n"
    )

    console.print("[bold]2. onerow: ten consolidator processes at once, one killed, one paused past its lease[/]")
    (RUN / "onerow.toml").write_text(CONFIG.format(lease=f"{LEASE_S:g}s"), encoding="utf-8")
    with onerow.open(RUN / "onerow.toml") as store:
        store.init()
        for number, batch in enumerate(batches):
            for part, rows in enumerate(batch):
                store.stage(TABLE, rows, batch=f"batch-{number}", worker=f"worker-{part}")
    processes = consolidate_all()

    console.print("\n  What did not commit kept its staging; its batches are consolidated again:")
    with onerow.open(RUN / "onerow.toml") as store:
        for process in processes:
            if process.result is None or process.result["status"] != "committed":
                result = store.consolidate(TABLE, process.batch)
                console.print(f"    {process.batch} ({process.fate or 'failed'}): {result.status}")
        again = [store.consolidate(TABLE, process.batch).status for process in processes]
        console.print(f"    all ten once more: {', '.join(sorted(set(again)))}")
        report = store.check(TABLE)[0]
    return verdict(expected, report)


def verdict(expected: dict[Any, Row], report: onerow.CheckReport) -> int:
    """Compare the table with the newest rows computed plainly, print the last line."""
    with duckdb.connect(str(RUN / "predictions.duckdb"), read_only=True) as database:
        columns = list(next(iter(expected.values())))
        found = database.execute(f"select {', '.join(columns)} from nba.player_prop_predictions").fetchall()
    rows = [dict(zip(columns, values, strict=True)) for values in found]
    table = {key_of(row): row for row in rows}
    duplicates = len(rows) - len(table)
    lost = len(expected.keys() - table.keys())
    wrong = sum(1 for key, row in table.items() if row["prediction_id"] != expected[key]["prediction_id"])
    well = duplicates == lost == wrong == 0 and report.clean
    colour = "green" if well else "red"
    console.print(
        f"\n[bold {colour}]{len(rows)} rows: {duplicates} duplicates, {lost} lost, {wrong} wrong winners"
        f"{': the newest row of every key won' if well else ''}[/]"
    )
    console.print(f"[dim]onerow check: {'clean' if report.clean else 'FINDINGS'}; look around in {RUN.name}/ "
                  "with `onerow --config demo/run history`.[/]")  # fmt: skip
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
