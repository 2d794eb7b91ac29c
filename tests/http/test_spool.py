"""Where deliveries wait: private, bounded, and gone with its process, however that ended."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from onerow.errors import ConfigurationError, StagingError
from onerow.faces.http.refusals import BusyError
from onerow.faces.http.spool import Spool

LEAVE = """
import os, sys
from pathlib import Path
from onerow.faces.http.spool import Spool
spool = Spool(Path(sys.argv[1]), max_bytes=1000)
file = spool.file()
file.write(b"rows")
print(spool.folder, flush=True)
sys.stdin.read()
os._exit(9)
"""


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def other(tmp_path):
    """A process that has a file in its spool until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    folder = process.stdout.readline().strip()
    yield process, Path(folder)
    process.kill()
    process.communicate()


def test_what_dead_processes_left_is_removed_and_what_the_living_have_stays(tmp_path, other):
    process, folder = other
    with Spool(tmp_path, max_bytes=1000) as mine:
        mine.file().write(b"x")
        assert mine.clean_up() == 0
        assert len(list(folder.iterdir())) == 1
        process.kill()
        process.wait()
        assert len(list(folder.iterdir())) == 1, "a killed process cannot tidy up"
        assert mine.clean_up() == 1
        assert not folder.exists()
        assert len(list(mine.folder.iterdir())) == 1
    assert names(tmp_path) == []


def test_nothing_else_in_the_folder_is_touched(tmp_path):
    for name in ("mine.txt", "1-x.lock", "12-0123456789abcdef"):
        (tmp_path / name).write_text("kept")
    with Spool(tmp_path, max_bytes=1000) as spool:
        assert spool.clean_up() == 0
    assert names(tmp_path) == ["1-x.lock", "12-0123456789abcdef", "mine.txt"]


def test_nobody_else_may_read_along(tmp_path):
    with Spool(tmp_path / "new", max_bytes=1000) as spool:
        file = spool.file()
        file.write(b"rows")
        for path in (tmp_path / "new", spool.folder, file.path):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_folder_that_somebody_has_prepared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prepared = tmp_path / f"onerow-spool-{os.getuid()}"
    prepared.mkdir(mode=0o777)
    prepared.chmod(0o777)
    with pytest.raises(ConfigurationError, match="not this user's alone"):
        Spool(None, max_bytes=1000)
    prepared.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    prepared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="not this user's alone"):
        Spool(None, max_bytes=1000)
    prepared.unlink()
    with Spool(None, max_bytes=1000) as spool:
        assert spool.folder.parent == prepared


def test_room_is_bounded_and_given_back(tmp_path):
    with Spool(tmp_path, max_bytes=10) as spool:
        first, second = spool.file(), spool.file()
        first.write(b"1234567")
        with pytest.raises(BusyError, match="no room"):
            second.write(b"1234")
        second.write(b"123")
        first.remove()
        first.remove()
        assert spool.used_bytes == 3
        third = spool.file()
        third.write(b"1234567")
        third.finish()
        assert third.path.read_bytes() == b"1234567"


def test_a_file_that_was_removed_takes_no_more(tmp_path):
    with Spool(tmp_path, max_bytes=10) as spool:
        file = spool.file()
        file.write(b"1")
        file.remove()
        with pytest.raises(StagingError):
            file.write(b"2")
        assert (list(spool.folder.iterdir()), spool.used_bytes) == ([], 0)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, BusyError), (errno.EIO, StagingError)])
def test_a_disk_that_fails_is_told(tmp_path, monkeypatch, number, error):
    with Spool(tmp_path, max_bytes=10) as spool:
        file = spool.file()
        file.write(b"1")

        def fail(descriptor, data):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fail)
            with pytest.raises(error):
                file.write(b"2")
        file.remove()
        assert spool.used_bytes == 0


def test_who_cleans_up_and_who_begins_do_not_meet(tmp_path, monkeypatch):
    """One who cleans up takes the lock file of one who has made it and has not locked it yet: that one makes another."""
    real, taken = fcntl.flock, []

    def flock(descriptor, operation):
        if not taken and operation == fcntl.LOCK_EX:
            taken.append(1)
            for path in tmp_path.glob("*.lock"):
                path.unlink()
        return real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Spool(tmp_path, max_bytes=10) as spool:
        assert taken == [1]
        assert (tmp_path / f"{spool.folder.name}.lock").exists()
        with Spool(tmp_path, max_bytes=10) as other:
            assert other.clean_up() == 0


def test_a_place_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool", max_bytes=10)
