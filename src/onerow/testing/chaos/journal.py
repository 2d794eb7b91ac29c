"""What each process of a run writes down of itself: one JSON object a line, whole or not at all.

A line is one ``write`` to a file that is only ever appended to, so that a killed process leaves all lines but
perhaps its last, and that one cut short at worst. What was written before the kill is safe: the page cache
outlives a process.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onerow.errors import OnerowError

_COMMITTED: Final = b'"status":"committed","token"'
SUFFIX: Final = ".jsonl"


class Journal:
    """One process's file; its next incarnation goes on in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        end = os.lseek(self._file, 0, os.SEEK_END)
        if end and os.pread(self._file, 1, end - 1) != b"\n":  # the last incarnation died in the middle of a line
            os.write(self._file, b"\n")

    def write(self, event: str, **facts: Any) -> None:
        """Append a line: ``t`` is the machine's monotonic time, which all processes share."""
        line = json.dumps({"e": event, "t": round(time.monotonic(), 6), **facts}, separators=(",", ":"))
        raw = (line + "\n").encode()
        if os.write(self._file, raw) != len(raw):
            raise OSError(f"the journal {self.path} cannot be written: the disk is full")

    def error(self, doing: str, error: OnerowError) -> None:
        """Append that something failed with an error of ours."""
        self.write("error", doing=doing, kind=error.kind, message=error.message[:500])


class Follower:
    """Counts, while a run goes on, how many partitions each worker was told that it has committed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.committed: Counter[str] = Counter()

    def follow(self) -> None:
        """Read what has been added since the last time, whole lines only."""
        for path in self._folder.glob(f"worker-*{SUFFIX}"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            self.committed[path.stem] += whole.count(_COMMITTED)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal, in order; none if there is none. A line that was cut short is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # its writer was killed within the write
            continue
        if isinstance(event, dict):
            yield event
