#!/usr/bin/env python3
"""Save the lock store of a project to a file of JSON lines, or bring entries back that are missing.

    export_lock_collection.py --to locks.jsonl
    export_lock_collection.py --restore locks.jsonl [--apply]

The file has a line for each entry: leases (`consolidation_locks` in Firestore), batches, the journal, incidents. Its
first line says what it is of, its last one how many entries there are and their SHA-256, so that a cut file is refused.
It is written whole or not at all.

Restoring writes only what is not there and changes nothing else. Leases are not brought back: who held them then does
not now, and a new one gets a higher token all the same. What is merged does not depend on
any of it: its ledger is in the warehouse.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onerow
from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT: Final = 1
LEASES: Final = ("lease:", "turn:")


def export(project_id: str, file: Path) -> int:
    """Write the lock store's entries to ``file``, which is replaced only by a whole one.

    Returns:
        How many entries there are.

    Raises:
        OnerowError: they could not be read.
        OSError: the file could not be written.
    """
    with settings.open_store(project_id) as store:
        identity = store.ports.locks.identity()
        entries = store.ports.locks.entries("")
    head = {
        "format": FORMAT,
        "project": project_id,
        "lock_store": identity,
        "exported_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    lines = [_line({"key": entry.key, "version": entry.version, "value": entry.value}) for entry in entries]
    tail = {"entries": len(lines), "sha256": _digest(lines)}
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, prefix=f".{file.name}-", encoding="utf-8", newline="\n", delete=False
    ) as new:
        try:
            new.writelines([_line(head), *lines, _line(tail)])
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).replace(file)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
    return len(lines)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of an exported file, by key.

    Raises:
        UsageError: it is none, or it is not whole.
        OSError: it could not be read.
    """
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        head, tail = json.loads(lines[0]), json.loads(lines[-1])
        if head["format"] != FORMAT:
            raise onerow.UsageError(f"{file} has format {head['format']!r}; this version reads {FORMAT}.")
        whole = len(lines) >= 2 and tail == {"entries": len(lines) - 2, "sha256": _digest(lines[1:-1])}
        entries = {entry["key"]: entry["value"] for entry in map(json.loads, lines[1:-1])} if whole else None
    except (LookupError, TypeError, ValueError) as error:
        raise onerow.UsageError(f"{file} is no export of a lock store ({type(error).__name__}).") from error
    if entries is None:
        raise onerow.UsageError(f"{file} is not whole: its last line does not fit the others. Nothing was restored.")
    return entries


def restore(project_id: str, file: Path, *, apply: bool) -> tuple[list[str], int]:
    """Write the entries of ``file`` that are missing, but no leases; without ``apply``, only find them.

    Returns:
        Keys that are missing (and were written), and how many entries of the file were left.

    Raises:
        OnerowError: the file is no whole export, or the store failed; what was written until then stays, and restoring
            again goes on.
    """
    saved = read(file)
    with settings.open_store(project_id) as store:
        there = {entry.key for entry in store.ports.locks.entries("")}
        missing = [key for key in sorted(saved) if key not in there and not key.startswith(LEASES)]
        written = [
            key
            for key in missing
            if not apply or store.ports.locks.swap(key, expected="", value=saved[key]) is not None
        ]
    return written, len(saved) - len(written)


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":")) + "\n"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, or restore."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project-id", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", type=Path, metavar="FILE", help="write the lock store to this file")
    what.add_argument("--restore", type=Path, metavar="FILE", help="show which entries of this file are missing")
    parser.add_argument("--apply", action="store_true", help="with --restore: write them")
    asked = parser.parse_args(arguments)
    project_id = settings.project_of(asked.project_id)
    try:
        if asked.to:
            print(f"{export(project_id, asked.to)} entries of {project_id} are in {asked.to}.")
            return 0
        missing, left = restore(project_id, asked.restore, apply=asked.apply)
    except onerow.OnerowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    for key in missing:
        print(key)
    done = "were missing and are restored" if asked.apply else "are missing; --apply restores them"
    print(f"{len(missing)} entries {done}; {left} are there already, or leases, and stay as they are.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
