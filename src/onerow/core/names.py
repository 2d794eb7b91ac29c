"""Names that people give (tables, columns, batches, workers, partitions) and their safe forms."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from onerow.errors import UsageError

MAX_NAME_CHARS = 200


def check_name(name: object, what: str) -> str:
    """Return ``name`` if it can be a name of ``what``.

    Any text is allowed that an eye can tell apart and every engine can hold: no control
    characters, no lone surrogates, no blanks at the ends, 1 to 200 characters. Quotes,
    slashes and semicolons are fine: names reach SQL as quoted identifiers or parameters
    and the file system as ``slug``.

    Raises:
        UsageError: ``name`` is no such text.
    """
    if not isinstance(name, str):
        raise UsageError(f"The {what} must be text, not {type(name).__name__}.")
    if not name or name != name.strip():
        raise UsageError(f"The {what} {name!r} is empty or has blanks at its ends.")
    if len(name) > MAX_NAME_CHARS:
        raise UsageError(f"The {what} {name[:40]!r}... is longer than {MAX_NAME_CHARS} characters.")
    for position, char in enumerate(name):
        if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}:
            raise UsageError(
                f"The {what} {name!r} has a character at position {position + 1} (U+{ord(char):04X}) "
                "that cannot be part of a name."
            )
    return name


def slug(name: str) -> str:
    """Return a file name for ``name``: readable in front, unique by a digest behind.

    Two different names never share a slug, also on file systems that fold case: the
    digest is of the exact bytes.
    """
    readable = re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("._")[:40]
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{readable}~{digest}" if readable else f"~{digest}"
