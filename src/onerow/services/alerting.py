"""Incidents in the register, and the messages about them.

Any number of monitors do this at once. Each change is a compare-and-swap of one record, so that of several monitors
that see the same, one opens the incident, and of several that could tell it, one does. A monitor that dies between
sending a message and recording it makes it arrive twice, with the same identity; nothing makes it arrive never.

A receiver that fails is left alone until the next look, so that it blocks nobody; what it has missed stays due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from onerow.core import incidents as core
from onerow.core.incidents import Message
from onerow.errors import LockStoreError, NotifierError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from onerow.core.incidents import Incident, Policy, Sighting
    from onerow.ports.lockstore import Entry
    from onerow.ports.notifier import Notifier

    _Change = Callable[[Incident | None, int], Incident | None]

INCIDENT_PREFIX: Final = "incident:"
SWAP_TRIES: Final = 8


class Register(Protocol):
    """The part of a lock store that is needed here."""

    def read(self, key: str) -> Entry:
        """Return what ``key`` holds now."""
        ...

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Write ``value`` if the key's version is ``expected``; None if it is another."""
        ...

    def entries(self, prefix: str) -> Sequence[Entry]:
        """Return all keys with ``prefix``."""
        ...


@dataclass(slots=True)
class Told:
    """What became of the messages of one round.

    Attributes:
        delivered: how many were.
        failed: by receiver, why the first that failed did.
        waiting: by receiver, how many incidents it still has to be told of.
    """

    delivered: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What the register held at one moment, by key."""

    entries: Mapping[str, tuple[Entry, Incident]]

    @property
    def incidents(self) -> list[Incident]:
        """The incidents that are open or were lately, the open ones, the gravest and the newest first."""
        return sorted(
            (incident for _, incident in self.entries.values()),
            key=lambda one: (not one.open, -core.LEVELS.index(one.level), -one.opened_us),
        )

    def open(self, kind: str, table: str) -> Incident | None:
        """Return an incident that is open."""
        found = self.entries.get(_key(core.fingerprint(kind, table)))
        return found[1] if found is not None and found[1].open else None


class Alerting:
    """Keeps incidents in the register and tells them.

    Args:
        register: where they are kept.
        notifiers: who is told; none: incidents are kept all the same.
        who: identity of this monitor, unlike every other's.
    """

    def __init__(self, *, register: Register, notifiers: Sequence[Notifier], policy: Policy, who: str) -> None:
        self._register = register
        self._notifiers = notifiers
        self._policy = policy
        self._who = who
        self._receivers = frozenset(notifier.name for notifier in notifiers)

    def known(self) -> Known:
        """Return what the register holds now."""
        found = [(entry, _read(entry)) for entry in self._register.entries(INCIDENT_PREFIX)]
        return Known({entry.key: (entry, incident) for entry, incident in found if incident is not None})

    def record(self, known: Known, sightings: Iterable[Sighting], *, looked: Collection[str]) -> None:
        """Write down what a look has seen.

        Args:
            known: what the register held just now.
            sightings: one for each kind and table.
            looked: fingerprints of all that would have been seen; an open incident among them that was not is over.

        Raises:
            LockStoreError: something could not be written; everything else was.
        """
        seen = {_key(sighting.fingerprint): sighting for sighting in sightings}
        failed: list[LockStoreError] = []
        for key in sorted({*seen, *known.entries}):
            entry = known.entries[key][0] if key in known.entries else None
            try:
                self._update(key, entry, seen.get(key), looked=looked)
            except LockStoreError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def tell(self) -> Told:
        """Deliver what is due, one message for each incident and receiver at most.

        Raises:
            LockStoreError: the register does not answer; what was claimed is sent again, with the same identity.
        """
        told = Told()
        for entry, incident in self.known().entries.values():
            left = incident
            for notifier in self._notifiers:
                if notifier.name not in told.failed:
                    left = self._tell(entry, left, notifier, told)
            for name in self._receivers & left.deliveries.keys():
                due = core.event_due(left, name, entry.now_us, policy=self._policy)
                told.waiting[name] = told.waiting.get(name, 0) + (due is not None)
        return told

    def close(self) -> None:
        """Let go of the receivers' connections."""
        for notifier in self._notifiers:
            notifier.close()

    # --- within ----------------------------------------------------------------------------

    def _update(
        self, key: str, entry: Entry | None, sighting: Sighting | None, *, looked: Collection[str]
    ) -> None:
        def change(old: Incident | None, now_us: int) -> Incident | None:
            if sighting is not None:
                return core.sighted(old, sighting, now_us, receivers=self._receivers, policy=self._policy)
            if old is None:
                return None
            if old.fingerprint in looked:
                return core.unseen(old, now_us, policy=self._policy)
            return None if core.forgotten(old, now_us, policy=self._policy) else old

        old, new = self._swap(key, change, entry)
        if new is not None and new.open and (old is None or old.opened_us != new.opened_us):
            emit("onerow.incident_opened", level=new.level, **_facts(new))
        if old is not None and old.open and new is not None and not new.open:
            emit("onerow.incident_resolved", level=new.level, **_facts(new))

    def _tell(self, entry: Entry, incident: Incident, notifier: Notifier, told: Told) -> Incident:
        """Claim what is due, send it, and write down how that ended; return the record as it is then."""
        receiver, claimed = notifier.name, list[Message]()
        if core.claim(incident, receiver, entry.now_us, by=self._who, policy=self._policy) is None:
            return incident

        def claim(old: Incident | None, now_us: int) -> Incident | None:
            claimed.clear()
            made = None if old is None else core.claim(old, receiver, now_us, by=self._who, policy=self._policy)
            if made is None:
                return old
            claimed.append(made[1])
            return made[0]

        _, left = self._swap(entry.key, claim)
        if not claimed:
            return incident if left is None else left
        (message,) = claimed
        facts = {**_facts(message), "receiver": receiver, "message": message.message_id, "said": message.event}
        try:
            notifier.send(message)
        except NotifierError as error:
            told.failed[receiver] = error.message
            emit("onerow.alert_failed", refused=error.refused, error=error.message, **facts)
            _, left = self._swap(entry.key, self._after_failure(receiver, message, error))
        else:
            told.delivered += 1
            emit("onerow.alert_sent", **facts)
            _, left = self._swap(entry.key, self._after_delivery(receiver, message))
        return incident if left is None else left

    def _after_delivery(self, receiver: str, message: Message) -> _Change:
        def change(old: Incident | None, now_us: int) -> Incident | None:
            made = None if old is None else core.delivered(old, receiver, message, now_us, by=self._who)
            return old if made is None else made

        return change

    def _after_failure(self, receiver: str, message: Message, error: NotifierError) -> _Change:
        failure = core.Failure(error.message, error.refused, round(error.retry_after_s * core.SECOND))

        def change(old: Incident | None, now_us: int) -> Incident | None:
            made = None
            if old is not None:
                made = core.not_delivered(
                    old, receiver, message, now_us, by=self._who, failure=failure, policy=self._policy
                )
            return old if made is None else made

        return change

    def _swap(self, key: str, change: _Change, entry: Entry | None = None) -> tuple[Incident | None, Incident | None]:
        """Change a record, whoever else does; a reply that was lost is read back.

        Args:
            key: its key in the register.
            change: returns the new record, or the old one where there is nothing to change.
            entry: what the register held just now, to begin with.

        Returns:
            What was there and what is there now.

        Raises:
            LockStoreError: the register does not answer, or somebody else was always faster.
        """
        for _ in range(SWAP_TRIES):
            entry = self._register.read(key) if entry is None else entry
            old = _incident(entry)
            new = change(old, entry.now_us)
            if new is old:
                return old, old
            value = None if new is None else new.to_json()
            try:
                if self._register.swap(key, expected=entry.version, value=value) is not None:
                    return old, new
                entry = None
            except LockStoreError:
                entry = self._register.read(key)
                if _incident(entry) == new:
                    return old, new
        raise LockStoreError(f"The record of an incident changed {SWAP_TRIES} times while it was being written.")


def _key(fingerprint: str) -> str:
    return f"{INCIDENT_PREFIX}{fingerprint}"


def _read(entry: Entry) -> Incident | None:
    """Return the incident of an entry; one that is damaged hides no other."""
    try:
        return _incident(entry)
    except LockStoreError as error:
        emit("onerow.incident_unreadable", key=entry.key, error=error.message)
        return None


def _incident(entry: Entry) -> Incident | None:
    return None if entry.value is None else core.incident_from_json(entry.value)


def _facts(one: Incident | Message) -> dict[str, str]:
    return {"table": one.table, "kind": one.kind}
