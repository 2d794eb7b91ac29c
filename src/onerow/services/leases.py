"""Taking, keeping and giving back leases on a lock store.

What a lease is and when it may be taken is decided in ``core.leases``; here is the talk with the
store: compare-and-swap, reading back a lost reply, waiting, renewing beside the work.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onerow.core import leases as core
from onerow.core.partitions import Scope
from onerow.errors import AbandonedError, FencedError, LeaseLostError, LockAcquisitionError, LockStoreError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from onerow.core.leases import LeaseRecord
    from onerow.ports.clock import Background, Clock, Ids
    from onerow.ports.lockstore import Entry, LockStore

LEASE_PREFIX = "lease:"
TURN_PREFIX = "turn:"

STORE_TRIES = 3
STORE_RETRY_S = 0.1
MAX_WAIT_STEP_S = 5.0
MAX_REGRANTS = 3
RENEW_DEADLINE = 5 / 6
"""After this share of the lease without a renewal the holder stops by itself: it is out before anybody is in."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How long leases last, and how long to wait for one at most."""

    duration_s: float = 30.0
    renew_every_s: float = 10.0
    max_wait_s: float = 300.0
    turn_duration_s: float = 6.0


@dataclass(slots=True)
class _Grant:
    """One lease that is held: what the register holds, and when that was last certain."""

    key: str
    record: LeaseRecord
    version: str
    confirmed_s: float
    regrants: int = 0
    granted_s: float = 0.0


@dataclass(slots=True, eq=False)
class HeldLeases:
    """Leases that are held together, renewed in the background. A Cancellation for the warehouse.

    Attributes:
        wait_s: how long it took to get them all.
        waited: whether somebody else held one of them.
    """

    _store: LockStore
    _clock: Clock
    _deadline_s: float
    _grants: dict[Scope, _Grant] = field(default_factory=dict)
    _lost: LeaseLostError | AbandonedError | None = None
    _interrupt: Callable[[], None] | None = None
    wait_s: float = 0.0
    waited: bool = False

    @property
    def tokens(self) -> Mapping[Scope, int]:
        """The fencing token of each scope."""
        return {scope: grant.record.token for scope, grant in self._grants.items()}

    def raise_if_cancelled(self) -> None:
        """Raise LeaseLostError if a lease is lost, or was not renewed for so long that it may be."""
        if self._lost is None:
            now_s = self._clock.monotonic_s()
            for scope, grant in list(self._grants.items()):  # the renewal looks while others are still acquired
                if now_s - grant.confirmed_s >= self._deadline_s:
                    self._lose(
                        scope, f"it could not be renewed for {now_s - grant.confirmed_s:.1f} s"
                    )
                    break
        if self._lost is not None:
            raise self._lost

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        """Have ``interrupt`` called when a lease is lost."""
        self._interrupt = interrupt

    def abandon(self, error: AbandonedError) -> None:
        """Have the holder stop before its next commit and give the leases back; what it is told then is ``error``."""
        if self._lost is None:
            self._lost = error
        if self._interrupt is not None:
            self._interrupt()

    def renew(self) -> bool:
        """Renew every lease once; False when one is lost and there is nothing left to keep."""
        try:
            self.raise_if_cancelled()  # past its deadline a lease is lost, even if nobody has taken it yet
            for scope, grant in list(self._grants.items()):
                self._renew_one(scope, grant)
            self.raise_if_cancelled()
        except FencedError:
            if self._interrupt is not None:
                self._interrupt()
            return False
        return True

    def _renew_one(self, scope: Scope, grant: _Grant) -> None:
        """Renew one lease; where the store fails, again after a moment, so that a cut connection costs no lease."""
        tried = 0
        while True:
            tried += 1
            asked_s = self._clock.monotonic_s()
            try:
                kept = self._write(grant, core.renewed, asked_s)
            except LockStoreError as error:
                emit("onerow.lock_renewal_failed", error=error.message, **_scope_facts(grant.key, scope))
                if tried >= STORE_TRIES:
                    return  # the next period tries again
            else:
                break
            self._clock.sleep_s(STORE_RETRY_S * 4 ** (tried - 1))
            self.raise_if_cancelled()
        if kept:
            emit("onerow.lock_renewed", token=grant.record.token, **_scope_facts(grant.key, scope))
        else:
            self._lose(scope, "somebody else holds it, or it was force-released")

    def regrant(self, scope: Scope, *, above: int) -> bool:
        """Have a live lease granted anew with a token above a fence that it met; False beyond the bound."""
        grant = self._grants[scope]
        if grant.regrants >= MAX_REGRANTS:
            return False
        grant.regrants += 1
        asked_s = self._clock.monotonic_s()
        if not self._write(grant, lambda record, now: core.regranted(record, now, above=above), asked_s):
            self._lose(scope, "somebody else holds it, or it was force-released")
            return False
        emit("onerow.lock_regranted", token=grant.record.token, **_scope_facts(grant.key, scope))
        return True

    def _write(
        self, grant: _Grant, change: Callable[[LeaseRecord, int], LeaseRecord], asked_s: float
    ) -> bool:
        """Swap a changed record in, as long as the register names us as the owner."""
        owner = grant.record.owner
        for _ in range(STORE_TRIES):
            entry = self._store.read(grant.key)
            record = _record(entry)
            if record is None or record.owner != owner:
                return False
            new = change(record, entry.now_us)
            swapped = self._store.swap(grant.key, expected=entry.version, value=new.to_json())
            if swapped is not None:
                grant.record, grant.version, grant.confirmed_s = new, swapped.version, asked_s
                return True
        return False

    def _lose(self, scope: Scope, why: str) -> None:
        grant = self._grants[scope]
        self._lost = LeaseLostError(
            f"The lease of {scope} (token {grant.record.token}) is lost: {why}.",
            hint="Nothing was committed after that; staging is kept. Consolidate again.",
        )
        emit("onerow.lock_lost", token=grant.record.token, reason=why, **_scope_facts(grant.key, scope))


class Unlocked:
    """Stands where leases would: no tokens, never cancelled."""

    wait_s = 0.0
    waited = False
    tokens: Mapping[Scope, int] = {}

    def raise_if_cancelled(self) -> None:
        """Nothing is held, nothing can be lost."""

    def on_cancel(self, interrupt: Callable[[], None] | None) -> None:
        """Nothing is held, nothing can be lost."""

    def regrant(self, scope: Scope, *, above: int) -> bool:  # noqa: ARG002 -- who holds nothing gets nothing anew
        """There is no token to grant anew."""
        return False


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one call of ``hold`` or ``turn`` wants, and what it does before it waits for the first time."""

    prefix: str
    holder: str
    batch: str
    duration_s: float
    on_busy: Callable[[], None] | None = None


class Leases:
    """Gives leases of a lock store to whoever asks, one owner identity per acquisition."""

    def __init__(
        self, *, store: LockStore, clock: Clock, background: Background, ids: Ids, settings: LeaseSettings
    ) -> None:
        self._store = store
        self._clock = clock
        self._background = background
        self._ids = ids
        self.settings = settings
        self._holding: list[HeldLeases] = []
        self._abandoned: AbandonedError | None = None

    def abandon(self, why: str) -> None:
        """Have all who hold or wait for leases here stop before their next commit, from any thread, for good.

        What is in a transaction is told to stop; what has committed stands. The leases are given back as the holders
        end, and whoever comes next does their work.
        """
        error = AbandonedError(
            f"The work was given up: {why}.",
            hint="Nothing was committed after that; staging is kept. Consolidate again.",
        )
        self._abandoned = error
        for held in list(self._holding):
            held.abandon(error)

    @property
    def store_identity(self) -> str:
        """Identity of the lock store the tokens come from."""
        return self._store.identity()

    @contextmanager
    def hold(
        self,
        scopes: Sequence[Scope],
        *,
        holder: str,
        batch: str,
        max_wait_s: float | None = None,
        on_busy: Callable[[], None] | None = None,
    ) -> Iterator[HeldLeases]:
        """Hold the leases of ``scopes``, taken in sorted order, until the block ends.

        Args:
            scopes: what to hold the leases of.
            holder: who holds them, for people.
            batch: for which batch, for people.
            max_wait_s: how long to wait for all of them; None: as the settings say.
            on_busy: called once, when somebody else is found to hold one; what it raises ends the wait.

        Raises:
            LockAcquisitionError: one was not had in time.
            LockStoreError: the store does not answer.
        """
        claim = _Claim(LEASE_PREFIX, holder, batch, self.settings.duration_s, on_busy)
        with self._hold(claim, scopes, max_wait_s) as held:
            yield held

    @contextmanager
    def turn(self, domain: str, *, holder: str, batch: str) -> Iterator[None]:
        """Hold the turn to commit in ``domain``: it keeps order, it protects nothing."""
        claim = _Claim(TURN_PREFIX, holder, batch, self.settings.turn_duration_s)
        with self._hold(claim, [Scope(domain)], None):
            yield

    def commit_turn(
        self, domain: str, table: str, *, holder: str, batch: str
    ) -> AbstractContextManager[None]:
        """Take the turn to commit where commits of different scopes collide; ``domain`` is the warehouse's."""
        if domain == "row":
            return nullcontext()
        return self.turn(table if domain == "table" else "warehouse", holder=holder, batch=batch)

    @contextmanager
    def _hold(
        self, claim: _Claim, scopes: Sequence[Scope], max_wait_s: float | None
    ) -> Iterator[HeldLeases]:
        wait_s = self.settings.max_wait_s if max_wait_s is None else max_wait_s
        begun_s = self._clock.monotonic_s()
        held = HeldLeases(self._store, self._clock, claim.duration_s * RENEW_DEADLINE)
        every_s = min(self.settings.renew_every_s, claim.duration_s / 3)
        self._holding.append(held)
        if self._abandoned is not None:  # looked at after it is in the list: of two threads one sees the other
            held.abandon(self._abandoned)
        keeper = self._background.every(every_s, held.renew, name="onerow-renewal")
        try:
            for scope in sorted(set(scopes)):
                self._acquire(held, claim, scope, begun_s + wait_s)
            held.wait_s = self._clock.monotonic_s() - begun_s
            yield held
        finally:
            self._holding.remove(held)
            keeper.stop()
            for scope, grant in held._grants.items():  # noqa: SLF001 -- the two are one thing
                self._release(scope, grant)

    def _acquire(self, held: HeldLeases, wanted: _Claim, scope: Scope, deadline_s: float) -> None:
        key = f"{wanted.prefix}{scope}"
        claim = core.Claim(
            scope=str(scope),
            owner=self._ids.new_id("o"),
            holder=wanted.holder,
            batch=wanted.batch,
            duration_us=round(wanted.duration_s * core.MICROSECONDS),
        )
        came_s = self._clock.monotonic_s()
        seen_version, seen_s = "", came_s
        announced = False
        while True:
            held.raise_if_cancelled()
            begun_s = self._clock.monotonic_s()  # the lease runs from the store's answer, not from its arrival
            entry = self._read(key)
            asked_s = self._clock.monotonic_s()
            record = _record(entry)
            if entry.version != seen_version:
                seen_version, seen_s = entry.version, asked_s
            unchanged_us = round((asked_s - seen_s) * core.MICROSECONDS)
            if (
                record is None
                or record.owner == claim.owner  # a swap of ours that was given up has arrived after all
                or core.may_take(record, entry.now_us, unchanged_us=unchanged_us)
            ):
                grant = self._take(key, entry, core.grant(record, claim, entry.now_us), begun_s)
                if grant is not None:
                    held._grants[scope] = grant  # noqa: SLF001 -- the two are one thing
                    if wanted.prefix == LEASE_PREFIX:
                        emit("onerow.lock_acquired", wait_s=round(begun_s - came_s, 6), **_facts(scope, grant.record))
                    return
                continue
            if not held.waited:
                held.waited = True
                if wanted.on_busy is not None:
                    wanted.on_busy()
                    continue  # it may have taken a while
            left_s = deadline_s - asked_s
            if left_s <= 0:
                if wanted.prefix == LEASE_PREFIX:
                    emit("onerow.lock_timed_out", wait_s=round(asked_s - came_s, 6), **_facts(scope, record))
                raise LockAcquisitionError(
                    f"The lock of {scope} was not had in time: {record.holder} holds it for batch "
                    f"{record.batch!r} (token {record.token}, {record.renewals} renewals).",
                    hint=f"Look with `onerow locks show '{scope}'`; nothing was done, staging is kept.",
                )
            if not announced:
                announced = True
                if wanted.prefix == LEASE_PREFIX:
                    emit("onerow.lock_waiting", **_facts(scope, record))
            expires_s = max(record.expires_us - entry.now_us, 1_000) / core.MICROSECONDS
            step_s = min(left_s, expires_s, MAX_WAIT_STEP_S)
            self._store.wait(key, version=entry.version, timeout_s=step_s, waiter=claim.owner)

    def _read(self, key: str) -> Entry:
        tried = 0
        while True:
            tried += 1
            try:
                return self._store.read(key)
            except LockStoreError:
                if tried >= STORE_TRIES:
                    raise
            self._clock.sleep_s(STORE_RETRY_S * 4 ** (tried - 1))

    def _take(self, key: str, entry: Entry, record: LeaseRecord, asked_s: float) -> _Grant | None:
        """Swap our record in; a lost reply is read back, never guessed."""
        try:
            swapped = self._store.swap(key, expected=entry.version, value=record.to_json())
        except LockStoreError:
            swapped = self._read(key)
            if _record(swapped) != record:  # an older grant of ours would not do: it may have run out
                return None
        if swapped is None:
            return None
        return _Grant(key, record, swapped.version, asked_s, granted_s=asked_s)

    def _release(self, scope: Scope, grant: _Grant) -> None:
        """Give a lease back if it is still ours; one that cannot be given back expires by itself."""
        try:
            value = core.released(grant.record).to_json()
            if self._store.swap(grant.key, expected=grant.version, value=value) is None:
                entry = self._store.read(grant.key)
                record = _record(entry)
                if record is None or record.owner != grant.record.owner:
                    return
                value = core.released(record).to_json()
                self._store.swap(grant.key, expected=entry.version, value=value)
        except LockStoreError as error:
            emit("onerow.lock_release_failed", error=error.message, **_scope_facts(grant.key, scope))
            return
        if grant.key.startswith(LEASE_PREFIX):
            held_s = round(self._clock.monotonic_s() - grant.granted_s, 6)
            emit("onerow.lock_released", held_s=held_s, **_facts(scope, grant.record))


def _record(entry: Entry) -> LeaseRecord | None:
    return None if entry.value is None else core.record_from_json(entry.value)


def _facts(scope: Scope, record: LeaseRecord) -> dict[str, str | int | None]:
    return {
        "table": scope.table,
        "partition": scope.partition,
        "batch": record.batch,
        "token": record.token,
        "holder": record.holder,
    }


def _scope_facts(key: str, scope: Scope) -> dict[str, str | None]:
    """Return what an event says of a lease or of a turn to commit, whose domain is no table's partition."""
    if key.startswith(TURN_PREFIX):
        return {"scope": str(scope), "lease": "turn"}
    return {"scope": str(scope), "lease": "lease", "table": scope.table, "partition": scope.partition}
