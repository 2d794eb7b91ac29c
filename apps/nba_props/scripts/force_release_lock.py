#!/usr/bin/env python3
"""Take the consolidation lock of a game date from a holder that will not come back.

The holder cannot commit any more, whatever it believes. One that is alive keeps its lock unless --force is given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onerow
from onerow.bootstrap import holder_name
from predictions import settings
from predictions.worker.distributed_lock import ConsolidationLock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow import LockState

NOT_FENCED: Final = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Show who holds the lock and take it away; 0 also if nobody holds it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game-date", required=True, metavar="YYYY-MM-DD")
    parser.add_argument("--project-id", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--reason", default=f"force_release_lock.py by {holder_name()}", help="kept in the audit")
    parser.add_argument("--force", action="store_true", help="also from a holder that is alive")
    parser.add_argument("--dry-run", action="store_true", help="show who holds it and what would be done")
    asked = parser.parse_args(arguments)
    project_id = settings.project_of(asked.project_id)
    try:
        state = _look(project_id, asked.game_date)
        print(_told(asked.game_date, state))
        if state is None or asked.dry_run:
            if state is not None:
                print(f"Dry run: it would be released, reason: {asked.reason}. Nothing was done.")
            return 0
        lock = ConsolidationLock(project_id)
        released = lock.force_release(asked.game_date, reason=asked.reason, force=asked.force)
    except onerow.OnerowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if released is None:
        print("It was released meanwhile; nothing was done.")
        return 0
    print(f"Released. The lock's token is {released.token} now.")
    if released.fence is None:
        print(f"The old holder is NOT fenced out yet: {released.fence_error} Run this again.", file=sys.stderr)
        return NOT_FENCED
    print("The old holder is fenced out: it cannot commit any more.")
    return 0


def _look(project_id: str, game_date: str) -> LockState | None:
    """Return the lock of a date if somebody holds it."""
    with settings.open_store(project_id) as store:
        scope = str(store.locks.scope(f"{settings.TABLE}/{game_date}"))
        found = [state for state in store.locks.locks() if state.scope == scope and state.kind == "lease"]
    return found[0] if found else None


def _told(game_date: str, state: LockState | None) -> str:
    """Return what a person is told of a lock."""
    if state is None:
        return f"Nobody holds the consolidation lock of {game_date}."
    return (
        f"consolidation_{game_date} is {state.state}: {state.holder}, batch {state.batch!r}, "
        f"since {state.held_for_s:.0f} s, renewed {state.renewed_ago_s:.0f} s ago ({state.renewals} times), "
        f"ends in {state.expires_in_s:.0f} s."
    )


if __name__ == "__main__":
    sys.exit(main())
