"""Files that appear whole or not at all, and stay: what the part store asks of a file system."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from onerow.errors import StagingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FOLDER: Final = {errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EISDIR}
_NO_LINKS: Final = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


@contextlib.contextmanager
def staging_errors(what: str, path: Path) -> Iterator[None]:
    """Turn errors of the operating system into StagingError with the place and advice.

    Args:
        what: what was being done, as in "write a part".
        path: shown where the error itself names no file.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        reason = error.strerror or str(error) or type(error).__name__
        raise StagingError(f"Cannot {what} in {where}: {reason}.", hint=_advice(error.errno)) from error


def _advice(code: int | None) -> str:
    kept = "Nothing of the part is visible to a consolidation; stage it again afterwards."
    if code in _NO_SPACE:
        return f"Free space there, or set `staging` to a folder that has more. {kept}"
    if code in _NOT_ALLOWED:
        return f"Allow this user to write there, or set `staging` to another folder. {kept}"
    if code in _NO_FOLDER:
        return f"Check that `staging` names a folder and that it is mounted. {kept}"
    return kept


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    if sys.platform == "win32":
        return  # Windows has no such call; NTFS journals names itself
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, durably. Idempotent."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # somebody else made it meanwhile, or is_dir was False
        folder.mkdir()
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    sync_folder(folder.parent)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` to the new file ``path``, durably. Removes it again if that fails."""
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(data, file, ensure_ascii=False, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        remove(path)
        raise


def publish_exclusively(temporary: Path, target: Path) -> bool:
    """Give the whole, synced file ``temporary`` the name ``target``, unless that name is taken.

    Returns:
        Whether it was given; ``temporary`` is gone in either case.

    Guarantee: atomic; of several who try at once exactly one succeeds. Where the file system has no
    hard links, two who try within the same moment may both succeed and the later one's content stays:
    callers publish equal content under one name, and never remove what another one has published.
    """
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        remove(temporary)
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            remove(temporary)
            return False
        temporary.rename(target)
        return True
    remove(temporary)
    return True


def remove(path: Path) -> bool:
    """Remove a file; return whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
