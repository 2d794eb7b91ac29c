"""Incidents: what is open, what is over, and what each receiver still has to be told. Pure decisions, no store.

An incident is one kind of finding in one table; the partitions or batches that it is about are its members, so that
many of them make one message. A record is in the register, written by compare-and-swap: of several monitors that see
the same, one writes, and of several that could tell it, one claims the message.

What is due is never queued. It is the difference between what is the case and what a receiver was told, so a receiver
that was dead for hours is told the state when it is back, and nothing piles up. A message that was claimed is kept in
the record until it is delivered: whoever sends it again after a crash sends the same one, with the same identity.

All times are microseconds of the store's own clock.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_FORMAT: Final = 1
SECOND: Final = 1_000_000

Level = Literal["INFO", "WARNING", "CRITICAL"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

Members = Literal["partition", "batch", "check"]
Event = Literal["opened", "reopened", "raised", "grown", "repeated", "resolved"]

MAX_MEMBERS: Final = 100
STALE_US: Final = 86_400 * SECOND
"""What nobody has looked at for so long, as a table that is not configured any more, is not told again."""

SEEN_EVERY_US: Final = 300 * SECOND
"""A record that says nothing new is written again this often, so that people see that it goes on."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When receivers are told.

    Attributes:
        level: the least level that is told.
        repeat_us: an incident that goes on is told again after so long.
        claim_us: how long one monitor has to deliver a message before another may.
        retry_us, max_retry_us: the pause after a failed delivery; it doubles up to the longer one.
        keep_us: how long an incident stays in the register after it is over and everybody knows.
        abandon_us: how long it stays if a receiver never answers.
    """

    level: Level = "WARNING"
    repeat_us: int = 14_400 * SECOND
    claim_us: int = 60 * SECOND
    retry_us: int = 15 * SECOND
    max_retry_us: int = 900 * SECOND
    keep_us: int = 86_400 * SECOND
    abandon_us: int = 30 * 86_400 * SECOND

    def tells(self, level: Level) -> bool:
        """Say whether incidents of ``level`` are told."""
        return LEVELS.index(level) >= LEVELS.index(self.level)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look has seen of one kind in one table.

    Attributes:
        kind: stable word for programs.
        table: "" where it is about no table.
        what: a sentence for people. It names no age: a text that changes with every look is written with every one.
        command: what to run to look closer.
        members: names, with the time since when where that is known and 0 where it is not.
        of: what the members are.
        complete: False: there are more members than could be seen, so one that is missing may still be there.
    """

    kind: str
    table: str
    level: Level
    what: str
    command: str
    members: Mapping[str, int] = field(default_factory=dict)
    of: Members = "partition"
    complete: bool = True

    @property
    def fingerprint(self) -> str:
        """What makes two sightings the same incident."""
        return fingerprint(self.kind, self.table)


@dataclass(frozen=True, slots=True)
class Message:
    """What a receiver is told.

    Attributes:
        message_id: the same whenever this message is sent again.
        opening_us: the opening that it is about.
        members: those that the incident had then.
        member_count: how many there were.
        since_us: since when it is known to be the case.
        at_us: when the message was made.
        resolved_us: when it was over; 0: it is not.
        openings: how often it was opened; more than once: it came back.
    """

    message_id: str
    event: Event
    level: Level
    kind: str
    table: str
    of: Members
    members: tuple[str, ...]
    member_count: int
    what: str
    command: str
    opening_us: int
    since_us: int
    at_us: int
    resolved_us: int
    openings: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "members": list(self.members)}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a receiver knows of an incident, and the message that is on its way to it.

    Attributes:
        opening_us: the opening that it was last told of; 0: it was never told.
        knows_open: whether it was told that it is open.
        sent: how many messages it has got.
        claimed_by, claim_until_us: who delivers the message now, and until when.
        attempts: failed deliveries of the message.
        refused: the receiver said that the message will never do; it is tried again rarely all the same.
    """

    opening_us: int = 0
    knows_open: bool = False
    level: Level = "INFO"
    members: tuple[str, ...] = ()
    told_us: int = 0
    sent: int = 0
    message: Message | None = None
    claimed_by: str = ""
    claim_until_us: int = 0
    attempts: int = 0
    next_us: int = 0
    refused: bool = False
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        message = None if self.message is None else self.message.to_json()
        data = {name: getattr(self, name) for name in self.__slots__}
        return {**data, "members": list(self.members), "message": message}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a delivery has failed; ``retry_after_us`` is how long the receiver asks us to wait, 0 if it does not."""

    error: str
    refused: bool = False
    retry_after_us: int = 0


@dataclass(frozen=True, slots=True)
class Incident:
    """What the register holds.

    Attributes:
        level: the gravest of this opening.
        members: names, each since when.
        more: members beyond those that are kept.
        opened_us: when it was first seen; every opening has another.
        seen_us: when it was last seen, roughly.
        resolved_us: when it was over; 0: it is open.
        openings: how often it was opened since the record is there.
        deliveries: by receiver, those that were configured while it was open.
    """

    kind: str
    table: str
    level: Level
    what: str
    command: str
    of: Members
    members: Mapping[str, int]
    opened_us: int
    seen_us: int
    more: int = 0
    resolved_us: int = 0
    openings: int = 1
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Its identity."""
        return fingerprint(self.kind, self.table)

    @property
    def open(self) -> bool:
        """Whether it is the case, as far as anybody knows."""
        return not self.resolved_us

    @property
    def since_us(self) -> int:
        """Since when it is known to be the case."""
        return min([self.opened_us, *(since for since in self.members.values() if since)])

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        deliveries = {name: known.to_json() for name, known in self.deliveries.items()}
        data = {name: getattr(self, name) for name in self.__slots__}
        return {"format": RECORD_FORMAT, **data, "members": dict(self.members), "deliveries": deliveries}


def fingerprint(kind: str, table: str) -> str:
    """Return the identity of an incident."""
    return f"{kind}/{table}"


def incident_from_json(data: Mapping[str, Any]) -> Incident:
    """Return the record that ``data`` holds.

    Raises:
        LockStoreError: it holds none that this version can read.
    """
    try:
        if data["format"] != RECORD_FORMAT:
            raise LockStoreError(
                f"An incident has format {data['format']!r}; this version reads {RECORD_FORMAT}.",
                hint="It was written by another version of onerow; use that one or upgrade.",
            )
        fields = {name: value for name, value in data.items() if name != "format"}
        deliveries = {name: _delivery(found) for name, found in fields.pop("deliveries").items()}
        return Incident(**{**fields, "members": dict(fields["members"]), "deliveries": deliveries})
    except (KeyError, TypeError, AttributeError) as error:
        raise LockStoreError(
            f"An incident in the register is damaged: {type(error).__name__}: {error}.",
            hint="Whatever is still the case is found again by the next look.",
        ) from error


def _delivery(data: Mapping[str, Any]) -> Delivery:
    message = data["message"]
    made = None if message is None else Message(**{**message, "members": tuple(message["members"])})
    return Delivery(**{**data, "members": tuple(data["members"]), "message": made})


# --- what a look changes ----------------------------------------------------------------------


def sighted(
    old: Incident | None, seen: Sighting, now_us: int, *, receivers: frozenset[str], policy: Policy
) -> Incident:
    """Return the record after a look that has seen it; ``old`` itself if that says nothing new."""
    if old is None or not old.open:
        return _opened(old, seen, now_us, receivers=receivers, policy=policy)
    members, more = _members(old, seen, now_us)
    level = max(old.level, seen.level, key=LEVELS.index)
    new = replace(
        old,
        level=level,
        what=seen.what,
        command=seen.command,
        of=seen.of,
        members=members,
        more=more,
        deliveries=_with(old.deliveries, receivers if policy.tells(level) else frozenset()),
    )
    if new == old and now_us - old.seen_us < SEEN_EVERY_US:
        return old
    return replace(new, seen_us=now_us)


def _opened(
    old: Incident | None, seen: Sighting, now_us: int, *, receivers: frozenset[str], policy: Policy
) -> Incident:
    names = sorted(seen.members)
    return Incident(
        kind=seen.kind,
        table=seen.table,
        level=seen.level,
        what=seen.what,
        command=seen.command,
        of=seen.of,
        members={name: seen.members[name] or now_us for name in names[:MAX_MEMBERS]},
        more=len(names[MAX_MEMBERS:]),
        opened_us=now_us if old is None else max(now_us, old.opened_us + 1),
        seen_us=now_us,
        openings=1 if old is None else old.openings + 1,
        deliveries=_with({} if old is None else old.deliveries, receivers if policy.tells(seen.level) else frozenset()),
    )


def _members(old: Incident, seen: Sighting, now_us: int) -> tuple[dict[str, int], int]:
    """Return the members now; those that were known keep their place when there are too many."""
    kept = {name: since for name, since in old.members.items() if name in seen.members or not seen.complete}
    new = sorted(seen.members.keys() - kept.keys())
    room = MAX_MEMBERS - len(kept)
    kept |= {name: seen.members[name] or now_us for name in new[:room]}
    return dict(sorted(kept.items())), len(new[room:])


def _with(deliveries: Mapping[str, Delivery], receivers: frozenset[str]) -> dict[str, Delivery]:
    return {**deliveries, **{name: Delivery() for name in sorted(receivers - deliveries.keys())}}


def unseen(old: Incident, now_us: int, *, policy: Policy) -> Incident | None:
    """Return the record after a look that would have seen it and has not; None: it may be forgotten."""
    if old.open:
        return replace(old, resolved_us=max(now_us, old.opened_us), seen_us=now_us)
    age_us = now_us - old.resolved_us
    settled = all(event_due(old, name, now_us, policy=policy) is None for name in old.deliveries)
    if age_us >= (policy.keep_us if settled else policy.abandon_us):
        return None
    return old


def forgotten(old: Incident, now_us: int, *, policy: Policy) -> bool:
    """Say whether nobody has looked for so long that the record says nothing any more, as of a table that is gone."""
    return now_us - old.seen_us >= policy.abandon_us


# --- what a receiver is told ------------------------------------------------------------------


def event_due(incident: Incident, receiver: str, now_us: int, *, policy: Policy) -> Event | None:
    """Return what a receiver has to be told now, a message on its way before all; None for nothing."""
    known = _delivery(incident, receiver)
    if known is None:
        return None
    if known.message is not None:
        return known.message.event
    if not incident.open:
        told = known.opening_us == incident.opened_us and not known.knows_open
        return None if told or not (policy.tells(incident.level) or known.knows_open) else "resolved"
    if not policy.tells(incident.level):
        return None
    if known.opening_us != incident.opened_us:
        return "opened" if incident.openings == 1 else "reopened"
    if LEVELS.index(incident.level) > LEVELS.index(known.level):
        return "raised"
    if not incident.members.keys() <= set(known.members):
        return "grown"
    looked_at = now_us - incident.seen_us < STALE_US
    return "repeated" if looked_at and now_us - known.told_us >= policy.repeat_us else None


def _delivery(incident: Incident, receiver: str) -> Delivery | None:
    """Return what a receiver knows: nothing yet of an open incident that a monitor without this receiver has found."""
    return incident.deliveries.get(receiver) or (Delivery() if incident.open else None)


def claim(
    incident: Incident, receiver: str, now_us: int, *, by: str, policy: Policy
) -> tuple[Incident, Message] | None:
    """Claim what a receiver is to be told.

    Returns:
        The record to be written and, once it is, the message to be sent; None: nothing is due, somebody else is
        at it, or it is not yet time to try again.
    """
    event = event_due(incident, receiver, now_us, policy=policy)
    known = _delivery(incident, receiver)
    if event is None or known is None or now_us < known.next_us or now_us < known.claim_until_us:
        return None
    message = known.message or _message(incident, receiver, event, known.sent, now_us)
    claimed = replace(known, message=message, claimed_by=by, claim_until_us=now_us + policy.claim_us)
    return _set(incident, receiver, claimed), message


def _message(incident: Incident, receiver: str, event: Event, number: int, now_us: int) -> Message:
    names = (incident.fingerprint, receiver, str(incident.opened_us), str(number))
    state = hashlib.sha256()
    for name in names:
        state.update(len(name.encode()).to_bytes(8, "big") + name.encode())
    return Message(
        message_id="m" + state.hexdigest()[:32],
        event=event,
        level=incident.level,
        kind=incident.kind,
        table=incident.table,
        of=incident.of,
        members=tuple(incident.members),
        member_count=len(incident.members) + incident.more,
        what=incident.what,
        command=incident.command,
        opening_us=incident.opened_us,
        since_us=incident.since_us,
        at_us=now_us,
        resolved_us=incident.resolved_us,
        openings=incident.openings,
    )


def delivered(incident: Incident, receiver: str, message: Message, now_us: int, *, by: str) -> Incident | None:
    """Return the record after a delivery; None: the message is not ours any more, and nothing is to be written."""
    known = _ours(incident, receiver, message, by)
    if known is None:
        return None
    before = known.members if known.opening_us == message.opening_us else ()
    told = Delivery(
        opening_us=message.opening_us,
        knows_open=message.event != "resolved",
        level=message.level,
        members=tuple(sorted({*before, *message.members})),
        told_us=now_us,
        sent=known.sent + 1,
    )
    return _set(incident, receiver, told)


def not_delivered(
    incident: Incident,
    receiver: str,
    message: Message,
    now_us: int,
    *,
    by: str,
    failure: Failure,
    policy: Policy,
) -> Incident | None:
    """Return the record after a delivery that failed; the message stays. None: it is not ours any more."""
    known = _ours(incident, receiver, message, by)
    if known is None:
        return None
    pause_us = min(policy.retry_us * 2 ** min(known.attempts, 20), policy.max_retry_us)
    if failure.refused:
        pause_us = policy.max_retry_us
    failed = replace(
        known,
        claimed_by="",
        claim_until_us=0,
        attempts=known.attempts + 1,
        next_us=now_us + max(pause_us, failure.retry_after_us),
        refused=failure.refused,
        error=failure.error,
    )
    return _set(incident, receiver, failed)


def _ours(incident: Incident, receiver: str, message: Message, by: str) -> Delivery | None:
    known = incident.deliveries.get(receiver)
    if known is None or known.message is None or known.message.message_id != message.message_id:
        return None
    return known if known.claimed_by == by else None


def _set(incident: Incident, receiver: str, delivery: Delivery) -> Incident:
    return replace(incident, deliveries={**incident.deliveries, receiver: delivery})
