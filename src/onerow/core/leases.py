"""Leases: what one is, when it has expired, what a token is. Pure decisions, no store.

A lock store is a register with compare-and-swap. Each function here looks at what the
register holds and says what to write. Whoever calls writes with the version it has read,
so that of two who decide at once only one succeeds.

All times in a record are microseconds of the store's own clock. Nobody compares them with
any other clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_FORMAT = 1
MICROSECONDS = 1_000_000
TOKEN_EPOCH_US = 1_767_225_600 * MICROSECONDS  # the first of January 2026


@dataclass(frozen=True, slots=True)
class ForcedRelease:
    """The last time a person took the lease away."""

    at_us: int
    by: str
    reason: str
    from_holder: str
    token: int


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What the register holds for a scope.

    Attributes:
        token: the fencing token of the latest grant; it never falls.
        owner: identity of the acquisition that holds the lease; "" when it is free.
        holder: who that is, for people: host, process, name.
        duration_us: how long the lease lasts from each renewal.
        expires_us: when it ends unless renewed, by the store's clock.
    """

    scope: str
    token: int
    owner: str = ""
    holder: str = ""
    batch: str = ""
    duration_us: int = 0
    acquired_us: int = 0
    renewed_us: int = 0
    expires_us: int = 0
    renewals: int = 0
    forced: ForcedRelease | None = None

    @property
    def held(self) -> bool:
        """Whether somebody holds it, expired or not."""
        return bool(self.owner)

    def is_expired(self, now_us: int) -> bool:
        """Whether the lease has run out at ``now_us`` of the store's clock."""
        return now_us >= self.expires_us

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        data: dict[str, Any] = {"format": RECORD_FORMAT}
        for name in self.__slots__:
            data[name] = getattr(self, name)
        if self.forced is not None:
            data["forced"] = {name: getattr(self.forced, name) for name in ForcedRelease.__slots__}
        return data


def record_from_json(data: Mapping[str, Any]) -> LeaseRecord:
    """Return the record that ``data`` holds.

    Raises:
        LockStoreError: it holds none that this version can read.
    """
    try:
        fields = dict(data)
        if fields.pop("format") != RECORD_FORMAT:
            raise LockStoreError(f"A lease record has format {data['format']!r}; this version reads {RECORD_FORMAT}.")
        forced = fields.pop("forced")
        return LeaseRecord(**fields, forced=None if forced is None else ForcedRelease(**forced))
    except (KeyError, TypeError) as error:
        raise LockStoreError(
            f"A lease record is damaged: {error}.",
            hint="Remove it with `onerow locks force-release`; tokens stay safe, the warehouse keeps the fence.",
        ) from error


def next_token(record: LeaseRecord | None, now_us: int, above: int = 0) -> int:
    """Return the token of the next grant: above the record's, the store's clock and ``above``.

    The clock keeps tokens growing when the record was deleted or an old copy restored.
    """
    return max(record.token if record else 0, now_us, above) + 1


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants a lease, and for how long."""

    scope: str
    owner: str
    holder: str
    batch: str
    duration_us: int


def may_take(record: LeaseRecord | None, now_us: int, *, unchanged_us: int) -> bool:
    """Say whether the lease is to be had.

    Args:
        record: what the register holds.
        now_us: the store's clock when it was read.
        unchanged_us: for how long, by the waiter's own monotonic clock, it has seen the record
            unchanged. A live holder renews, which changes it: a record unchanged for the whole
            duration has expired, whatever became of the store's clock meanwhile.
    """
    return (
        record is None or not record.held or record.is_expired(now_us) or unchanged_us >= record.duration_us
    )


def grant(record: LeaseRecord | None, claim: Claim, now_us: int, *, above: int = 0) -> LeaseRecord:
    """Return the record that gives the lease to ``claim``, with a token above ``above``."""
    return LeaseRecord(
        scope=claim.scope,
        token=next_token(record, now_us, above),
        owner=claim.owner,
        holder=claim.holder,
        batch=claim.batch,
        duration_us=claim.duration_us,
        acquired_us=now_us,
        renewed_us=now_us,
        expires_us=now_us + claim.duration_us,
        forced=record.forced if record else None,
    )


def renewed(record: LeaseRecord, now_us: int) -> LeaseRecord:
    """Return the record with its end moved on."""
    return replace(
        record, renewed_us=now_us, expires_us=now_us + record.duration_us, renewals=record.renewals + 1
    )


def regranted(record: LeaseRecord, now_us: int, *, above: int) -> LeaseRecord:
    """Return the record of the same holder with a new token above ``above``, a fence it met.

    Where the fence is ahead of the store's clock, the clock alone tells nothing of the last token, and the record may
    have been deleted: so the time that has passed goes into the token too. Of two who meet one fence, one after the
    other, the later has the higher token.
    """
    if above >= now_us:
        above += max(now_us - TOKEN_EPOCH_US, 0)
    return replace(renewed(record, now_us), token=next_token(record, now_us, above))


def released(record: LeaseRecord) -> LeaseRecord:
    """Return the record of a free lease; it keeps the token."""
    return LeaseRecord(scope=record.scope, token=record.token, forced=record.forced)


def force_released(record: LeaseRecord, now_us: int, *, by: str, reason: str) -> LeaseRecord:
    """Return the record of a lease taken away; the token rises, so that the old holder is behind it."""
    token = next_token(record, now_us)
    forced = ForcedRelease(at_us=now_us, by=by, reason=reason, from_holder=record.holder, token=token)
    return LeaseRecord(scope=record.scope, token=token, forced=forced)


def renewals_fresh(record: LeaseRecord, now_us: int) -> bool:
    """Whether the holder gives signs of life: held and not expired."""
    return record.held and not record.is_expired(now_us)
