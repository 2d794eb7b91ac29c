"""A process that has imported everything and forks a worker for each request: real processes, in milliseconds.

``Nursery`` is the conductor's side. The other side (``main``) has no threads and
no connections, so that its forks start clean; it alone sends signals, because it alone knows which process
numbers are still its children's; and it kills them when the conductor is gone.

Requests and events are lines of JSON.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from onerow.adapters.warehouse.duckdb import install, sql
from onerow.errors import OnerowError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READY_S = 60.0
_WANTED = (
    "onerow.adapters.locks.sqlite",
    "onerow.adapters.staging.checks",
    "onerow.adapters.staging.files",
    "onerow.adapters.staging.readers",
    "onerow.testing.chaos.roles",
    "sqlglot.dialects.duckdb",
    "sqlglot.dialects.postgres",
)
_OPTIONAL = (
    "onerow.adapters.locks.firestore",  # imports gRPC; no channel may be open before a fork, and none is
    "onerow.adapters.locks.postgresql",
    "onerow.adapters.warehouse.ducklake.warehouse",
    "onerow.adapters.warehouse.postgresql.parts",
    "onerow.adapters.warehouse.postgresql.warehouse",
    "pandas",  # DuckDB imports it, where it is installed, for the first parameter
)
_SERVE = "from onerow.testing.chaos import nursery; nursery.main()"  # -m would import the module twice


@dataclass(slots=True)
class Child:
    """A process that was started.

    Attributes:
        stopped: it stands still.
        exit_code: negative for a signal; None while it lives.
    """

    pid: int
    stopped: bool = False
    exit_code: int | None = None


class Nursery:
    """Starts, stops and kills processes. A context manager that leaves none behind."""

    def __init__(self, log: Path, *, control_schema: str = "onerow") -> None:
        self._children: dict[int, Child] = {}
        self._tickets = itertools.count()
        self._waiting = b""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and code
                [sys.executable, "-c", _SERVE, control_schema],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, "PYTHONPATH": path},
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise OnerowError("The process that starts the workers has no pipes.")
        self._in, self._out = self._process.stdin, self._process.stdout
        self._log = log
        self._await(lambda event: event["event"] == "ready")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._in.close()  # the other side kills its children and ends
        self._process.wait(10)
        self._out.close()

    def start(self, function: Callable[[Any], None], argument: Any) -> Child:
        """Have ``function`` (of a module) run in a process of its own; both are pickled."""
        ticket = next(self._tickets)
        work = base64.b64encode(pickle.dumps((function, argument))).decode()
        self._send({"work": work, "ticket": ticket})
        event = self._await(lambda event: event.get("ticket") == ticket)
        return self._children[event["pid"]]

    def signal(self, child: Child, number: signal.Signals) -> None:
        """Send a signal to a process, if it is still there."""
        self._send({"pid": child.pid, "signal": int(number)})

    def watch(self, timeout_s: float) -> None:
        """Take note of what happened to the processes, for at most so long."""
        self._await(lambda event: False, timeout_s=timeout_s)  # noqa: ARG005 -- whatever comes

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._in.write((json.dumps(request) + "\n").encode())
            self._in.flush()
        except BrokenPipeError as error:
            raise self._dead() from error

    def _await(
        self, wanted: Callable[[dict[str, Any]], bool], *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Return the first event that is wanted; with a time-out, {} when it is over."""
        deadline_s = time.monotonic() + (READY_S if timeout_s is None else timeout_s)
        while True:
            while b"\n" in self._waiting:
                line, _, self._waiting = self._waiting.partition(b"\n")
                event: dict[str, Any] = json.loads(line)
                self._note(event)
                if wanted(event):
                    return event
            left_s = max(deadline_s - time.monotonic(), 0.0)
            readable, _, _ = select.select([self._out], [], [], left_s)
            if not readable:
                if timeout_s is None:
                    raise OnerowError(f"No worker could be started within {READY_S:.0f} s; see {self._log}.")
                return {}
            chunk = os.read(self._out.fileno(), 65_536)
            if not chunk:
                raise self._dead()
            self._waiting += chunk

    def _note(self, event: dict[str, Any]) -> None:
        if event["event"] == "started":
            self._children[event["pid"]] = Child(event["pid"])
        elif event["event"] != "ready":
            child = self._children[event["pid"]]
            child.stopped = event["event"] == "stopped"
            child.exit_code = event.get("code")

    def _dead(self) -> OnerowError:
        return OnerowError(f"The process that starts the workers has died; see {self._log}.")


# --- the other side ------------------------------------------------------------------------


def main() -> None:
    """Serve one conductor until it is gone."""
    warm_up(sys.argv[1])
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to everybody; the conductor decides
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # noqa: ARG005
    signal.set_wakeup_fd(wakes)
    alive: set[int] = set()
    waiting = b""
    tell(event="ready")
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            reap(alive)
        if 0 in readable:
            chunk = os.read(0, 65_536)
            if not chunk:
                break
            *lines, waiting = (waiting + chunk).split(b"\n")
            for request in map(json.loads, lines):
                if "signal" not in request:
                    alive.add(fork(request))
                elif request["pid"] in alive:  # not reaped yet, so the number is still its own
                    os.kill(request["pid"], request["signal"])
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def warm_up(control_schema: str) -> None:
    """Import and parse what every worker needs, without opening anything."""
    for name in _WANTED:
        import_module(name)
    for name in _OPTIONAL:
        with contextlib.suppress(ImportError):  # an extra; an engine that needs it says so when it is opened
            import_module(name)
    install.control_statements(control_schema)
    for name in ("merge.sql", "inspection.sql"):
        sql.templates(name)


def tell(**event: Any) -> None:
    """Write an event for the conductor."""
    os.write(1, (json.dumps(event) + "\n").encode())


def fork(request: dict[str, Any]) -> int:
    """Fork a process that does the requested work and ends with 0; its traceback goes to standard error."""
    pid = os.fork()
    if pid:
        tell(pid=pid, event="started", ticket=request["ticket"])
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        function, argument = pickle.loads(base64.b64decode(request["work"]))  # noqa: S301 -- from our own parent
        function(argument)
        code = 0
    except BaseException:  # noqa: BLE001 -- nothing may run on in a fork of the nursery
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def reap(alive: set[int]) -> None:
    """Tell what became of children."""
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            tell(pid=pid, event="stopped")
        elif os.WIFCONTINUED(status):
            tell(pid=pid, event="continued")
        else:
            alive.discard(pid)
            tell(pid=pid, event="exited", code=os.waitstatus_to_exitcode(status))
