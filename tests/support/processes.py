"""Starting, stopping and killing real processes from a test; every state is awaited, none is guessed."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 200.0


class Zygote:
    """The process that forks the test's processes; started when the first one is wanted."""

    def __init__(self):
        self._process = None
        self._waiting = b""
        self._children = {}
        self._tickets = itertools.count()

    def close(self):
        """End the zygote; it ends its children."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(10)
            self._process.stdout.close()

    def start(self, request, child):
        """Fork a process and wait until it has its number."""
        if self._process is None:
            self._boot()
        ticket = next(self._tickets)
        self._send({**request, "ticket": ticket})
        started = self._await(lambda event: event.get("ticket") == ticket)
        self._children[started["pid"]] = child
        return started["pid"]

    def signal(self, pid, number):
        """Send a signal to a process that was started here, if it is still there."""
        self._send({"pid": pid, "signal": int(number)})

    def _send(self, request):
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        self._process.stdin.flush()

    def await_event(self, pid, kinds):
        """Return the next event of a process that is of ``kinds``."""
        return self._await(lambda event: event.get("pid") == pid and event["event"] in kinds)

    def _boot(self):
        path = [str(Path(__file__).parent.parent), *(entry for entry in sys.path if entry)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        self._await(lambda event: event["event"] == "ready")

    def _await(self, wanted):
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            while b"\n" in self._waiting:
                line, _, self._waiting = self._waiting.partition(b"\n")
                event = json.loads(line)
                child = self._children.get(event.get("pid"))
                if child is not None:
                    child.saw(event)
                if wanted(event):
                    return event
            left_s = deadline_s - time.monotonic()
            readable, _, _ = select.select([self._process.stdout], [], [], max(left_s, 0))
            if not readable:
                raise TimeoutError(f"no process did what was awaited within {PATIENCE_S:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise RuntimeError("the zygote has died; its output is above")
            self._waiting += chunk


class Child:
    """One process."""

    def __init__(self, zygote, request):
        self._zygote = zygote
        self._answer = Path(request["answer"])
        self._output = Path(request["output"])
        self.exit_code = None
        self.stopped = False
        self.pid = zygote.start(request, self)

    def saw(self, event):
        """Take note of an event."""
        if event["event"] == "exited":
            self.exit_code = event["code"]
        self.stopped = event["event"] == "stopped"

    def wait_stopped(self):
        """Wait until the process stands still; it must not end."""
        while not self.stopped and self.exit_code is None:
            self._zygote.await_event(self.pid, {"stopped", "exited"})
        assert self.exit_code is None, f"it ended ({self.exit_code}) instead of stopping: {self.output()}"
        return self

    def resume(self):
        """Let a stopped process go on."""
        self.stopped = False
        self._zygote.signal(self.pid, signal.SIGCONT)
        return self

    def kill(self):
        """Kill it, whatever it does, and wait until it is gone."""
        if self.exit_code is None:
            self._zygote.signal(self.pid, signal.SIGKILL)
        return self.wait()

    def terminate(self):
        """Tell it to stop, and return what came of it."""
        self._zygote.signal(self.pid, signal.SIGTERM)
        return self.answers()

    def wait(self):
        """Wait until it has ended and return its exit code, negative for a signal."""
        while self.exit_code is None:
            self._zygote.await_event(self.pid, {"exited"})
        return self.exit_code

    def answers(self):
        """Wait for its end and return what came of its jobs."""
        assert self.wait() == 0, self.output()
        return json.loads(self._answer.read_text(encoding="utf-8"))

    def output(self):
        """Return what it printed."""
        return self._output.read_text(encoding="utf-8") if self._output.exists() else ""


class Processes:
    """The processes of one test."""

    def __init__(self, zygote, folder):
        self._zygote = zygote
        self._folder = Path(folder) / "processes"
        self._children = []

    def consolidator(self, bench, *batches, halt=None, options=None, **more):
        """Start a process that consolidates batches of the bench's table.

        Args:
            halt: (step, signal name) or (step, signal name, which time): what happens to it there.
            options: of ``Store.consolidate``.
        """
        self._folder.mkdir(exist_ok=True)
        number = len(self._children)
        request = {
            "config": str(bench.config),
            "table": bench.table,
            "jobs": [[batch, options or {}] for batch in batches],
            "halt": None if halt is None else [*halt, 1][:3],
            "answer": str(self._folder / f"{number}.json"),
            "output": str(self._folder / f"{number}.out"),
            **more,
        }
        child = Child(self._zygote, request)
        self._children.append(child)
        return child

    def coordinator(self, bench, *, halt=None, **options):
        """Start a coordinator that looks and consolidates until it is told to stop; see ``support.coordinators``."""
        return self.consolidator(bench, halt=halt, coordinator=options)

    def together(self, children):
        """Let processes that were started with ``halt=("opened", "SIGSTOP")`` go at the same moment."""
        for child in children:
            child.wait_stopped()
        for child in children:
            child.resume()
        return [answer for child in children for answer in child.answers()]

    def close(self):
        """Kill whatever is left."""
        for child in self._children:
            child.kill()
