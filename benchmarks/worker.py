"""A worker under one large delivery: how fast it takes it, and how much memory that costs.

``python -m benchmarks.worker --megabytes 200`` starts a worker as a process over an empty DuckDB file, lets it warm up
with a small delivery, and then sends one of that size in each format, plain and compressed. What counts is how far the
worker's resident set rises above what it was, as the system tells it (VmHWM, reset before each delivery). It exits with
1 if that is more than ``--limit`` megabytes. At the end one process takes ``--deliveries`` smaller ones in turn, and is
measured after each: memory that is never given back would show there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import httpx
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS_AT_ONCE: Final = 20_000
CHUNK_BYTES: Final = 256 * 1024
MEGABYTE: Final = 1_000_000
SETTINGS: Final = """
warehouse = "duckdb:///worker.duckdb"

[serve]
spool = "spool"

[tables.props]
key = ["player", "line"]
partition = "game_date"
order_by = ["made_at"]

[tables.props.columns]
id = "string"
game_date = "date"
player = "string"
line = "decimal(6,2)"
points = "float64"
made_at = "timestamp"
"""
FORMATS: Final = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}


def tables(megabytes: int) -> Iterator[pa.Table]:
    """Yield rows whose NDJSON is about so large."""
    made = 0
    number = 0
    while made < megabytes * MEGABYTE:
        rows = [
            {
                "id": f"p-{number + one:09d}",
                "game_date": f"2026-01-{1 + one % 28:02d}",
                "player": f"player{(number + one) % 50_021:06d}",
                "line": f"{one % 400 / 10:.2f}",
                "points": (one * 7919) % 100_003 / 997,
                "made_at": f"2026-01-10T01:{one % 60:02d}:34.{one % 1000:03d}000Z",
            }
            for one in range(ROWS_AT_ONCE)
        ]
        number += ROWS_AT_ONCE
        made += sum(len(json.dumps(row)) + 1 for row in rows[:100]) * ROWS_AT_ONCE // 100
        yield pa.Table.from_pylist(rows)


def write(path: Path, kind: str, megabytes: int) -> int:
    """Write the rows to a file of a format; return how many there are."""
    rows = 0
    writer: Any = None
    with path.open("wb") as out:
        for table in tables(megabytes):
            rows += table.num_rows
            if kind == "ndjson":
                out.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
                continue
            if writer is None:
                makes: dict[str, Callable[..., Any]] = {
                    "csv": pc.CSVWriter,
                    "parquet": pq.ParquetWriter,
                    "arrow": pa.ipc.new_stream,
                }
                writer = makes[kind](out, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return rows


def chunks(path: Path, *, packed: bool) -> Iterator[bytes]:
    """Yield a file piece by piece, compressed on the way if so wanted."""
    packer = zlib.compressobj(1, wbits=31) if packed else None
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield packer.compress(piece) if packer else piece
    if packer:
        yield packer.flush()


def memory_mb(pid: int, what: str) -> float:
    """Return a line of the process's status in megabytes: VmRSS now, VmHWM at most."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a worker; return it and its URL."""
    (folder / "onerow.toml").write_text(SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "onerow.faces.cli.main"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ONEROW_")}
    subprocess.run([*command, "init"], cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        [*command, "serve", "worker", "--port", "0", "--quiet", "--output", "json"],
        cwd=folder, env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    out: IO[str] | None = process.stdout
    if out is None:
        raise RuntimeError("the worker has no standard output")
    return process, str(json.loads(out.readline())["url"])


def deliver(url: str, path: Path, kind: str, name: str, *, packed: bool) -> dict[str, Any]:
    """Send a file as one delivery and return the answer."""
    headers = {"Content-Type": FORMATS[kind]} | ({"Content-Encoding": "gzip"} if packed else {})
    answer = httpx.post(
        f"{url}/v1/tables/props/batches/{name}/rows?worker=w",
        content=chunks(path, packed=packed),
        headers=headers,
        timeout=600.0,
    )
    answer.raise_for_status()
    return dict(answer.json())


def over_time(folder: Path, kind: str, megabytes: int, deliveries: int) -> list[float]:
    """Return the resident set of a fresh worker, in megabytes, after each of several deliveries of one size."""
    file = folder / f"again.{kind}"
    write(file, kind, megabytes)
    folder = folder / f"again-{kind}"
    folder.mkdir()
    process, url = start(folder)
    try:
        found = []
        for number in range(deliveries):
            deliver(url, file, kind, f"again-{number}", packed=False)
            found.append(memory_mb(process.pid, "VmRSS"))
        return found
    finally:
        process.kill()
        process.communicate()


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--limit", type=float, default=150.0)
    parser.add_argument("--deliveries", type=int, default=20)
    asked = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="onerow-bench-") as name:
        folder = Path(name)
        process, url = start(folder)
        try:
            for kind in FORMATS:
                small, large = folder / f"small.{kind}", folder / f"large.{kind}"
                write(small, kind, 1)
                rows = write(large, kind, asked.megabytes)
                for packed in (False, True):
                    label = f"{kind}{'+gzip' if packed else ''}"
                    deliver(url, small, kind, f"small-{label}", packed=packed)
                    before_mb = memory_mb(process.pid, "VmRSS")
                    Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")
                    began_s = time.perf_counter()
                    told = deliver(url, large, kind, f"large-{label}", packed=packed)
                    took_s = time.perf_counter() - began_s
                    rise_mb = memory_mb(process.pid, "VmHWM") - before_mb
                    worst = max(worst, rise_mb)
                    if told["rows"] != rows:
                        raise RuntimeError(f"{label}: {told['rows']} rows of {rows} were staged")
                    size_mb = large.stat().st_size / MEGABYTE
                    print(
                        f"{label:13} {size_mb:6.0f} MB {rows:9,} rows {took_s:6.1f} s {rows / took_s:9,.0f} rows/s   "
                        f"memory {before_mb:4.0f} MB, {rise_mb:+5.0f} MB at most",
                        flush=True,
                    )
                large.unlink()
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError("the worker did not end well")
        finally:
            process.kill()
            process.communicate()
        for kind in ("ndjson", "parquet"):
            found = over_time(folder, kind, asked.megabytes // 4, asked.deliveries)
            sizes = ", ".join(f"{one:.0f}" for one in found)
            print(f"{kind}, {len(found)} deliveries of {asked.megabytes // 4} MB: resident {sizes} MB", flush=True)
    print(f"at most {worst:.0f} MB above what it was; the limit is {asked.limit:g} MB")
    return 0 if worst <= asked.limit else 1


if __name__ == "__main__":
    sys.exit(main())
