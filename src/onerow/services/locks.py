"""Looking at locks, and taking one away from a holder that will not come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onerow.core import leases as core
from onerow.core.partitions import Scope, canonical_partition, parse_scope
from onerow.errors import HolderAliveError, LockStoreError, OnerowError, UsageError
from onerow.services.events import emit
from onerow.services.leases import LEASE_PREFIX, TURN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.core.leases import LeaseRecord
    from onerow.core.spec import TableSpec
    from onerow.ports.lockstore import Entry, LockStore
    from onerow.ports.warehouse import Warehouse

FORCE_TRIES = 5


@dataclass(frozen=True, slots=True)
class LockState:
    """One lock as a person wants to see it. Ages are seconds by the store's clock.

    Attributes:
        state: ``held``, ``expired`` (held, but not renewed in time: anybody may take it) or ``free``.
        renewed_ago_s: since the holder last gave a sign of life.
        expires_in_s: until it ends unless renewed; negative when it has ended.
    """

    scope: str
    kind: str
    state: str
    token: int
    holder: str
    batch: str
    held_for_s: float
    renewed_ago_s: float
    expires_in_s: float
    renewals: int
    forced_by: str | None = None
    forced_reason: str | None = None
    forced_ago_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ForceRelease:
    """What a forced release has done.

    Attributes:
        before: the lock as it was.
        token: the token that the scope was raised to.
        fence: the fence in the warehouse after it; None if it could not be raised.
        fence_error: why it could not be raised.
    """

    before: LockState
    token: int
    fence: int | None
    fence_error: str | None = None


class LockDesk:
    """The on-call person's view of the lock store."""

    def __init__(self, *, store: LockStore, warehouse: Warehouse, tables: Mapping[str, TableSpec]) -> None:
        self._store = store
        self._warehouse = warehouse
        self._tables = tables

    def locks(self, *, include_free: bool = False) -> Sequence[LockState]:
        """Return all locks and turns, held ones first."""
        entries = [*self._store.entries(LEASE_PREFIX), *self._store.entries(TURN_PREFIX)]
        states = [_state(entry) for entry in entries if entry.value is not None]
        shown = [state for state in states if include_free or state.state != "free"]
        return sorted(shown, key=lambda state: (state.state == "free", state.scope))

    def lock(self, scope_text: str) -> LockState:
        """Return the lock of one scope.

        Raises:
            UsageError: no such table or partition, or there is no record of the lock.
        """
        scope = self.scope(scope_text)
        entry = self._store.read(f"{LEASE_PREFIX}{scope}")
        if entry.value is None:
            raise UsageError(
                f"Nobody holds the lock of {scope}; there is no record of it.", hint="See `onerow locks list --all`."
            )
        return _state(entry)

    def scope(self, text: str) -> Scope:
        """Return the scope that ``text`` names, its partition in canonical form."""
        scope = parse_scope(text)
        spec = self._tables.get(scope.table)
        if spec is None:
            raise UsageError(
                f"No table {scope.table!r} is configured.", hint=f"Configured are: {', '.join(self._tables)}."
            )
        return Scope(scope.table, canonical_partition(scope.partition, spec))

    def force_release(self, scope_text: str, *, reason: str, by: str, force: bool = False) -> ForceRelease:
        """Take the lock away: raise the token in the record, then the fence in the warehouse.

        After the second step the old holder cannot commit any more, whatever it believes. If that step could not
        be done, calling again does it.

        Raises:
            UsageError: nobody holds it, or no reason is given.
            HolderAliveError: the holder's renewals are fresh and ``force`` is not set.
            LockStoreError: the record could not be changed; nothing was done.
        """
        if not reason.strip():
            raise UsageError("A forced release needs a reason; it is kept in the audit.")
        scope = self.scope(scope_text)
        key = f"{LEASE_PREFIX}{scope}"
        for _ in range(FORCE_TRIES):
            entry = self._store.read(key)
            if entry.value is None:
                raise UsageError(f"Nobody holds the lock of {scope}; there is no record of it.")
            before, record = _state(entry), core.record_from_json(entry.value)
            if not record.held and record.forced is not None and record.forced.token == record.token:
                # Nobody has taken it since the last forced release, whose second step may have failed: do it again.
                return self._raise_fence(scope, before, record, by=by, reason=reason)
            if not record.held:
                raise UsageError(f"Nobody holds the lock of {scope}; there is nothing to release.")
            if core.renewals_fresh(record, entry.now_us) and not force:
                raise HolderAliveError(
                    f"{record.holder} has held the lock of {scope} for {before.held_for_s:.0f} s and renewed it "
                    f"{before.renewed_ago_s:.0f} s ago: it is alive.",
                    hint="Add --force to take the lock away all the same; its transaction will not commit.",
                )
            freed = core.force_released(record, entry.now_us, by=by, reason=reason)
            if self._store.swap(key, expected=entry.version, value=freed.to_json()) is not None:
                return self._raise_fence(scope, before, freed, by=by, reason=reason)
        raise LockStoreError(f"The record of {scope} changed {FORCE_TRIES} times while it was being released.")

    def _raise_fence(
        self, scope: Scope, before: LockState, freed: LeaseRecord, *, by: str, reason: str
    ) -> ForceRelease:
        fence: int | None = None
        problem: str | None = None
        try:
            spec = self._tables[scope.table]
            fence = self._warehouse.raise_fence(spec, scope, token=freed.token, by=by, reason=reason)
        except OnerowError as error:
            problem = error.message
        emit(
            "onerow.lock_force_released",
            table=scope.table,
            partition=scope.partition,
            token=freed.token,
            holder=before.holder,
            by=by,
            fenced=fence is not None,
        )
        return ForceRelease(before, freed.token, fence, problem)


def _state(entry: Entry) -> LockState:
    record = core.record_from_json(entry.value or {})
    state = "free" if not record.held else "expired" if record.is_expired(entry.now_us) else "held"
    forced = record.forced

    def ago_s(then_us: int) -> float:
        return round((entry.now_us - then_us) / core.MICROSECONDS, 3)

    return LockState(
        scope=record.scope,
        kind="turn" if entry.key.startswith(TURN_PREFIX) else "lease",
        state=state,
        token=record.token,
        holder=record.holder,
        batch=record.batch,
        held_for_s=ago_s(record.acquired_us) if record.held else 0.0,
        renewed_ago_s=ago_s(record.renewed_us) if record.held else 0.0,
        expires_in_s=-ago_s(record.expires_us) if record.held else 0.0,
        renewals=record.renewals,
        forced_by=forced.by if forced else None,
        forced_reason=forced.reason if forced else None,
        forced_ago_s=ago_s(forced.at_us) if forced else None,
    )
