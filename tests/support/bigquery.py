"""BigQuery for the tests: the emulator in an environment of its own, or a project that is named.

``BIGQUERY_EMULATOR_HOST`` names an emulator that runs already; ``ONEROW_TEST_BIGQUERY=project/dataset`` a real project,
in which every test makes datasets of its own, in the location of that one, and removes them. Without either the
emulator is installed once into the user's cache, from ``bqemulator.txt``, and started once for each test process.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path

from google.cloud import bigquery

from onerow.adapters.bigquery.address import EMULATOR, connect

PINS = Path(__file__).parent / "bqemulator.txt"
LAUNCHER = Path(__file__).parent / "bigquery_emulator.py"
REAL = "ONEROW_TEST_BIGQUERY"
PROJECT = "onerow-tests"
INSTALL_TIMEOUT_S = 900
START_TIMEOUT_S = 120
PREFIX = "onerow_test_"
LEFT_BEHIND_S = 6 * 3_600.0
"""Datasets of ours that are older were left behind by a test run that was killed."""
MAX_BYTES_BILLED = 1_000_000_000
"""Of one statement of a test in a real project."""


class EmulatorError(Exception):
    """The emulator cannot be had; the tests that need it fail."""


def environment():
    """Return the Python of the emulator's environment, which is made if it is not there."""
    digest = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onerow-tests"
    cache_folder.mkdir(parents=True, exist_ok=True)
    folder = cache_folder / f"bqemulator-{digest}"
    python = folder / "bin" / "python"
    with (cache_folder / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one installs
        if not (folder / "complete").exists():
            _run([sys.executable, "-m", "venv", "--clear", folder], INSTALL_TIMEOUT_S)
            _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", PINS], INSTALL_TIMEOUT_S)
            (folder / "complete").touch()
    return python


def _run(command, timeout_s):
    try:
        done = subprocess.run([str(word) for word in command], timeout=timeout_s, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired as error:
        raise EmulatorError(f"{command} has not ended within {timeout_s} s") from error
    if done.returncode:
        raise EmulatorError(f"{command} has failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")


class Emulator:
    """An emulator of our own. It ends with this process, whatever becomes of that."""

    def __init__(self):
        python = environment()
        self._folder = tempfile.TemporaryDirectory(prefix="onerow-bigquery-")
        folder = Path(self._folder.name)
        self._log = (folder / "log").open("w+")
        # The extension of its engine is put below HOME; the engine is kept to one of the machine's threads.
        environ = {**os.environ, "HOME": str(python.parent.parent), "TMPDIR": str(folder)}
        self._process = subprocess.Popen(
            [str(python), str(LAUNCHER), str(folder / "port")],
            stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT, env=environ,
        )  # fmt: skip
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (folder / "port").exists():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._log.seek(0)
                text = self._log.read()[-4000:]
                self.close()
                raise EmulatorError(f"the emulator has not started: {text}")
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{(folder / 'port').read_text()}"

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()


_started: list[Emulator] = []


def emulator():
    """Return the address of the emulator, which is started if none is named and none runs."""
    named = os.environ.get(EMULATOR)
    if named:
        return named
    if not _started:
        _started.append(Emulator())
    return _started[-1].url


class Project:
    """Where the tests of this process make their datasets."""

    def __init__(self):
        real = os.environ.get(REAL)
        if real:
            self.project, _, neighbour = real.partition("/")
            self.client = connect(self.project)
            self.location = self.client.get_dataset(neighbour).location
            self.options = f"?max_bytes_billed={MAX_BYTES_BILLED}"
        else:
            os.environ[EMULATOR] = emulator()
            self.project, self.location, self.options = PROJECT, "US", ""
            self.client = connect(self.project)
        self.is_real = bool(real)
        self._made = []
        if self.is_real:
            self._drop_left_behind()

    def _drop_left_behind(self):
        now = dt.datetime.now(dt.UTC)
        for item in self.client.list_datasets():
            if item.dataset_id.startswith(PREFIX):
                created = self.client.get_dataset(item.reference).created
                if (now - created).total_seconds() > LEFT_BEHIND_S:
                    self.drop(item.dataset_id)

    def create(self, name=None):
        """Make an empty dataset and return its name."""
        name = name or f"{PREFIX}{uuid.uuid4().hex[:16]}"
        dataset = bigquery.Dataset(f"{self.project}.{name}")
        dataset.location = self.location
        self.client.create_dataset(dataset)
        self._made.append(name)
        return name

    def url(self, dataset):
        """Return the URL of a dataset."""
        return f"bigquery://{self.project}/{dataset}{self.options}"

    def drop(self, name):
        """Remove a dataset with all that is in it."""
        self.client.delete_dataset(f"{self.project}.{name}", delete_contents=True, not_found_ok=True)
        with contextlib.suppress(ValueError):
            self._made.remove(name)

    def close(self):
        for name in list(self._made):
            self.drop(name)
        self.client.close()


@cache
def project():
    """The project that the tests of this process share."""
    return Project()


def close_all():
    """Leave nothing behind."""
    if project.cache_info().currsize:
        project().close()
        project.cache_clear()
    while _started:
        _started.pop().close()
        os.environ.pop(EMULATOR, None)
