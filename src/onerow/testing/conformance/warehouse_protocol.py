"""The checks of a warehouse: the fence, verification, parts that are not what they were."""

from __future__ import annotations

from onerow.core.partitions import Scope
from onerow.core.plans import AlreadyMerged, Committed, Refused
from onerow.errors import (
    DuplicatesError,
    LockStoreMismatchError,
    OnerowError,
    PartCorruptError,
    PartGoneError,
    StaleLeaseError,
)
from onerow.testing.conformance.asking import Checks, eventually, meanwhile, raises
from onerow.testing.conformance.harness import (
    DAY,
    NEXT_DAY,
    SPEC,
    WarehouseHarness,
    a_row,
    assert_table,
    at,
    counted,
    lose_lease,
    refused,
)

CHECKS: Checks[WarehouseHarness] = Checks()

PARTITION = DAY.isoformat()


# --- the fence -------------------------------------------------------------------------------


@CHECKS.add
def a_stale_token_is_refused(harness: WarehouseHarness) -> None:
    """A token lower than one that has committed is refused with the fence; an equal or higher one is not."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1", token=9)
    harness.stage("b2", "w1", [a_row(player="lebron")])
    refusal = refused(harness.merge("b2", run="run2", token=8), "stale")
    assert refusal.fence == 9
    assert_table(harness, [a_row()])
    assert harness.warehouse().merged("props", "b2") == frozenset()
    assert isinstance(harness.merge("b2", run="run2", attempt=2, token=9), Committed)
    harness.stage("b3", "w1", [a_row(player="curry")])
    assert isinstance(harness.merge("b3", run="run3", token=2**62), Committed)


@CHECKS.add
def the_highest_token_counts(harness: WarehouseHarness) -> None:
    """Not the latest: after 5 and 9 have committed, 7 is stale, and after an equal 9 still."""
    harness.installed()
    for number, token in enumerate((5, 9, 9)):
        harness.stage(f"b{number}", "w1", [a_row(player=f"p{number}")])
        assert isinstance(harness.merge(f"b{number}", run=f"run{number}", token=token), Committed)
    harness.stage("b7", "w1", [a_row(player="p7")])
    assert refused(harness.merge("b7", run="run7", token=7), "stale").fence == 9


@CHECKS.add
def fences_are_per_scope(harness: WarehouseHarness) -> None:
    """A token is compared only with those of its own partition."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1", token=9)
    harness.stage("b2", "w1", [a_row(game_date=NEXT_DAY)])
    assert isinstance(harness.merge("b2", run="run2", token=1), Committed)


@CHECKS.add
def a_rolled_back_token_is_forgotten(harness: WarehouseHarness) -> None:
    """Only tokens that have committed raise the fence."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    refused(harness.apply(harness.plan("b1", token=9), before_commit=lose_lease), "cancelled")
    assert isinstance(harness.merge("b1", run="run2", token=1), Committed)


@CHECKS.add
def an_unlocked_run_leaves_the_fence_alone(harness: WarehouseHarness) -> None:
    """A run without a lock has no token; it commits, is marked, and neither lowers nor raises the fence."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.merge("b1", token=9)
    harness.stage("b2", "w1", [a_row(created_at=at(1))])
    assert counted(harness.merge("b2", run="run2", token=None)) == (1, 0, 1, 0, 0)
    (entry,) = harness.warehouse().history(table="props", batch="b2", limit=10)
    assert (entry.token, entry.unlocked) == (None, True)
    harness.stage("b3", "w1", [a_row(created_at=at(2))])
    assert refused(harness.merge("b3", run="run3", token=8), "stale").fence == 9
    assert isinstance(harness.merge("b3", run="run3", attempt=2, token=9), Committed)


@CHECKS.add
def another_lock_store_is_refused(harness: WarehouseHarness) -> None:
    """Tokens of another lock store mean nothing here."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    refusal = refused(harness.merge("b1", lock_store="other", token=99), "failed")
    assert isinstance(refusal.error, LockStoreMismatchError)
    assert_table(harness, [])


@CHECKS.add
def the_fence_can_be_raised(harness: WarehouseHarness) -> None:
    """Raising the fence puts every lower token out, is audited, and never lowers it."""
    harness.installed()
    scope = Scope("props", PARTITION)
    fence = harness.warehouse().raise_fence(harness.spec, scope, token=50, by="me", reason="stuck")
    assert fence == 50
    assert harness.warehouse().raise_fence(harness.spec, scope, token=40, by="me", reason="again") == 50
    harness.stage("b1", "w1", [a_row()])
    assert refused(harness.merge("b1", token=49), "stale").fence == 50
    assert isinstance(harness.merge("b1", run="run2", token=50), Committed)
    entries = [
        entry
        for entry in harness.warehouse().history(table="props", batch=None, limit=10)
        if entry.action == "force_release"
    ]
    assert [entry.reason for entry in entries] == ["again", "stuck"]
    assert {(entry.partition, entry.holder) for entry in entries} == {(PARTITION, "me")}
    assert entries[-1].token == 50


@CHECKS.add
def a_fence_raised_meanwhile_stops_the_holder(harness: WarehouseHarness) -> None:
    """A transaction that is open while the fence is raised above its token does not commit after that."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    raised: list[int | OnerowError] = []

    def raise_it() -> None:
        scope = Scope("props", PARTITION)
        try:
            raised.append(harness.warehouse().raise_fence(harness.spec, scope, token=50, by="me", reason="stuck"))
        except OnerowError as error:
            raised.append(error)

    outcome = harness.apply(harness.plan("b1", token=1), before_commit=lambda: meanwhile(raise_it))
    eventually(lambda: bool(raised), "the fence is raised")
    if isinstance(outcome, Committed):  # the engine let the fence wait for it: it was first
        assert_table(harness, [a_row()])
    else:
        assert isinstance(outcome, Refused)
        assert outcome.reason in {"conflict", "stale"}
        assert raised == [50]
        assert_table(harness, [])
        assert refused(harness.merge("b1", run="run2", token=1), "stale").fence == 50


@CHECKS.add
def one_stale_scope_refuses_the_group(harness: WarehouseHarness) -> None:
    """All partitions of a plan commit or none, and a fence that was raised on the way falls back."""
    harness.installed()
    if harness.warehouse().capabilities.max_partitions < 2:
        return
    harness.warehouse().raise_fence(harness.spec, Scope("props", NEXT_DAY.isoformat()), token=9, by="me", reason="")
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY)])
    tokens = {PARTITION: 20, NEXT_DAY.isoformat(): 8}
    assert refused(harness.merge("b1", token=tokens), "stale").fence == 9
    assert_table(harness, [])
    assert harness.warehouse().merged("props", "b1") == frozenset()
    assert isinstance(harness.merge("b1", run="run2", partitions=[PARTITION], token=19), Committed)


@CHECKS.add
def the_highest_of_several_fence_rows_counts(harness: WarehouseHarness) -> None:
    """Whatever rows there are, and in whatever order: only the highest token tells who may commit."""
    harness.installed()
    harness.stage("b0", "w1", [a_row()])
    assert isinstance(harness.merge("b0", token=25), Committed)
    for token in (30, 20, 10):
        harness.foreign_fence(harness.spec, PARTITION, token)
    harness.stage("b1", "w1", [a_row(created_at=at(1))])
    refusal = refused(harness.merge("b1", token=29), "stale")
    assert refusal.fence == 30
    assert isinstance(refusal.error, StaleLeaseError)
    assert refusal.error.fence == 30
    assert_table(harness, [a_row()])
    assert isinstance(harness.merge("b1", run="run2", token=30), Committed)
    harness.stage("b2", "w1", [a_row(created_at=at(2))])
    assert refused(harness.merge("b2", token=29), "stale").fence == 30


@CHECKS.add
def an_unlocked_run_needs_no_lock_store(harness: WarehouseHarness) -> None:
    """It commits whatever the lock store is called, but it verifies and reads the ledger like any other."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    harness.warehouse().install([SPEC], lock_store="another", adopt_locks=True)
    assert isinstance(harness.merge("b1", token=None), Committed)
    assert isinstance(harness.merge("b1", run="run2", token=None), AlreadyMerged)
    if not harness.plant_duplicates([a_row(player="doubled"), a_row(player="doubled")]):
        return
    harness.stage("b2", "w1", [a_row(player="lebron")])
    assert isinstance(refused(harness.merge("b2", token=None), "failed").error, DuplicatesError)


# --- verification ----------------------------------------------------------------------------


@CHECKS.add
def existing_duplicates_are_refused(harness: WarehouseHarness) -> None:
    """A table that breaks the rule already fails the merge, by name, and keeps nothing of it."""
    harness.installed()
    double = [a_row(player="doubled"), a_row(player="doubled", id="id-2", created_at=at(1))]
    if not harness.plant_duplicates(double):
        return
    for number, player in enumerate(("doubled", "other")):  # the staged key, and a bystander
        harness.stage(f"b{number}", "w1", [a_row(player=player, created_at=at(5))])
        refusal = refused(harness.merge(f"b{number}", run=f"run{number}"), "failed")
        assert isinstance(refusal.error, DuplicatesError)
        assert "doubled" in "".join(refusal.error.keys)
        assert tuple(refusal.error.partitions) == (PARTITION,)
        assert set(refusal.partitions) <= {PARTITION}
        assert harness.warehouse().merged("props", f"b{number}") == frozenset()
    assert_table(harness, double)
    assert list(harness.warehouse().history(table="props", batch=None, limit=10)) == []


@CHECKS.add
def duplicates_of_null_keys_are_refused(harness: WarehouseHarness) -> None:
    """Two rows whose key is NULL are duplicates."""
    harness.installed()
    if not harness.plant_duplicates([a_row(player=None), a_row(player=None, id="id-2")]):
        return
    harness.stage("b1", "w1", [a_row()])
    refusal = refused(harness.merge("b1"), "failed")
    assert isinstance(refusal.error, DuplicatesError)


@CHECKS.add
def duplicates_elsewhere_do_not_matter(harness: WarehouseHarness) -> None:
    """Duplicates in a partition that the plan does not touch stop nobody."""
    harness.installed()
    if not harness.plant_duplicates([a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY)]):
        return
    harness.stage("b1", "w1", [a_row()])
    assert counted(harness.merge("b1")) == (1, 1, 0, 0, 0)


@CHECKS.add
def the_partition_at_fault_is_named(harness: WarehouseHarness) -> None:
    """Of several partitions in one plan the one at fault is named, and nothing of any is kept."""
    harness.installed()
    if harness.warehouse().capabilities.max_partitions < 2:
        return
    if not harness.plant_duplicates([a_row(game_date=NEXT_DAY), a_row(game_date=NEXT_DAY)]):
        return
    harness.stage("b1", "w1", [a_row(), a_row(game_date=NEXT_DAY, player="lebron")])
    refusal = refused(harness.merge("b1"), "failed")
    assert refusal.partitions == (NEXT_DAY.isoformat(),)
    assert harness.warehouse().merged("props", "b1") == frozenset()
    assert counted(harness.merge("b1", run="run2", partitions=[PARTITION])) == (1, 1, 0, 0, 0)


@CHECKS.add
def foreign_rows_are_met(harness: WarehouseHarness) -> None:
    """A row that somebody inserted by hand is met like any other: newest wins."""
    harness.installed()
    harness.foreign_insert(harness.spec, [a_row(created_at=at(3)), a_row(player="lebron")])
    harness.stage("b1", "w1", [a_row(created_at=at(2)), a_row(player="lebron", created_at=at(1))])
    assert counted(harness.merge("b1")) == (2, 0, 1, 0, 1)
    assert_table(harness, [a_row(created_at=at(3)), a_row(player="lebron", created_at=at(1))])


@CHECKS.add
def a_part_that_is_gone_is_named(harness: WarehouseHarness) -> None:
    """A part without data is no empty part."""
    harness.installed()
    harness.stage("b1", "w1", [a_row()])
    gone = harness.stage("b1", "w2", [a_row(player="lebron")])
    harness.lose_data(gone)
    with raises(PartGoneError) as raised:
        harness.merge("b1")
    assert gone.part_id in str(raised.error)
    assert_table(harness, [])


@CHECKS.add
def a_damaged_part_is_refused(harness: WarehouseHarness) -> None:
    """A part that is not what its manifest promises is not merged."""
    harness.installed()
    damaged = harness.stage("b1", "w1", [a_row(), a_row(player="lebron")])
    harness.damage_data(damaged)
    with raises(PartCorruptError) as raised:
        harness.merge("b1")
    assert damaged.part_id in str(raised.error)
    assert_table(harness, [])
