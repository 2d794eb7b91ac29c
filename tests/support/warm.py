"""``onerow`` and ``python3`` for scripts under test: the programs themselves, in processes that are forked, not started.

A shell script that runs ten commands would spend twenty seconds importing libraries. Here a server has imported them and
forks for each command; the command on PATH is a client of a few milliseconds that hands over its arguments, environment,
working directory and its three streams, and exits with the command's own code.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from support import zygote

PROGRAMS = ("onerow", "python3", "python")
START_S = 120.0
CLIENT = """#!{python} -IS
import json, os, socket, sys
name = os.path.basename(sys.argv[0])
if name != "onerow" and (len(sys.argv) < 2 or sys.argv[1] in ("-", "-c") or sys.argv[1].startswith("-") and sys.argv[1] != "-m"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([name, sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked)
code = server.recv(1)
os._exit(code[0] if code else 137)
"""


class Warm:
    """A folder for PATH with the programs in it; started when it is first asked for."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="onerow-warm-")
        self._process = None

    def environment(self, **more):
        """Return an environment in which scripts find the programs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ONEROW_") and name != "PYTHONPATH"}
        return {**kept, "PATH": f"{self.folder}:{os.environ['PATH']}", **more}

    @property
    def folder(self):
        """The folder."""
        folder = Path(self._folder.name)
        if self._process is None:
            path = [str(Path(__file__).parent.parent), *(entry for entry in sys.path if entry)]
            address = str(folder / "server")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.warm", address],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            )  # fmt: skip
            ready, _, _ = select.select([self._process.stdout], [], [], START_S)
            assert ready
            assert self._process.stdout.readline() == b"ready\n"
            for name in PROGRAMS:
                program = folder / name
                program.write_text(CLIENT.format(python=sys.executable, address=address))
                program.chmod(0o755)
        return folder

    def run(self, command, *, cwd=None, timeout_s=120, **more):
        """Run a script of bash, each failing command of which ends it."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=self.environment(**more), cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def close(self):
        """End the server."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(10)
            self._process.stdout.close()
        self._folder.cleanup()


def serve(address):
    """Fork for each connection, until standard input ends."""
    zygote.warm_up()
    import click.testing  # noqa: F401
    import rich.table  # noqa: F401

    import support.nba  # noqa: F401
    from deploy import verify_deployment  # noqa: F401
    from onerow.faces.cli import main as cli  # noqa: F401
    from onerow.faces.cli import output  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            readable, _, _ = select.select([0, listener], [], [])
            if 0 in readable and not os.read(0, 1):
                return
            if listener in readable:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    answer(connection)
                connection.close()


def answer(connection):
    """Be the program that was asked for. Never returns."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        length, streams, _, _ = socket.recv_fds(connection, 4, 3)
        asked = b""
        while len(asked) < int.from_bytes(length, "big"):
            asked += connection.recv(65_536)
        name, words, environ, folder = json.loads(asked)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(folder)
        sys.path[:0] = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        code = be(name, words)
    except BaseException:  # noqa: BLE001 -- nothing may run on in a fork of the server
        traceback.print_exc()
    finally:
        for stream in sys.stdout, sys.stderr:
            with contextlib.suppress(OSError):
                stream.flush()
        connection.send(bytes([code % 256]))
        os._exit(code % 256)


def be(name, words):
    """Run a program; return its exit code."""
    try:
        if name == "onerow":
            from onerow.faces.cli.main import run

            sys.argv = [name, *words]
            run()
        elif words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, str(Path.cwd()))
            sys.modules.pop(words[1], None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    return 0


def quoted(*words):
    """Return words as a shell takes them."""
    return shlex.join(map(str, words))


if __name__ == "__main__":
    serve(sys.argv[1])
    os._exit(0)
