"""The same work without onerow, for comparison: parts in files, one plain MERGE a batch, then the files go."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from onerow.testing.chaos.plan import row_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onerow.testing.chaos.bare import Bare
    from onerow.testing.chaos.plan import Draw


class PlainMerge:
    """What a team without onerow writes; its clean-up removes exactly the files that it has merged."""

    def __init__(self, bare: Bare, folder: Path) -> None:
        self._bare = bare
        self._folder = folder

    def batches(self) -> list[str]:
        """Return the batches that have parts."""
        return sorted(path.name for path in self._folder.iterdir() if any(path.glob("*.json")))

    def stage(self, batch: str, part: str, draws: Sequence[Draw]) -> None:
        """Put a part into the folder, whole or not at all."""
        folder = self._folder / batch
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{part}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(draws), encoding="utf-8")
        temporary.replace(folder / f"{part}.json")

    def consolidate(self, batch: str) -> int:
        """Merge the parts of a batch that are there, remove them, and return how many there were."""
        parts = sorted((self._folder / batch).glob("*.json"))
        rows = []
        for part in parts:
            try:
                draws: list[Draw] = json.loads(part.read_text(encoding="utf-8"))
            except FileNotFoundError:  # somebody else has just merged and removed it
                continue
            rows += [tuple(row_of(draw).values()) for draw in draws]
        if rows:
            self._bare.merge(rows)
        for part in parts:
            part.unlink(missing_ok=True)
        return len(parts)
