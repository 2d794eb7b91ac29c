"""Writing ``onerow.toml`` for people to read, and adding a table to one that is there."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_MAX_WIDTH: Final = 100


@dataclass(frozen=True, slots=True)
class TableDraft:
    """A table as it is to be declared."""

    name: str
    key: Sequence[str]
    order_by: Sequence[str]
    columns: Mapping[str, str]
    partition: str | None = None
    mode: str = "upsert"
    version_column: str | None = None
    target: str | None = None
    id_column: str | None = None


def quoted(text: str) -> str:
    """Return ``text`` as a TOML string, on one line and within quotes."""
    marks = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

    def escaped(char: str) -> str:
        if char in marks:
            return marks[char]
        return char if char.isprintable() or char == " " else _unicode(char)

    return '"' + "".join(escaped(char) for char in text) + '"'


def _unicode(char: str) -> str:
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004 -- halves of surrogate pairs
        raise ConfigurationError(f"A name has half of a surrogate pair (U+{code:04X}), which no file can hold.")
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def bare(name: str) -> str:
    """Return ``name`` as a TOML key, quoted only if it must be."""
    return name if _BARE.fullmatch(name) else quoted(name)


def _list(names: Sequence[str], indent: int) -> str:
    items = [quoted(name) for name in names]
    line = f"[{', '.join(items)}]"
    if len(line) + indent <= _MAX_WIDTH:
        return line
    return "[\n" + "".join(f"    {item},\n" for item in items) + "]"


def head(*, warehouse: str, source: str) -> str:
    """Return the part of the file that stands in front of the tables."""
    return f"""\
# onerow keeps exactly one row per key in each table below.
# Written by `onerow init` from {source if source.isprintable() else quoted(source)}; change what you like.

warehouse = {quoted(warehouse)}
staging   = "staging"             # rows wait here until they are merged

[lease]
duration = "30s"                  # the lock of a crashed consolidation is free after this
max_wait = "300s"                 # a consolidation waits for another one at most this long
"""


def section(draft: TableDraft) -> str:
    """Return the section of a table."""
    settings: list[tuple[str, str, str]] = [
        ("# The columns that name a row: exactly one row is kept of each key.", "key", _list(draft.key, 12))
    ]
    if draft.partition is not None:
        settings.append(
            ("# Locked, merged and checked one value at a time; a part of a row's identity.",
             "partition", quoted(draft.partition))
        )  # fmt: skip
    settings.append(
        ("# Of several rows of one key the greatest by these columns, the newest, is kept.",
         "order_by", _list(draft.order_by, 12))
    )  # fmt: skip
    settings.append(("", "mode", quoted(draft.mode)))
    for name, value in (
        ("version_column", draft.version_column),
        ("target", draft.target),
        ("id", draft.id_column),
    ):
        if value is not None:
            settings.append(("", name, quoted(value)))
    width = max(len(name) for _, name, _ in settings)
    lines = [f"[tables.{bare(draft.name)}]"]
    for comment, name, value in settings:
        lines += [comment] if comment else []
        lines.append(f"{name:<{width}} = {value}")
    names = {name: bare(name) for name in draft.columns}
    column_width = max(map(len, names.values()), default=0)
    lines += [
        "",
        f"[tables.{bare(draft.name)}.columns]",
        '# string int64 float64 decimal(p,s) bool date timestamp json; "TYPE not null" refuses rows without a value',
        *(f"{names[name]:<{column_width}} = {quoted(kind)}" for name, kind in draft.columns.items()),
    ]
    return "\n".join(lines) + "\n"


def with_section(existing: bytes | None, *, front: str, table: str) -> bytes:
    """Return the whole file: what is there byte for byte, and the table's section behind it."""
    if existing is None:
        return f"{front}\n{table}".encode()
    end = b"" if not existing or existing.endswith(b"\n") else b"\n"
    return existing + end + f"\n{table}".encode()


def write(path: Path, content: bytes) -> None:
    """Write the file whole or not at all.

    Raises:
        ConfigurationError: it cannot be written.
    """
    real = path.resolve()  # a link stays one
    try:
        mode = real.stat().st_mode & 0o7777 if real.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(dir=real.parent, prefix=".onerow-", suffix=".toml")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, mode)  # noqa: PTH101 -- a temporary file has a name, no path
            os.replace(name, real)  # noqa: PTH105
        except BaseException:
            os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
