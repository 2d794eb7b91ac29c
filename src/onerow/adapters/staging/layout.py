"""How the files of the part store are called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

TEMPORARY: Final = ".tmp"
MANIFEST: Final = re.compile(r"(p[0-9a-f]{32})(?:\.([0-9]+))?\.json")
DATA: Final = re.compile(r"(p[0-9a-f]{32})\.[A-Za-z0-9]+\.(?:parquet|part)")


def manifest_path(folder: Path, part_id: str, number: int) -> Path:
    """Return the path of the manifest of a part that was staged for the ``number``-th time."""
    return folder / (f"{part_id}.json" if number == 1 else f"{part_id}.{number}.json")


def relative_name(folder: Path, name: str) -> str:
    """Return how a manifest names the file ``name`` in a batch's folder: relative to the root."""
    return f"{folder.parent.name}/{folder.name}/{name}"


def marker(data: Path, kind: Literal["retired", "discarded"]) -> Path:
    """Return the path of the mark that speaks of the data ``data``."""
    return data.with_suffix(f".{kind}")


def names_in(folder: Path) -> list[str]:
    """Return the names in ``folder``, sorted; none if it is not there."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in ``folder`` but for the temporary one, sorted; none if it is not there."""
    return [folder / name for name in names_in(folder) if name != TEMPORARY and (folder / name).is_dir()]
