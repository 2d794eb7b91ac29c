"""Keeping the files of a transaction whose COMMIT was not answered.

DuckLake removes the files that a transaction has written when its commit fails, also when the catalog has committed
and only its answer was lost: then the catalog names files that are gone, and the tables cannot be read any more.
(Seen with DuckDB 1.5.5 and a PostgreSQL catalog whose connection is cut after COMMIT; ``tests/ducklake`` holds it.)

So every file that the transaction has written gets a second name, a hard link, before the commit. If the commit fails
and is not known to have been refused, the files come back at once: either the catalog names them, or nobody does and
DuckLake's own clean-up of orphaned files takes them. An object store has no second names: there the bucket's
versioning is what brings them back.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEPT_NAME: Final = "onerow-kept"
CLOCK_MARGIN_S: Final = 3600.0
"""A folder's time may come from a file server with another clock."""

_WRITTEN = re.compile(r"ducklake-([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f-]+(?:-delete)?\.(?:parquet|puffin)")


class KeptFiles:
    """Second names for the files of a lake's folder that were written since a moment.

    Args:
        root: the lake's data.
        folders: of the tables that the transaction changes.
        since_s: when the transaction began, by this machine's clock, which the files' names tell.
    """

    def __init__(self, root: Path, folders: Iterable[Path], *, since_s: float) -> None:
        self._folder = root / KEPT_NAME / uuid.uuid4().hex
        self._kept: list[tuple[Path, Path]] = []
        for path in _written_since(folders, since_s):
            if not self._kept:
                self._folder.mkdir(parents=True)
            second = self._folder / f"{len(self._kept)}.kept"
            _link(path, second)
            self._kept.append((path, second))

    def restore(self) -> int:
        """Bring back what is gone; return how many files were."""
        gone = [(path, second) for path, second in self._kept if not path.exists()]
        for path, second in gone:
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(second, path)
        return len(gone)

    def forget(self) -> None:
        """Remove the second names."""
        if self._kept:
            shutil.rmtree(self._folder)


def _link(path: Path, second: Path) -> None:
    try:
        os.link(path, second)
    except OSError:  # a file system without links
        shutil.copyfile(path, second)


def _written_since(folders: Iterable[Path], since_s: float) -> Iterator[Path]:
    """Return the files that were written since then; folders that nobody has touched are not read."""
    waiting = [folder for folder in folders if folder.is_dir()]
    while waiting:
        folder = waiting.pop()
        changed = folder.stat().st_mtime >= since_s - CLOCK_MARGIN_S
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif changed and _written_at_s(entry.name) >= since_s - 1.0:
                    yield Path(entry.path)


def _written_at_s(name: str) -> float:
    """Return the moment that the name of one of DuckLake's files tells; 0 for any other."""
    match = _WRITTEN.fullmatch(name)
    return int(match[1] + match[2], 16) / 1000 if match else 0.0
