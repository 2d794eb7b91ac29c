"""Where deliveries wait on disk: a folder of this process alone, with bounded room, that does not outlive it.

::

    <root>/<process>.lock      locked for as long as the process lives, whatever ends it
    <root>/<process>/          its files

The lock is the system's (flock), so it says the truth also of processes in other containers that share the root,
and of a process number that somebody else has now. A new process removes what dead ones have left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from onerow.errors import ConfigurationError, StagingError
from onerow.faces.http.refusals import BusyError

if TYPE_CHECKING:
    from types import TracebackType

_LOCK: Final = re.compile(r"[0-9]{1,10}-[0-9a-f]{16}\.lock", re.ASCII)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
FULL_RETRY_S: Final = 10.0
SPARE_BYTES: Final = 256 * 1024 * 1024


class Spool:
    """The files of one process. For many threads.

    Args:
        root: the folder that processes share; None: a folder of this user's where temporary files are.
        max_bytes: how much room all files take at once.

    Raises:
        ConfigurationError: the folder cannot be made, or somebody else could look into it.
    """

    def __init__(self, root: Path | None, *, max_bytes: int) -> None:
        self._root = root or Path(tempfile.gettempdir()) / f"onerow-spool-{os.getuid()}"
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._guard = threading.Lock()
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self._root, shared=root is not None)
            self._lock, name = _take_lock(self._root)
            self.folder = self._root / name
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {self._root}, where deliveries wait, cannot be used: {error.strerror or error}.",
                hint="Name another one with spool in [serve].",
            ) from error

    def clean_up(self) -> int:
        """Remove what dead processes have left; return how many there were."""
        removed = 0
        for path in sorted(self._root.iterdir()):
            if _LOCK.fullmatch(path.name) and path.stem != self.folder.name:
                removed += _remove_if_dead(path)
        return removed

    def file(self) -> SpoolFile:
        """Begin a file."""
        return SpoolFile(self, self.folder / secrets.token_hex(12))

    @property
    def used_bytes(self) -> int:
        """How much room the files take now."""
        return self._used_bytes

    def reserve(self, size_bytes: int) -> None:
        """Take room.

        Raises:
            BusyError: there is none left.
        """
        free_bytes = shutil.disk_usage(self.folder).free
        with self._guard:
            if self._used_bytes + size_bytes > self._max_bytes or free_bytes - size_bytes < SPARE_BYTES:
                raise full()
            self._used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give room back."""
        with self._guard:
            self._used_bytes -= size_bytes

    def close(self) -> None:
        """Remove the folder. Idempotent."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self._root / f"{self.folder.name}.lock").unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SpoolFile:
    """A file that is written once, from its beginning to its end.

    It may be removed by another thread than the one that writes to it: a request that is given up does not wait for
    its last write.
    """

    def __init__(self, spool: Spool, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._spool = spool
        self._file: int | None = None
        self._removed = False
        self._guard = threading.Lock()

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            BusyError: there is no room.
            StagingError: the disk fails.
        """
        with self._guard:
            self._write(data)

    def finish(self) -> None:
        """Make what was written readable by its path; an empty file too."""
        with self._guard:
            if self._file is None:
                self._write(b"")
            self._close()

    def remove(self) -> None:
        """Remove the file and give its room back. Idempotent."""
        with self._guard:
            self._close()
            if not self._removed:
                self._removed = True
                self.path.unlink(missing_ok=True)
                self._spool.release(self.size_bytes)

    def _write(self, data: bytes) -> None:
        if self._removed:
            raise StagingError("The delivery was given up while it was written.")
        self._spool.reserve(len(data))
        self.size_bytes += len(data)
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            if error.errno in _FULL:
                raise full() from error
            raise StagingError(f"A delivery could not be written to disk: {error.strerror}.") from error

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def full() -> BusyError:
    """Return the error for a spool that has no room."""
    return BusyError(
        "There is no room for this delivery now; nothing of it was kept.",
        hint="Come again later. If this lasts, give the worker more room (spool, spool_bytes in [serve]).",
        retry_after_s=FULL_RETRY_S,
    )


def _check_private(root: Path, *, shared: bool) -> None:
    """Refuse a folder where temporary files are that is not ours: somebody may have put it there to read along."""
    found = root.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    if not ours and not shared:
        raise ConfigurationError(
            f"The folder {root} is not this user's alone.",
            hint="Remove it, or name another one with spool in [serve].",
        )


def _take_lock(root: Path) -> tuple[int, str]:
    """Return a lock file that is ours for as long as we live, and its name without suffix."""
    while True:
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        lock = os.open(root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (root / f"{name}.lock").exists():  # else one who cleaned up was faster than we have locked it
            return lock, name
        os.close(lock)


def _remove_if_dead(path: Path) -> bool:
    """Remove the files of the process whose lock ``path`` is, if it is dead; return whether it was."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # somebody else has removed it, or it is not ours to look at
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
