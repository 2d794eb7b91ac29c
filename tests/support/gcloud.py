"""Doubles of gcloud, bq and curl for the deploy scripts: they write down what they are called with, and answer as told."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

DOUBLE = """#!/usr/bin/env bash
line="${0##*/} $*"
printf '%q ' "${0##*/}" "$@" >>"$RECORD"
echo >>"$RECORD"
for word in "$@"; do
  case "$word" in *.yaml) [ ! -e "$word" ] || cp "$word" "${RECORD%/*}/" ;; esac
done
while IFS=$'\\t' read -r pattern code text; do
  if [[ "$line" == *"$pattern"* ]]; then
    if [ "$code" = 0 ]; then printf '%b' "$text"; else printf '%b\\n' "$text" >&2; fi
    exit "$code"
  fi
done <"$ANSWERS"
"""


class Cloud:
    """A folder with doubles on PATH: they write down what they are called with, and answer as they are told."""

    def __init__(self, folder):
        self.folder = folder
        self.record = folder / "record"
        self.record.touch()
        self.answers = []
        (folder / "bin").mkdir()
        for name in "gcloud", "bq", "curl":
            program = folder / "bin" / name
            program.write_text(DOUBLE)
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def answer(self, pattern, text="", code=0):
        """Answer calls that contain ``pattern``; who was told first comes first."""
        self.answers.append(f"{pattern}\t{code}\t{text}\n")

    def environment(self, path, **more):
        """Return an environment in which scripts find the doubles, and then what is in ``path``."""
        (self.folder / "answers").write_text("".join(self.answers))
        kept = {name: value for name, value in os.environ.items() if name not in {"PROJECT_ID", "REGION", "NBA_PROPS_DATASET"}}
        told = {"RECORD": str(self.record), "ANSWERS": str(self.folder / "answers")}
        return {**kept, "PATH": f"{self.folder / 'bin'}:{path}", **told, **more}

    def run(self, *words, **more):
        """Run a script."""
        environ = self.environment(f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more)
        self.record.write_text("")
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=120, cwd=self.folder)

    @property
    def calls(self):
        return [shlex.split(line) for line in self.record.read_text().splitlines()]

    def verbs(self):
        """Return what was called, without options: enough to compare sequences."""
        found = []
        for call in self.calls:
            words = [word for word in call[1:] if not word.startswith("-")]
            found.append(" ".join([call[0], *words[:4]]))
        return found
