"""A process that has imported everything and forks a process for each request: real processes, in milliseconds.

Reads requests as lines of JSON, writes events as lines of JSON: ``{"pid", "event": started | stopped |
continued | exited, "code"}``. It has no threads and no connections, so that its forks start clean; it kills
its children when its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path

from support import child


def tell(**event):
    os.write(1, (json.dumps(event) + "\n").encode())


def warm_up():
    """Import and parse what every consolidation needs, without opening anything."""
    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401, ICN001 -- DuckDB imports it, where it is installed, for the first parameter
    import onerow.adapters.locks.sqlite
    import onerow.adapters.staging.files
    import onerow.adapters.staging.readers
    import onerow.adapters.warehouse.duckdb.warehouse
    import onerow.bootstrap  # noqa: F401
    from onerow.adapters.warehouse.duckdb import install, sql

    install.control_statements("onerow")
    for name in ("merge.sql", "inspection.sql"):
        sql.templates(name)


def start(request):
    pid = os.fork()
    if pid:
        tell(pid=pid, event="started", ticket=request["ticket"])
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        child.run(request)
        code = 0
    except BaseException:  # noqa: BLE001 -- nothing may run on in a fork of the zygote
        Path(request["output"]).write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def reap(alive):
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


def main():
    warm_up()
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes)
    alive, waiting = set(), b""
    tell(event="ready")
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            reap(alive)
        if 0 in readable:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, waiting = (waiting + chunk).split(b"\n")
            for request in map(json.loads, lines):
                if "signal" not in request:
                    alive.add(start(request))
                elif request["pid"] in alive:  # not reaped yet, so the number is still its own
                    os.kill(request["pid"], request["signal"])
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
