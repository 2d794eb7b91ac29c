"""The checks of a warehouse: people's own statements under guard and token."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from onerow.core.plans import Committed, Refused
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    LeaseLostError,
    LockStoreMismatchError,
    OnerowError,
    StaleLeaseError,
    UsageError,
)
from onerow.testing.conformance.asking import OVERLAP_S, Beside, Checks, raises, together
from onerow.testing.conformance.harness import (
    NEXT_DAY,
    WarehouseHarness,
    Watch,
    a_row,
    assert_table,
    at,
    lose_lease,
    refused,
)
from onerow.testing.conformance.warehouse_repair import PARTITION, intervention, is_clean, plant

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.core.plans import Outcome
    from onerow.core.repairs import Intervention
    from onerow.ports.warehouse import GuardedTransaction
    from onerow.testing.conformance.harness import Row

CHECKS: Checks[WarehouseHarness] = Checks()


def insert(tx: GuardedTransaction, row: Row) -> None:
    """Insert a row by a statement that every engine understands."""
    moment = row["created_at"].replace(tzinfo=None).isoformat(sep=" ")
    tx.execute(
        f"insert into {tx.target} (id, game_date, player, line, created_at, points, seen) values "  # noqa: S608 -- people write such texts
        f"('{row['id']}', date '{row['game_date']}', '{row['player']}', {row['line']}, "
        f"timestamp '{moment}', {row['points']}, {row['seen']})"
    )


def delete(tx: GuardedTransaction, player: str) -> None:
    """Delete a player's rows."""
    tx.execute(f"delete from {tx.target} where player = '{player}'")  # noqa: S608 -- people write such texts


def count(tx: GuardedTransaction) -> int:
    """Count the rows of the table."""
    ((found,),) = tx.execute(f"select count(*) from {tx.target}")  # noqa: S608 -- people write such texts
    assert isinstance(found, int)
    return found


def interactive(harness: WarehouseHarness) -> bool:
    """Say whether the statements of a block run one by one and return rows."""
    return harness.warehouse().capabilities.interactive


def run_block(
    harness: WarehouseHarness,
    work: Intervention,
    block: Callable[[GuardedTransaction], object],
    *,
    before_commit: Callable[[], None] | None = None,
) -> None:
    """Run a block as one guarded transaction."""
    with harness.warehouse().guarded(work, Watch(before_commit)) as tx:
        block(tx)


@CHECKS.add
def a_block_commits_what_it_does(harness: WarehouseHarness) -> None:
    """Statements see what those before them did, and all of it is there afterwards."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    harness.merge("b1")
    looks = interactive(harness)
    with harness.warehouse().guarded(intervention(harness, "guarded"), Watch()) as tx:
        assert not looks or count(tx) == 2
        delete(tx, "lebron")
        insert(tx, a_row(player="curry", created_at=at(1.25)))
        insert(tx, a_row(player="green", id="o'neal".replace("'", "")))
        assert not looks or count(tx) == 3
    assert_table(
        harness, [a_row(), a_row(player="curry", created_at=at(1.25)), a_row(player="green", id="oneal")]
    )


@CHECKS.add
def a_block_without_statements_commits(harness: WarehouseHarness) -> None:
    """It leaves an entry in the history and nothing else."""
    harness.installed()
    plant(harness, [a_row()])
    work = intervention(harness, "guarded")
    run_block(harness, work, lambda tx: None)  # noqa: ARG005
    assert harness.warehouse().settled(work)
    assert_table(harness, [a_row()])


@CHECKS.add
def an_exception_of_the_block_rolls_back(harness: WarehouseHarness) -> None:
    """Whatever it is, it comes out as it is, and nothing is kept."""
    harness.installed()
    work = intervention(harness, "guarded")

    def fail(tx: GuardedTransaction) -> None:
        insert(tx, a_row())
        raise ZeroDivisionError("theirs")

    with raises(ZeroDivisionError):
        run_block(harness, work, fail)
    assert_table(harness, [])
    assert not harness.warehouse().settled(work)
    assert list(harness.warehouse().history(table="props", batch=None, limit=9)) == []
    run_block(harness, replace(work, attempt=2, token=1), lambda tx: insert(tx, a_row()))
    assert_table(harness, [a_row()])


@CHECKS.add
def a_block_cannot_leave_a_key_twice(harness: WarehouseHarness) -> None:
    """Verified in the transaction, before anybody sees it; NULL keys as well."""
    harness.installed()
    plant(harness, [a_row(), a_row(player=None)])
    work = intervention(harness, "guarded")
    for attempt, (row, again) in enumerate(((a_row(id="id-2"), False), (a_row(player="new"), True)), 1):

        def twice(tx: GuardedTransaction, row: Row = row, *, again: bool = again) -> None:
            insert(tx, row)
            if again:
                insert(tx, row)

        with raises(DuplicatesError) as raised:
            run_block(harness, replace(work, attempt=attempt), twice)
        assert tuple(raised.error.partitions) == (PARTITION,)
        assert row["player"] in "".join(raised.error.keys)
    assert_table(harness, [a_row(), a_row(player=None)])
    plant(harness, [a_row(player=None, id="id-2")])
    with raises(DuplicatesError):
        run_block(harness, replace(work, attempt=3), lambda tx: insert(tx, a_row(player="other")))
    mend = "delete from {} where player is null and id = 'id-2'"
    run_block(harness, replace(work, attempt=4), lambda tx: tx.execute(mend.format(tx.target)))
    assert_table(harness, [a_row(), a_row(player=None)])


@CHECKS.add
def a_block_begins_and_ends_no_transaction(harness: WarehouseHarness) -> None:
    """Such statements are refused, however they are written; the block goes on as if they had not been asked for."""
    harness.installed()
    with harness.warehouse().guarded(intervention(harness, "guarded"), Watch()) as tx:
        insert(tx, a_row())
        for statement in (
            "commit",
            "  COMMIT ;",
            "begin",
            "begin transaction",
            "rollback",
            "/* a remark */ rollback",
            "-- a remark\ncommit",
            "select 1; commit",
            "",
        ):
            with raises(UsageError):
                tx.execute(statement)
        insert(tx, a_row(player="lebron"))
    assert_table(harness, [a_row(), a_row(player="lebron")])


@CHECKS.add
def a_swallowed_error_commits_nothing(harness: WarehouseHarness) -> None:
    """A block that catches what a statement has failed with and goes on does not commit half of its work."""
    harness.installed()

    def swallow(tx: GuardedTransaction) -> None:
        insert(tx, a_row())
        with raises(OnerowError) if interactive(harness) else nullcontext():
            tx.execute(f"insert into {tx.target} (no_such_column) values (1)")  # noqa: S608 -- people write such texts

    with raises(OnerowError):
        run_block(harness, intervention(harness, "guarded"), swallow)
    assert_table(harness, [])


@CHECKS.add
def a_block_is_fenced(harness: WarehouseHarness) -> None:
    """A stale token or another lock store: the block does not even begin. A block that commits raises the fence."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(player="lebron")])
    harness.merge("b1", token=49)
    begun: list[GuardedTransaction] = []
    with raises(StaleLeaseError) as raised:
        run_block(harness, intervention(harness, "guarded", token=48), begun.append)
    assert raised.error.fence == 49
    with raises(LockStoreMismatchError):
        run_block(harness, intervention(harness, "guarded", lock_store="other"), begun.append)
    assert begun == []
    run_block(harness, intervention(harness, "guarded", token=50), lambda tx: insert(tx, a_row()))
    harness.stage("b2", "w1", [a_row(player="curry")])
    assert refused(harness.merge("b2", run="run2", token=49), "stale").fence == 50


@CHECKS.add
def a_block_whose_lease_is_lost_keeps_nothing(harness: WarehouseHarness) -> None:
    """It is asked right before the commit; afterwards nobody can interrupt what comes next."""
    harness.installed()
    watch = Watch(lose_lease)
    with raises(LeaseLostError), harness.warehouse().guarded(intervention(harness, "guarded"), watch) as tx:
        insert(tx, a_row())
        assert watch.asked == 0
    assert watch.asked >= 1
    assert callable(watch.interrupts[0])
    assert watch.interrupts[-1] is None
    assert_table(harness, [])


@CHECKS.add
def an_interrupted_block_keeps_nothing(harness: WarehouseHarness) -> None:
    """The interrupt comes while the block runs: its next statement, or its end, tells."""
    harness.installed()
    watch = _Losing()
    with raises(LeaseLostError), harness.warehouse().guarded(intervention(harness, "guarded"), watch) as tx:
        insert(tx, a_row())
        watch.lose()
        insert(tx, a_row(player="lebron"))
    assert_table(harness, [])


class _Losing(Watch):
    """A cancellation that interrupts when it is told to."""

    def lose(self) -> None:
        interrupt = self.interrupts[-1]
        self.raise_if_cancelled = lose_lease  # type: ignore[method-assign]
        assert interrupt is not None
        interrupt()


@CHECKS.add
def the_history_names_the_block(harness: WarehouseHarness) -> None:
    """With the net change of rows, so that the ledger explains the table afterwards."""
    harness.installed()
    harness.stage("b1", "w1", [a_row(), a_row(player="lebron"), a_row(player="curry")])
    harness.merge("b1")

    def shrink(tx: GuardedTransaction) -> None:
        delete(tx, "lebron")
        delete(tx, "curry")
        insert(tx, a_row(player="green"))

    run_block(harness, intervention(harness, "guarded", run="g-1", token=51, reason="backfill"), shrink)
    entry = harness.warehouse().history(table="props", batch=None, limit=9)[0]
    assert (entry.action, entry.partition, entry.consolidation, entry.token) == ("guarded", PARTITION, "g-1", 51)
    assert (entry.holder, entry.reason, entry.unlocked) == ("checker", "backfill", False)
    assert (entry.rows_inserted, entry.rows_staged, entry.parts) == (-1, 0, 0)
    assert is_clean(harness)
    unlocked = intervention(harness, "guarded", run="g-2", token=None)
    run_block(harness, unlocked, lambda tx: insert(tx, a_row(player="x")))
    entries = {one.consolidation: one for one in harness.warehouse().history(table="props", batch=None, limit=9)}
    entry = entries["g-2"]
    assert (entry.rows_inserted, entry.token, entry.unlocked) == (1, None, True)
    assert is_clean(harness)


@CHECKS.add
def a_block_works_in_a_table_without_partitions(harness: WarehouseHarness) -> None:
    """The whole table is verified."""
    harness.installed(partition=None)
    work = intervention(harness, "guarded", partition=None)
    run_block(harness, work, lambda tx: insert(tx, a_row(game_date=NEXT_DAY)))
    with raises(DuplicatesError):
        run_block(harness, replace(work, run="g-2"), lambda tx: insert(tx, a_row()))
    assert_table(harness, [a_row(game_date=NEXT_DAY)])


@CHECKS.add
def a_block_reads_parameters(harness: WarehouseHarness) -> None:
    """Values are parameters in the engine's own style."""
    harness.installed()
    plant(harness, [a_row(player="o'neal"), a_row()])
    found: object = 1
    with harness.warehouse().guarded(intervention(harness, "guarded"), Watch()) as tx:
        mark = harness.parameter
        if interactive(harness):
            ((found,),) = tx.execute(f"select count(*) from {tx.target} where player = {mark}", ["o'neal"])  # noqa: S608 -- people write such texts
        tx.execute(f"delete from {tx.target} where player = {mark}", ["o'neal"])  # noqa: S608 -- people write such texts
    assert found == 1
    assert_table(harness, [a_row()])


@CHECKS.add
def a_block_that_cannot_wait_for_rows_says_so(harness: WarehouseHarness) -> None:
    """Where the statements of a block run at its end, one that returns rows is refused; the block may go on."""
    harness.installed()
    with harness.warehouse().guarded(intervention(harness, "guarded"), Watch()) as tx:
        if interactive(harness):
            assert count(tx) == 0
        else:
            with raises(UsageError):
                count(tx)
        insert(tx, a_row())
    assert_table(harness, [a_row()])


@CHECKS.add
def a_consolidation_beside_a_block_waits_or_wins(harness: WarehouseHarness) -> None:
    """A merge of the key that a block has just inserted: serialised or refused, never two rows."""
    harness.installed()
    newest = a_row(id="newest", created_at=at(90))
    harness.stage("b1", "w1", [newest])
    beside: list[Beside[Outcome]] = []

    def begin_merge() -> None:
        beside.append(Beside(lambda: harness.merge("b1", token=None)))
        beside[0].join(OVERLAP_S)

    # A block that is sent as a whole comes after the merge: then its row is the second of the key.
    losing = ConflictError if interactive(harness) else (ConflictError, DuplicatesError)
    lost = False
    try:
        run_block(
            harness,
            intervention(harness, "guarded", token=None),
            lambda tx: insert(tx, a_row()),
            before_commit=begin_merge,
        )
    except losing:
        lost = True
    outcome = beside[0].result()
    assert isinstance(outcome, Refused | Committed)
    assert lost <= isinstance(outcome, Committed), "one of the two must get through"
    if isinstance(outcome, Refused):
        assert isinstance(harness.merge("b1", token=None, attempt=2), Committed)
    assert_table(harness, [newest])


@CHECKS.add
def two_blocks_at_once_leave_one_row(harness: WarehouseHarness) -> None:
    """The incident with hand-written statements: both look, both find nothing, both insert."""
    harness.installed()
    looks = interactive(harness)

    def insert_if_missing(side: int) -> str:
        row = a_row(id=f"id-{side}")

        def work(tx: GuardedTransaction) -> None:
            if not looks:
                tx.execute(
                    f"insert into {tx.target} (id, game_date, player, line, created_at, points, seen) "  # noqa: S608
                    f"select '{row['id']}', date '{row['game_date']}', 'jokic', 24.50, "
                    f"timestamp '2026-01-17 12:00:00', 20.5, 1 "
                    f"from (select count(*) as n from {tx.target}) as found where found.n = 0"
                )
            elif count(tx) == 0:
                insert(tx, row)

        for attempt in range(1, 30):
            try:
                run_block(harness, intervention(harness, "guarded", run=f"g-{side}", attempt=attempt, token=None), work)
            except ConflictError:
                continue
            return f"id-{side}"
        raise AssertionError("lost 30 times")

    ends = together([lambda: insert_if_missing(1), lambda: insert_if_missing(2)])
    (row,) = harness.table_rows(harness.spec)
    assert row["id"] in ends
    assert len(harness.warehouse().history(table="props", batch=None, limit=9)) == 2


@CHECKS.add
def the_end_of_a_block_can_be_asked_for(harness: WarehouseHarness) -> None:
    """One that committed has settled, one that rolled back has not, and another attempt is another transaction."""
    harness.installed()
    work = intervention(harness, "guarded")
    with raises(LeaseLostError):
        run_block(harness, work, lambda tx: insert(tx, a_row()), before_commit=lose_lease)
    assert not harness.warehouse().settled(work)
    run_block(harness, replace(work, attempt=2), lambda tx: insert(tx, a_row()))
    assert harness.warehouse().settled(replace(work, attempt=2))
    assert not harness.warehouse().settled(work)
