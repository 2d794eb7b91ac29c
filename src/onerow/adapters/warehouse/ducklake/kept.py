"""Keeping the files of a transaction whose COMMIT was not answered.

DuckLake removes the files that a transaction has written when its commit fails, also when the catalog has committed
and only its answer was lost: then the catalog names files that are gone, and the tables cannot be read any more.
(Seen with DuckDB 1.5.5 and a PostgreSQL catalog whose connection is cut after COMMIT; ``tests/ducklake`` holds it.)

So every file that the transaction has written gets a second name, a hard link, before the commit. If the commit fails
and is not known to have been refused, the files come back at once: either the catalog names them, or nobody does and
DuckLake's own clean-up of orphaned files takes them. A process that dies in between leaves the second names; whoever
opens the lake next brings back what the catalog names, and ``gc`` removes the names when they are old. An object store
has no second names: there the bucket's versioning is what brings files back.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

KEPT_NAME: Final = "onerow-kept"
SUFFIX: Final = ".kept"
"""Not ``.parquet``: DuckLake's clean-up of orphaned files leaves it alone."""
CLOCK_MARGIN_S: Final = 3600.0
"""A folder's time may come from a file server with another clock."""
OLD_S: Final = 6 * 3600.0
"""Second names of this age belong to no commit that still runs: servers end one that hangs much earlier."""

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
            second = _second_name(root, self._folder, path)
            second.parent.mkdir(parents=True, exist_ok=True)
            if _link(path, second):  # else it is another transaction's, which has been rolled back meanwhile
                self._kept.append((path, second))

    def restore(self) -> int:
        """Bring back what is gone; return how many files were."""
        return sum(_bring_back(path, second) for path, second in self._kept)

    def forget(self) -> None:
        """Remove the second names."""
        if self._folder.exists():
            shutil.rmtree(self._folder)


def bring_back_named(root: Path, named: Callable[[Collection[str]], Collection[str]]) -> int:
    """Bring back files that are gone, of commits that nobody has seen the end of, as far as the catalog names them.

    Args:
        root: the lake's data.
        named: of some files' names, those that the catalog knows.

    Returns:
        how many files were brought back.
    """
    gone = {}
    for folder in _folders(root):
        for second in _second_names(folder):
            path = _first_name(root, folder, second)
            if not path.exists():
                gone[path.name] = (path, second)
    return sum(_bring_back(*gone[name]) for name in named(gone)) if gone else 0


def left_over(root: Path) -> list[Path]:
    """Return folders of second names that are too old to belong to a commit that still runs."""
    youngest_s = time.time() - OLD_S
    return [folder for folder in _folders(root) if _changed_s(folder) < youngest_s]


def remove_left_over(root: Path) -> int:
    """Remove what ``left_over`` returns, after ``bring_back_named``; return how many folders were removed."""
    found = left_over(root)
    for folder in found:
        shutil.rmtree(folder)
    return len(found)


def _folders(root: Path) -> list[Path]:
    """Return the folders of commits under way and of those that were left behind."""
    kept = root / KEPT_NAME
    return sorted(kept.iterdir()) if kept.is_dir() else []


def _second_names(folder: Path) -> list[Path]:
    """Return the second names in a folder; none if its commit ends at this moment and removes it."""
    try:
        return list(folder.rglob(f"*{SUFFIX}"))
    except FileNotFoundError:
        return []


def _changed_s(folder: Path) -> float:
    """Return when a folder was changed; one whose commit ends at this moment is new."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _second_name(root: Path, folder: Path, path: Path) -> Path:
    """Return the second name of a file, which tells the first: below the lake's data, or anywhere else."""
    if path.is_relative_to(root):
        second = folder / "inside" / path.relative_to(root)
    else:
        second = folder / "outside" / path.relative_to(path.anchor)
    return second.with_name(second.name + SUFFIX)


def _first_name(root: Path, folder: Path, second: Path) -> Path:
    where, *rest = second.relative_to(folder).parts
    return Path(root if where == "inside" else root.anchor, *rest).with_name(second.name.removesuffix(SUFFIX))


def _bring_back(path: Path, second: Path) -> bool:
    """Give a file its first name again; say whether it was gone. Of several that do so one is enough."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    return _link(second, path)


def _link(path: Path, second: Path) -> bool:
    """Give a file a second name; return False if there is no such file any more."""
    try:
        os.link(path, second)
    except FileExistsError:  # somebody else was faster; the file is the same
        return True
    except FileNotFoundError:
        if path.exists():  # what is missing is the place for the second name
            raise
        return False
    except OSError:  # a file system without links; whole or not at all
        made = second.with_name(f"{second.name}.{uuid.uuid4().hex}")
        shutil.copyfile(path, made)
        made.rename(second)
    return True


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
