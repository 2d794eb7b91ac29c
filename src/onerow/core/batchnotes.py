"""What a batch's record remembers of requests, and what a change of it is told as. Pure decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from onerow.errors import UsageError

if TYPE_CHECKING:
    from onerow.core.batchrecords import BatchRecord

MAX_KEYS: Final = 32
"""Idempotency keys that a record remembers; the oldest goes first."""


def is_repeated(record: BatchRecord | None, key: str, fingerprint: str) -> bool:
    """Say whether the request of an idempotency key was done already.

    Raises:
        UsageError: the key came with another request.
    """
    known = dict(record.keys if record is not None else ()).get(key)
    if known is not None and known != fingerprint:
        raise UsageError(
            f"The idempotency key {key!r} came with another request before.",
            hint="Nothing was changed. Take a new key for each request, and the same one only to repeat it.",
        )
    return known is not None


def remembering(record: BatchRecord, key: str, fingerprint: str) -> BatchRecord:
    """Return the record that remembers the request of an idempotency key."""
    if (key, fingerprint) in record.keys:
        return record
    return replace(record, keys=(*record.keys, (key, fingerprint))[-MAX_KEYS:])


def news(before: BatchRecord | None, after: BatchRecord) -> list[str]:
    """Return the log events that a change of the record stands for, in order."""
    events = []
    if (before is None or not before.registered) and (after.registered or before is None):
        events.append("onerow.batch_opened")
    if after.sealed and not (before is not None and before.sealed):
        events.append("onerow.batch_sealed")
    if before is not None and after.rounds > before.rounds and after.last is not None:
        events.append("onerow.batch_consolidated" if after.last.success else "onerow.batch_failed")
    if after.incomplete_us is not None and not (before is not None and before.incomplete_us is not None):
        events.append("onerow.batch_incomplete")
    if after.state == "due" and after.why == "complete" and not (before is not None and before.state == "due"):
        events.append("onerow.batch_complete")
    if after.cancelled is not None and not (before is not None and before.cancelled is not None):
        events.append("onerow.batch_cancelled")
    return events
