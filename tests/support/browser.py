"""A service as a process of its own, and pictures of its pages."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

from support.services import environment

SHOTS = Path(__file__).parent.parent / "ui" / "screenshots"
QUESTIONS = (Path(__file__).parent.parent / "ui" / "questions.js").read_text(encoding="utf-8")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
READY_S = 60.0


class Service:
    """``onerow serve coordinator`` as a process."""

    def __init__(self, night, *, tokens=False):
        self.night = night
        self.port = 0
        self.tokens = tokens
        self.url = ""
        self._child = self._reader = None

    def start(self):
        """Start it, on the port that it had before, and wait until it says that it is ready."""
        environ = {name: text for name, text in os.environ.items() if not name.startswith("ONEROW_")}
        environ |= environment() if self.tokens else {}
        command = [sys.executable, "-m", "onerow.faces.cli.main", "--config", str(self.night.config), "serve"]
        self._child = subprocess.Popen(
            [*command, "coordinator", "--port", str(self.port)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines, said = queue.Queue(), []
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout, lines), daemon=True)
        self._reader.start()
        while True:
            line = lines.get(timeout=READY_S)
            said.append(line)
            assert line, f"the service has ended: {''.join(said)}"
            if found := re.search(r"http://\S+?:(\d+)", line):
                self.port, self.url = int(found[1]), f"http://127.0.0.1:{found[1]}"
                return self

    @staticmethod
    def _read(stream, lines):
        with stream:
            for line in stream:
                lines.put(line)
        lines.put("")

    def kill(self):
        """End it without a word."""
        if self._child is not None:
            self._child.kill()
            self._child.wait(10)
            self._reader.join(10)
            self._child = None


def shot(page, name, *, whole=True):
    """Keep a picture of the page, or of what is in view of it, for people to look at."""
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=whole)
