"""Stopping a real consolidation at a named step, and switching one of its protections off.

Nothing here is in the product: the methods of one store's adapters are wrapped, and the steps of the
transaction are a subclass, which ``DuckDBWarehouse`` takes on purpose.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from onerow.adapters.warehouse.duckdb.merge import Transaction

STEPS: Final = (
    "leased",  # the leases are held
    "prepared",  # the rows are read and deduplicated in memory
    "turn_taken",
    "attached",  # the file is open for writing
    "begun",
    "guard",
    "token",
    "todo",
    "merge",
    "verify",
    "record",
    "before_commit",
    "committed",  # COMMIT has returned, nothing was read back
    "before_detach",
    "detached",
    "released",  # the leases are given back, nothing is cleaned up
    "retiring",  # after each part that was retired
    "retired",
)
"""Every step of a consolidation that a test may stop at, in order."""

_TRANSACTION_STEPS = ("guard", "token", "todo", "merge", "verify", "record")


def transaction_class(reach, *, without=()):
    """Return the steps with ``reach`` called behind each, and the steps in ``without`` switched off."""

    class HookedTransaction(Transaction):
        def run(self):
            reach("begun")
            return super().run()

    def hooked(name):
        def step(self, *args):
            if name not in without:
                getattr(Transaction, name)(self, *args)
            reach(name)

        return step

    for name in _TRANSACTION_STEPS:
        setattr(HookedTransaction, name, hooked(name))
    return HookedTransaction


class _Watched:
    """A cancellation that tells when it is asked for the last time before the commit."""

    def __init__(self, inner, reach):
        self._inner = inner
        self._reach = reach

    def on_cancel(self, interrupt):
        self._inner.on_cancel(interrupt)

    def raise_if_cancelled(self):
        self._inner.raise_if_cancelled()
        self._reach("before_commit")


def hook_store(store, reach, *, without=(), busy_timeout_s=None, lease_s=None):
    """Have ``reach(step)`` called at every step of the store's consolidations; returns the store.

    Args:
        without: steps of the transaction to leave out.
        busy_timeout_s: how long to wait for the file.
        lease_s: duration of leases and turns, shorter than a configuration would say.
    """
    warehouse, parts, leases = store.ports.warehouse, store.ports.parts, store.ports.leases
    database = warehouse._database
    warehouse._transaction = transaction_class(reach, without=without)
    if busy_timeout_s is not None:
        database.busy_timeout_s = busy_timeout_s
    if lease_s is not None:
        leases.settings = replace(
            leases.settings, duration_s=lease_s, renew_every_s=lease_s / 3, turn_duration_s=lease_s
        )
    plain = {
        "prepare": warehouse.prepare,
        "apply": warehouse.apply,
        "read": warehouse._read_committed,
        "attach": database._attach,
        "detach": database._detach,
        "turn": leases.turn,
        "retire": parts.retire,
    }
    writing = [False]

    def prepare(plan):
        reach("leased")
        return plain["prepare"](plan)

    @contextmanager
    def turn(*args, **kwargs):
        reach("prepared")
        with plain["turn"](*args, **kwargs):
            yield

    def apply(prepared, cancellation):
        reach("turn_taken")
        outcome = plain["apply"](prepared, _Watched(cancellation, reach))
        reach("detached")
        return outcome

    def attach(connection, *, read_only, create):
        plain["attach"](connection, read_only=read_only, create=create)
        writing[0] = not read_only
        if writing[0]:
            reach("attached")

    def detach(connection):
        if writing[0]:
            reach("before_detach")
        plain["detach"](connection)

    def read_committed(connection, plan):
        reach("committed")
        return plain["read"](connection, plan)

    def one_by_one(found):
        for part in found:
            yield part
            reach("retiring")

    def retire(found):
        reach("released")
        count = plain["retire"](one_by_one(found))
        reach("retired")
        return count

    warehouse.prepare, warehouse.apply, warehouse._read_committed = prepare, apply, read_committed
    database._attach, database._detach = attach, detach
    leases.turn = turn
    parts.retire = retire
    return store
