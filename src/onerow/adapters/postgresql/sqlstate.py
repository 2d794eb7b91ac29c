"""What PostgreSQL's error codes mean for us. Texts are translated and change; codes do not.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeVar

from onerow.errors import (
    ConflictError,
    DuplicatesError,
    NotInstalledError,
    OnerowError,
    RowRefusedError,
    WarehouseBusyError,
    WarehouseError,
)

if TYPE_CHECKING:
    import psycopg

Failure = Literal[
    "conflict", "busy", "lost", "cancelled", "duplicate", "row", "denied", "missing", "full", "read_only", "other"
]
"""conflict: lost against another transaction. busy: waited too long for a lock. lost: the connection or the session
was ended. cancelled: the statement was. duplicate: a unique index refuses a row. row: the table refuses it.
denied: a grant is missing. missing: a table, column or schema is. full: disk, memory or connections are used up."""

_BY_CODE: Final[dict[str, Failure]] = {
    "23505": "duplicate",
    "23P01": "duplicate",
    "25006": "read_only",
    "25P03": "lost",  # idle_in_transaction_session_timeout
    "25P04": "lost",  # transaction_timeout
    "3D000": "other",
    "3F000": "missing",
    "40001": "conflict",
    "40P01": "conflict",
    "42501": "denied",
    "42703": "missing",
    "42P01": "missing",
    "55P03": "busy",
    "57014": "cancelled",
    "57P01": "lost",
    "57P02": "lost",
    "57P03": "lost",
    "57P05": "lost",
}
_BY_CLASS: Final[dict[str, Failure]] = {
    "08": "lost",
    "22": "row",
    "23": "row",
    "28": "denied",
    "40": "conflict",
    "53": "full",
}
HINTS: Final[dict[Failure, str]] = {
    "lost": "Nothing of this transaction was committed unless it is said so. It is safe to run it again.",
    "denied": "Grant what is missing; `onerow doctor` lists the grants that each role needs.",
    "missing": "Run `onerow init` to create what is missing.",
    "full": "Make room on the server; nothing was committed, staging is kept.",
    "read_only": "It is a standby or set to read only; connect to the primary.",
    "cancelled": "Nothing was committed, staging is kept.",
}

Kind = TypeVar("Kind", bound=OnerowError)


def classify(error: psycopg.Error) -> Failure:
    """Return what an error stands for. Without a code it came from the client side: the connection is lost."""
    if error.sqlstate is None:
        return "lost" if type(error).__name__ == "OperationalError" else "other"
    return classify_code(error.sqlstate)


def classify_code(code: str | None) -> Failure:
    """Return what an SQLSTATE stands for; none at all comes from a connection that was lost."""
    if code is None:
        return "lost"
    return _BY_CODE.get(code) or _BY_CLASS.get(code[:2]) or "other"


def told(error: psycopg.Error) -> str:
    """Return the error's first line, without the details that may hold values."""
    text = error.diag.message_primary or str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def map_error(error: psycopg.Error, doing: str, *, kind: type[OnerowError] = WarehouseError) -> OnerowError:
    """Return the error of ours that ``error`` stands for; ``kind`` where there is no closer one."""
    failure = classify(error)
    closer: dict[Failure, type[OnerowError]] = {
        "conflict": ConflictError,
        "busy": WarehouseBusyError,
        "duplicate": DuplicatesError,
        "row": RowRefusedError,
        "missing": NotInstalledError,
    }
    chosen = closer.get(failure, kind) if kind is WarehouseError else kind
    code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return chosen(f"{doing}: {told(error)}{code}.", hint=HINTS.get(failure, ""))
