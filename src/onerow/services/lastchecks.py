"""What the last check of each table has found, in the lock store's register.

A check reads a table, which takes time and on some warehouses money. So whoever has checked leaves the result here,
with its time, for pages and people who only look. It is counts and partitions, never keys. Nothing is decided by it.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.errors import LockStoreError, OnerowError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onerow.ports.lockstore import Entry, LockStore
    from onerow.services.checker import CheckReport

CHECK_PREFIX: Final = "check:"
CHECK_FORMAT: Final = 1
MAX_PARTITIONS: Final = 60
MAX_FINDINGS: Final = 20
MAX_CHARS: Final = 500
TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class LastCheck:
    """What the last check of a table has found.

    Attributes:
        checked_at: by the lock store's clock; ``age_s`` is how long ago that is, by the same clock.
        since: the first partition that was looked at; None: all were.
        rows, partitions: what was looked at.
        by_partition: keys with several rows by partition, "" for a table without; of very many only the latest.
        findings: lines for people.
        error: why the check could not run; the numbers say nothing then.
    """

    table: str
    checked_at: dt.datetime
    age_s: float
    since: str | None = None
    rows: int = 0
    partitions: int = 0
    duplicate_keys: int = 0
    extra_rows: int = 0
    by_partition: Mapping[str, int] | None = None
    findings: tuple[str, ...] = ()
    error: str | None = None


class LastChecks:
    """Writes and reads them in the register of ``store``."""

    def __init__(self, store: LockStore) -> None:
        self._store = store

    def record(self, report: CheckReport, *, since: str | None = None) -> bool:
        """Keep what a check has found, in place of the one before.

        Returns:
            Whether that was possible. If not, it is told as an event; the check is not the worse for it.
        """
        key = f"{CHECK_PREFIX}{report.table}"
        try:
            for _ in range(TRIES):
                entry = self._store.read(key)
                value = _value(report, since=since, now_us=entry.now_us)
                if self._store.swap(key, expected=entry.version, value=value) is not None:
                    return True
        except OnerowError as error:
            emit("onerow.check_not_recorded", table=report.table, error=error.message)
            return False
        return True  # somebody else has kept one meanwhile, and theirs is as new

    def list(self, tables: Iterable[str]) -> dict[str, LastCheck]:
        """Return the last checks of those of ``tables`` that were ever checked, by table.

        Raises:
            LockStoreError: the register cannot be read.
        """
        wanted = set(tables)
        found = [_last(entry) for entry in self._store.entries(CHECK_PREFIX) if entry.value is not None]
        return {check.table: check for check in found if check.table in wanted}


def _value(report: CheckReport, *, since: str | None, now_us: int) -> dict[str, Any]:
    data: dict[str, Any] = {
        "format": CHECK_FORMAT,
        "table": report.table,
        "checked_us": now_us,
        "since": since,
        "error": None if report.error is None else report.error[:MAX_CHARS],
    }
    if report.result is not None:
        result = report.result
        counts = Counter(found.partition or "" for found in result.duplicates)
        data |= {
            "rows": result.rows,
            "partitions": result.partitions,
            "duplicate_keys": result.duplicate_keys,
            "extra_rows": result.extra_rows,
            "by_partition": dict(sorted(counts.items())[-MAX_PARTITIONS:]),
            "findings": [found.message[:MAX_CHARS] for found in result.findings[:MAX_FINDINGS]],
        }
    return data


def _last(entry: Entry) -> LastCheck:
    data = dict(entry.value or {})
    try:
        if data.pop("format") != CHECK_FORMAT:
            raise LockStoreError("A check in the register was written by another version of onerow.")
        checked_us = int(data.pop("checked_us"))
        findings = tuple(str(line) for line in data.pop("findings", ()))
        return LastCheck(
            **data,
            checked_at=dt.datetime.fromtimestamp(checked_us / 1_000_000, tz=dt.UTC),
            age_s=(entry.now_us - checked_us) / 1_000_000,
            findings=findings,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LockStoreError(
            f"A check in the register is damaged: {type(error).__name__}: {error}.",
            hint="The next check replaces it.",
        ) from error
