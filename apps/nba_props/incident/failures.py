"""What the team's own fix still gets wrong: each of the fifteen failures on it, and on the platform of this folder."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb

import onerow
from incident.original import POLL_S, MachineClock, OriginalDesign
from incident.sides import DAY, NEXT, TARGET, Original, Platform, in_the_middle, prediction
from onerow.adapters.clock import SystemClock
from predictions import settings
from predictions.worker.distributed_lock import LockAcquisitionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Seen:
    """What a side has done.

    Attributes:
        failed: whether it has the failure.
        what: in a few words.
    """

    failed: bool
    what: str


Pair = tuple[Seen, Seen]


def expired_holder(old: Original, new: Platform) -> Pair:
    """A holder that was paused for longer than its lease commits."""
    for side in (old.design, new):
        side.stage("slow", "w", [prediction("slow")])
        side.stage("quick", "w", [prediction("quick", minute=1)])
    slow, quick = old.lock(), old.lock()
    had = [slow.try_acquire(DAY)]

    def meanwhile() -> None:
        old.clock.now_s += 301
        had.append(quick.try_acquire(DAY))
        old.design.consolidate("quick", DAY)

    old.design.consolidate("slow", DAY, begun=meanwhile)
    results = []

    def taken_over() -> None:
        new.lock.force_release(DAY, reason="paused for longer than its lease")
        results.append(new.consolidate("quick", use_lock=False))

    with in_the_middle("slow", taken_over):
        results.append(new.consolidate("slow"))
    status = results[1].details.status if results[1].details else "none"
    return (
        Seen(all(had) and old.design.duplicates(DAY) > 0, f"both committed: {', '.join(old.ids())}"),
        Seen(new.ids() != ["quick"] or status != "fenced", f"it is {status}, only {', '.join(new.ids())} committed"),
    )


def foreign_release(old: Original, new: Platform) -> Pair:
    """A late release gives somebody else's lock away."""
    first, second, third = old.lock(), old.lock(), old.lock()
    first.try_acquire(DAY)
    old.clock.now_s += 301
    second.try_acquire(DAY)
    first.release(DAY)
    stolen = third.try_acquire(DAY)
    late = new.lock.acquire(DAY, "late")
    late.__enter__()
    new.lock.force_release(DAY, reason="hanging")
    with new.lock.acquire(DAY, "second", max_wait_seconds=0):
        late.__exit__(None, None, None)
        free = _is_free(new)
    return Seen(stolen, "a third one has it too"), Seen(free, "the second one keeps it")


def local_clocks(old: Original, new: Platform) -> Pair:
    """A machine whose clock is wrong takes a lock that is held."""
    old.lock().try_acquire(DAY)
    both = old.lock(clock=MachineClock(now_s=600)).try_acquire(DAY)
    with new.lock.acquire(DAY, "right"), onerow.open(settings.settings_of(new.project_id), clock=_Ahead()) as ahead:
        try:
            with ahead.lock(settings.TABLE, DAY, max_wait_s=0.1):
                free = True
        except LockAcquisitionError:
            free = False
    return Seen(both, "a clock 10 minutes ahead: both hold it"), Seen(free, "a clock 10 minutes ahead: it waits")


class _Ahead(SystemClock):
    """The clock of a machine that is ten minutes ahead."""

    def monotonic_s(self) -> float:
        return super().monotonic_s() + 600


def no_renewal(old: Original, new: Platform) -> Pair:
    """A long but healthy merge loses its lock."""
    old.lock().try_acquire(DAY)
    old.clock.now_s += 301
    lost = old.lock().try_acquire(DAY)
    file = settings.configuration_file(new.project_id)
    text = file.read_text(encoding="utf-8").replace('"300s"\nrenew_every = "10s"', '"600ms"\nrenew_every = "200ms"')
    file.write_text(text, encoding="utf-8")
    with new.lock.acquire(DAY, "long"):
        time.sleep(0.9)
        free = _is_free(new)
    return Seen(lost, "taken after 300 s, its merge runs"), Seen(free, "renewed: held for 1.5 leases")


def polling(old: Original, new: Platform) -> Pair:
    """A free lock stays unused."""
    waiter = old.lock()
    old.lock().try_acquire(DAY)
    waiter.try_acquire(DAY)
    old.clock.now_s += 0.01
    old.lock().release(DAY)
    freed_s = old.clock.now_s
    old.clock.now_s = POLL_S  # it sleeps until then
    had = waiter.try_acquire(DAY)
    unused_s = old.clock.now_s - freed_s
    got: list[float] = []

    def wait() -> None:
        with new.lock.acquire(DAY, "waiter"):
            got.append(time.monotonic())

    thread = threading.Thread(target=wait)
    with new.lock.acquire(DAY, "holder"):
        thread.start()
        time.sleep(0.3)
        released_s = time.monotonic()
    thread.join()
    handed_s = got[0] - released_s
    return (
        Seen(had and unused_s > 1, f"for {unused_s:.1f} s"),
        Seen(handed_s > 1, f"for {handed_s * 1000:.0f} ms"),
    )


def blind_validation(old: Original, new: Platform) -> Pair:
    """A validation that could not run counts as passed."""
    for side in (old.design, new):
        side.stage("b", "w", [prediction("p")])
    new.consolidate("b")

    def unreadable() -> None:
        old.design.execute("drop table player_prop_predictions")

    passed = old.design.consolidate("b", DAY, validate=True, committed=unreadable)
    new.query(f"alter table {TARGET} rename to moved_away")
    try:
        counted = new.consolidator._check_for_duplicates(DAY) == 0  # noqa: SLF001 -- the incident's own name for it
    except onerow.OnerowError:
        counted = False
    return Seen(passed, "-1 is not greater than 0: success"), Seen(counted, "an error is raised")


def late_validation(old: Original, new: Platform) -> Pair:
    """Duplicates are visible to readers before they are found."""
    for side in (old.design, new):
        side.stage("a", "w", [prediction("a")])
        side.stage("b", "w", [prediction("b", line="30.5")])
    seen: list[int] = []

    def foreign() -> None:
        old.design.execute("insert into player_prop_predictions select * from _staging_b_w")

    old.design.consolidate(
        "b", DAY, begun=foreign, committed=lambda: seen.append(old.design.duplicates(DAY)), validate=True
    )
    new.consolidate("a")
    double = f"insert into {TARGET} select * replace ('again' as prediction_id) from {TARGET}"
    with in_the_middle("b", lambda: new.query(double)):
        result = new.consolidate("b")
    return (
        Seen(seen == [1], "committed first, counted then"),
        Seen(result.success or "b" in new.ids(), "found before the commit, rolled back"),
    )


def rounded_key(old: Original, new: Platform) -> Pair:
    """24.5 and 25.0 are one key, and one of two predictions is lost."""
    for side in (old.design, new):
        rows = [prediction("half", line="24.5"), prediction("whole", line="25.0"), prediction("none", line=None)]
        side.stage("b", "w", rows)
    old.design.consolidate("b", DAY)
    new.consolidate("b")
    return _staged_and_kept(old, new, ["half", "none", "whole"])


def last_merge(old: Original, new: Platform) -> Pair:
    """The last merge wins, not the newest row."""
    for side in (old.design, new):
        side.stage("older", "w", [prediction("older")])
        side.stage("newer", "w", [prediction("newer", minute=1)])
    for batch in ("newer", "older"):
        old.design.consolidate(batch, DAY)
        new.consolidate(batch)
    return _staged_and_kept(old, new, ["newer"])


def prefixes(old: Original, new: Platform) -> Pair:
    """Staging of another batch is merged and deleted, because its name begins alike."""
    for side in (old.design, new):
        side.stage("b1", "w", [prediction("mine")])
        side.stage("b1-x", "w", [prediction("foreign", line="30.5")])
    old.design.consolidate("b1", DAY)
    new.consolidate("b1")
    return (
        Seen("foreign" in old.ids() and not old.design.staged("b1-x"), "batch b1-x was merged and dropped with b1"),
        Seen(new.ids() != ["mine"] or new.waiting("b1-x") != 1, "batch b1-x waits"),
    )


def second_listing(old: Original, new: Platform) -> Pair:
    """What is staged during the merge is cleaned up unmerged."""
    late = [prediction("late", line="30.5")]
    for side in (old.design, new):
        side.stage("b", "w1", [prediction("p")])
    old.design.consolidate("b", DAY, begun=lambda: old.design.stage("b", "w2", late))
    with in_the_middle("b", lambda: new.stage("b", "w2", late)):
        new.consolidate("b")
    waits = new.waiting("b") == 1
    new.consolidate("b")
    return (
        Seen("late" not in old.ids() and not old.design.staged("b"), "the late table was dropped"),
        Seen(not waits or "late" not in new.ids(), "the late part waits and is merged next"),
    )


def other_dates(old: Original, new: Platform) -> Pair:
    """Rows of other dates are neither locked nor validated."""
    for side in (old.design, new):
        side.stage("today", "w", [prediction("t", day=DAY), prediction("x", day=NEXT)])
        side.stage("tomorrow", "w", [prediction("y", day=NEXT, minute=1)])
    locks = [old.lock().try_acquire(DAY), old.lock().try_acquire(NEXT)]
    passed = old.design.consolidate(
        "today", DAY, validate=True, begun=lambda: old.design.consolidate("tomorrow", NEXT, validate=True)
    )
    with in_the_middle("today", lambda: new.consolidate("tomorrow", NEXT, use_lock=False)):
        new.consolidate("today")
    return (
        Seen(all(locks) and passed and old.design.duplicates(NEXT) == 1, "both locked, both passed: 1 duplicate"),
        Seen(new.ids() != ["t", "y"], "each date is locked and verified"),
    )


def crash(old: Original, new: Platform) -> Pair:
    """After a crash between merge and clean-up nobody knows what was merged."""
    for side in (old.design, new):
        side.stage("b", "w", [prediction("p")])

    def killed() -> None:
        raise InterruptedError

    try:
        old.design.consolidate("b", DAY, committed=killed)
    except InterruptedError:
        same = old.design.staged("b") == ["_staging_b_w"]
    new.consolidate("b", cleanup=False)
    again = new.consolidate("b")
    status = again.details.status if again.details else "none"
    return (
        Seen(same and old.ids() == ["p"], "staging looks as if it had never been merged"),
        Seen(status != "already_merged" or again.staging_tables_cleaned != 1, f"the ledger says {status}"),
    )


def existing_duplicates(old: Original, new: Platform) -> Pair:
    """Duplicates in the table make every later consolidation fail, with no way out."""
    for side in (old.design, new):
        side.stage("a", "w", [prediction("a")])
        side.stage("b", "w", [prediction("b", line="30.5")])
    old.design.consolidate("a", DAY)
    new.consolidate("a")
    old.design.execute("insert into player_prop_predictions select * from player_prop_predictions")
    new.query(f"insert into {TARGET} select * replace ('again' as prediction_id) from {TARGET}")
    tries = [old.design.consolidate("b", DAY, validate=True) for _ in range(3)]
    refused = new.consolidate("b")
    with settings.open_store(new.project_id) as store:
        store.repair(settings.TABLE, DAY, reason="existing duplicates")
    repaired = new.consolidate("b")
    return (
        Seen(not any(tries) and old.design.duplicates(DAY) > 0, "3 tries, 3 failures, the rows are in the table"),
        Seen(
            refused.success or "dedupe" not in (refused.error_message or "") or not repaired.success,
            "refused, names the repair; after it: merged",
        ),
    )


def other_columns(old: Original, new: Platform) -> Pair:
    """A staging table with other columns than the first one breaks the merge."""
    narrow = {name: value for name, value in prediction("narrow", line="30.5").items() if name != "confidence"}
    for side in (old.design, new):
        side.stage("b", "w1", [prediction("full")])
        side.stage("b", "w2", [narrow])
    try:
        broken = not old.design.consolidate("b", DAY)
    except duckdb.Error:
        broken = True
    new.consolidate("b")
    return Seen(broken, "the MERGE fails"), Seen(new.ids() != ["full", "narrow"], "what is missing is NULL")


FAILURES: Final[tuple[Callable[[Original, Platform], Pair], ...]] = (
    expired_holder, foreign_release, local_clocks, no_renewal, polling, blind_validation, late_validation, rounded_key,
    last_merge, prefixes, second_listing, other_dates, crash, existing_duplicates, other_columns,
)  # fmt: skip
"""In the order of the report on the incident."""


def title_of(failure: Callable[[Original, Platform], Pair]) -> str:
    """Return what a failure is called."""
    return (failure.__doc__ or "").splitlines()[0].rstrip(".")


def compare(failure: Callable[[Original, Platform], Pair], folder: Path) -> Pair:
    """Have both sides meet a failure, in an empty folder."""
    folder.mkdir(parents=True)
    design = OriginalDesign(folder / "original.duckdb")
    try:
        return failure(Original(design), Platform(folder / "onerow"))
    finally:
        design.close()


def _is_free(platform: Platform) -> bool:
    try:
        with platform.lock.acquire(DAY, "somebody else", max_wait_seconds=0.05):
            return True
    except LockAcquisitionError:
        return False


def _staged_and_kept(old: Original, new: Platform, expected: list[str]) -> Pair:
    return (
        Seen(old.ids() != expected, f"in the table: {', '.join(old.ids())}"),
        Seen(new.ids() != expected, f"in the table: {', '.join(new.ids())}"),
    )
