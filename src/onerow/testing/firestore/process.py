"""The double as a process of its own, for tests with many processes; it ends when the one that started it does."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, Self

from onerow.errors import OnerowError

if TYPE_CHECKING:
    from types import TracebackType

START_S: Final = 30.0


class Double:
    """Starts the double at once. A context manager.

    Attributes:
        address: host and port, as FIRESTORE_EMULATOR_HOST has them.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OnerowError: it does not come up.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onerow.testing.firestore"],
            stdin=subprocess.PIPE,  # it ends when this is closed, also by the end of this process
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
        line = self._first_line()
        if not line.strip():
            self.close()
            raise OnerowError(f"The double of Firestore has not come up within {START_S:.0f} s.")
        self.address = line.decode().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _first_line(self) -> bytes:
        deadline_s = time.monotonic() + START_S
        line = b""
        while self._process.stdout is not None and not line.endswith(b"\n"):
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not chunk:
                break
            line += chunk
        return line
