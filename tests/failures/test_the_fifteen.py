"""The fifteen failures of the incident's own fix (docs/design, section 1), each on the real adapters.

Each test is named after its failure and shows that onerow does not have it.
"""

from __future__ import annotations

import datetime as dt
import statistics
import threading
import time
from decimal import Decimal

import pytest

import onerow
from onerow.adapters.clock import SystemClock
from onerow.core.partitions import Scope
from support.bench import DAY, MIDNIGHT, consolidate_all, prediction, predictions
from support.hooks import hook_store

SCOPE = "predictions/2026-01-10"
NEXT_DAY = DAY + dt.timedelta(days=1)


def at_step(step, action):
    """Return a ``reach`` that runs ``action`` once, when ``step`` is reached for the first time."""
    done = []

    def reach(reached):
        if reached == step and not done:
            done.append(step)
            action()

    return reach


def rows_of(bench, *columns):
    """Return columns of the table, sorted."""
    names = ", ".join(columns)
    return sorted(bench.query(f"select {names} from predictions"), key=str)


# --- 1 -------------------------------------------------------------------------------------


def test_failure_01_expired_holder_commits(processes, bench):
    with bench.open() as store:
        bench.stage_batch(store, "slow", parts=2, seed=1)
        bench.stage_batch(store, "quick", parts=2, seed=2)
        slow = processes.consolidator(bench, "slow", halt=("prepared", "SIGSTOP"), lease_s=1.0).wait_stopped()
        assert store.consolidate("predictions", "quick").status == "committed"  # waits until the lease is over
        (answer,) = slow.resume().answers()
        assert (answer["status"], answer["exit_code"]) == ("fenced", 5)
        assert bench.query("select distinct batch from onerow.history") == [("quick",)]
        consolidate_all(store, "predictions", ["slow"])
    bench.audit()


# --- 2 -------------------------------------------------------------------------------------


def test_failure_02_release_of_somebody_elses_lock(bench):
    with bench.open() as mine, bench.open() as theirs:
        with mine.lock("predictions", "2026-01-10"):
            mine.locks.force_release(SCOPE, reason="test", by="on-call", force=True)
            their_lock = theirs.lock("predictions", "2026-01-10", batch="theirs")
            their_lock.__enter__()
        # My release has run; it must have left the other one's lock alone.
        state = mine.locks.lock(SCOPE)
        assert (state.state, state.batch) == ("held", "theirs")
        with (
            pytest.raises(onerow.LockAcquisitionError, match="theirs"),
            mine.lock("predictions", "2026-01-10", max_wait_s=0.05),
        ):
            pass
        their_lock.__exit__(None, None, None)
        assert mine.locks.lock(SCOPE).state == "free"


# --- 3 -------------------------------------------------------------------------------------


class SkewedClock(SystemClock):
    """The clock of a machine that is off by hours, on the wall and since its start."""

    def __init__(self, offset_s):
        self.offset_s = offset_s

    def monotonic_s(self):
        return super().monotonic_s() + self.offset_s

    def utc_now(self):
        return super().utc_now() + dt.timedelta(seconds=self.offset_s)


def skewed(store, offset_s):
    """Give a store's leases the clock of another machine."""
    store.ports.leases._clock = SkewedClock(offset_s)
    return store


@pytest.mark.parametrize("offset_s", [-86_400.0, 86_400.0], ids=["a day behind", "a day ahead"])
def test_failure_03_local_clocks_decide_expiry(bench, offset_s):
    with bench.open() as store, skewed(bench.open(), offset_s) as other:
        bench.stage_batch(store, "b", parts=2)
        for holder, waiter in ((store, other), (other, store)):
            with holder.lock("predictions", "2026-01-10"):
                result = waiter.consolidate("predictions", "b", max_wait_s=0.1)
                assert (result.status, result.exit_code) == ("lock_timeout", 4)
                state = waiter.locks.lock(SCOPE)
                assert state.state == "held"
                assert 0 < state.expires_in_s <= 30
        assert other.consolidate("predictions", "b").status == "committed"
        bench.stage_batch(store, "c", parts=2, seed=2)
        assert store.consolidate("predictions", "c").status == "committed"  # its token is higher all the same
    bench.audit()


# --- 4 -------------------------------------------------------------------------------------


def test_failure_04_no_renewal(bench):
    lease_s = 0.6
    with bench.open() as store, bench.open() as other:
        bench.stage_batch(store, "b", parts=2)
        seen = []

        def merge_for_longer_than_a_lease():
            began_s = time.monotonic()
            while time.monotonic() - began_s < 2 * lease_s or other.locks.lock(SCOPE).renewals < 3:
                time.sleep(0.02)
            seen.append(other.locks.lock(SCOPE))
            with pytest.raises(onerow.LockAcquisitionError), other.lock("predictions", "2026-01-10", max_wait_s=0.0):
                pass

        hook_store(store, at_step("merge", merge_for_longer_than_a_lease), lease_s=lease_s)
        result = store.consolidate("predictions", "b")

        assert result.status == "committed"
        assert seen[0].state == "held"
        assert seen[0].held_for_s > lease_s
        assert result.partitions[0].token == seen[0].token
    bench.audit()


def test_failure_04_a_renewal_looks_while_further_leases_are_still_taken(bench):
    with bench.open() as store, store.lock("predictions", "2026-01-10") as held:
        (grant,) = held._grants.values()

        class Meanwhile:
            """A grant beside which another one appears while it is looked at."""

            @property
            def confirmed_s(self):
                held._grants[Scope("predictions", "2026-01-12")] = grant
                return grant.confirmed_s

        held._grants[Scope("predictions", "2026-01-11")] = Meanwhile()
        held.raise_if_cancelled()
        for day in ("2026-01-11", "2026-01-12"):
            del held._grants[Scope("predictions", day)]


def test_failure_04_a_lease_that_is_lost_is_not_reported_as_renewed(bench, caplog):
    caplog.set_level("INFO", logger="onerow")
    with bench.open() as store, store.lock("predictions", "2026-01-10") as held:
        assert held.renew()
        store.locks.force_release(SCOPE, reason="test", by="on-call", force=True)
        caplog.clear()
        assert not held.renew()
        assert "onerow.lock_lost" in caplog.messages
        assert "onerow.lock_renewed" not in caplog.messages


# --- 5 -------------------------------------------------------------------------------------


def hand_overs(bench, *, waiters):
    """Return how long the lock was free between one holder and the next, in seconds, sorted."""
    spans, failures = [], []
    ready = threading.Barrier(waiters + 1)

    def wait_for_it():
        try:
            with bench.open() as store:
                store.ports.locks.identity()
                ready.wait(30)
                with store.lock("predictions", "2026-01-10"):
                    got_s = time.perf_counter()
                    time.sleep(0.002)  # some work
                    spans.append((got_s, time.perf_counter()))
        except BaseException as error:  # noqa: BLE001 -- told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=wait_for_it) for _ in range(waiters)]
    with bench.open() as store, store.lock("predictions", "2026-01-10"):
        for thread in threads:
            thread.start()
        ready.wait(30)
        while len(store.ports.locks._connection().execute("select * from waiters").fetchall()) < waiters:
            time.sleep(0.01)
        freed_s = time.perf_counter()
    for thread in threads:
        thread.join(60)
    assert not failures
    ends = [freed_s, *(end for _, end in sorted(spans))]
    return sorted(got - end for (got, _), end in zip(sorted(spans), ends, strict=False))


def test_failure_05_a_free_lock_stays_unused_and_waiters_starve(bench, record_property):
    """Twenty wait; the median hand-over takes 50 ms at most in the best of three rounds."""
    medians = []
    for _ in range(3):
        spans = hand_overs(bench, waiters=20)
        assert len(spans) == 20  # nobody starved
        medians.append(statistics.median(spans))
        if medians[-1] <= 0.05:
            break
    record_property("hand_over_median_s", min(medians))
    assert min(medians) <= 0.05


# --- 6 -------------------------------------------------------------------------------------


def test_failure_06_a_verification_that_cannot_run_counts_as_passed(bench):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        database = store.ports.warehouse._database

        def make_the_table_unreadable():
            database.instance().execute(
                "create or replace temp view touched as "
                "select * replace (error('cannot be read')::varchar as game_id) from onerow_db.predictions"
            )

        hook_store(store, at_step("merge", make_the_table_unreadable))

        result = store.consolidate("predictions", "b")

        assert (result.status, result.exit_code) == ("failed", 1)
        assert "cannot be read" in result.error
        assert bench.query("select count(*) from predictions") == [(0,)]
        assert {state for _, state in bench.part_states().values()} == {"staged"}
        assert store.consolidate("predictions", "b").status == "committed"
    bench.audit()


def test_failure_06_a_check_that_cannot_run_is_a_failure(bench):
    bench.write("alter table predictions rename to moved_away")
    with bench.open() as store:
        (report,) = store.check()
    assert (report.clean, report.result, report.exit_code) == (False, None, 1)
    assert report.error_kind == "not_installed"


# --- 7 -------------------------------------------------------------------------------------


def test_failure_07_validation_after_commit(bench):
    """A duplicate that appears in the middle of the merge is found before the commit, and never seen."""
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        instance = store.ports.warehouse._database.instance

        def double_a_row():
            instance().execute("insert into onerow_db.predictions select * from onerow_db.predictions limit 1")

        hook_store(store, at_step("merge", double_a_row))
        result = store.consolidate("predictions", "b")
        assert (result.status, result.error_kind, result.exit_code) == ("failed", "duplicates", 3)
        assert bench.query("select count(*) from predictions") == [(0,)]
        assert store.consolidate("predictions", "b").status == "committed"
    bench.audit()


def test_failure_07_a_reader_that_polls_never_sees_a_duplicate(processes, bench):
    batches = ["b-0", "b-1", "b-2"]
    with bench.open() as store:
        for number, batch in enumerate(batches):
            bench.stage_batch(store, batch, parts=3, rows=30, seed=number)
    children = [processes.consolidator(bench, batch, halt=("opened", "SIGSTOP")) for batch in batches]
    for child in children:
        child.wait_stopped()
    seen = set()
    for child in children:
        child.resume()
    while len(seen) < 2 or bench.query("select count(distinct batch) from onerow.ledger") != [(3,)]:
        ((rows, keys),) = bench.query(
            "select count(*), count(distinct (game_date, game_id, player_lookup, system_id, current_points_line)) "
            "from predictions"
        )
        assert rows == keys
        seen.add(rows)
    assert [child.answers()[0]["status"] for child in children] == ["committed"] * 3
    bench.audit()


# --- 8 -------------------------------------------------------------------------------------


def test_failure_08_key_rounding(bench):
    lines = (Decimal("24.5"), Decimal("25.0"), Decimal("24.51"), Decimal(-1), None, Decimal(0))
    with bench.open() as store:
        for number, line in enumerate(lines):
            rows = [prediction(current_points_line=line, prediction_id=f"p-{number}")]
            bench.stage(store, rows, batch="b", worker=f"w-{number}")
        result = store.consolidate("predictions", "b")
        assert result.partitions[0].rows_inserted == len(lines)
        bench.stage(store, [prediction(current_points_line=None, prediction_id="p-null")], batch="c")
        assert store.consolidate("predictions", "c").partitions[0].rows_updated == 1  # NULL equals NULL
        with pytest.raises(onerow.PartRefusedError, match="not rounded"):
            store.stage("predictions", [prediction(current_points_line=Decimal("24.505"))], batch="d")
    assert len(rows_of(bench, "current_points_line")) == len(lines)
    bench.audit()


def test_failure_08_a_float_is_no_key(tmp_path):
    (tmp_path / "onerow.toml").write_text(
        'warehouse = "duckdb:///w.duckdb"\n[tables.t]\nkey = ["line"]\norder_by = ["at"]\n'
        '[tables.t.columns]\nline = "float64"\nat = "timestamp"\n',
        encoding="utf-8",
    )
    with pytest.raises(onerow.ConfigurationError, match=r"decimal\(p,s\)"):
        onerow.open(tmp_path)


# --- 9 -------------------------------------------------------------------------------------


def test_failure_09_last_merge_wins(bench):
    later = MIDNIGHT + dt.timedelta(hours=1)
    with bench.open() as store:
        bench.stage(store, [prediction(prediction_id="old", created_at=MIDNIGHT)], batch="old")
        bench.stage(store, [prediction(prediction_id="new", created_at=later)], batch="new")
        consolidate_all(store, "predictions", ["new"])
        (late,) = consolidate_all(store, "predictions", ["old"])
        assert late.partitions[0].rows_superseded == 1
        assert rows_of(bench, "prediction_id") == [("new",)]
    bench.audit()


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_failure_09_ties_are_not_broken_at_random(bench, order):
    """Same time, same identity: the remaining column decides, NULL lowest, whatever the order of merging."""
    points = {"a": 20.0, "b": None, "c": 19.5}
    with bench.open() as store:
        for batch, value in points.items():
            bench.stage(store, [prediction(predicted_points=value)], batch=batch)
        consolidate_all(store, "predictions", order)
    assert rows_of(bench, "predicted_points") == [(20.0,)]
    bench.audit()


# --- 10 ------------------------------------------------------------------------------------


def test_failure_10_name_prefixes(bench):
    names = ["b1", "b1_x", "b1-x", "B1", "a-b", "a_b", "a b", "b", "b1/..", "b1%", "b1*"]
    with bench.open() as store:
        for number, name in enumerate(names):
            bench.stage(store, [prediction(player_lookup=f"player-{number}")], batch=name)
        for done, name in enumerate(names, start=1):
            result = store.consolidate("predictions", name)
            assert (result.partitions[0].parts, result.partitions[0].rows_staged) == (1, 1)
            states = [state for _, state in bench.part_states().values()]
            assert states.count("retired") == done
            bench.audit(all_merged=False)
    bench.audit()


# --- 11 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["prepared", "merge", "before_commit", "committed", "released", "retiring"])
def test_failure_11_clean_up_looks_again(bench, step):
    """A part that is staged during the merge or the clean-up stays until it is merged itself."""
    with bench.open() as store, bench.open() as worker:
        bench.stage_batch(store, "b", parts=2)
        late = at_step(step, lambda: bench.stage(worker, predictions(4, seed=5), batch="b", worker="late"))
        hook_store(store, late)
        result = store.consolidate("predictions", "b")
        assert (result.status, result.partitions[0].parts, result.parts_removed) == ("committed", 2, 2)
        assert sorted(state for _, state in bench.part_states().values()) == ["retired", "retired", "staged"]
        bench.audit(all_merged=False)
        second = store.consolidate("predictions", "b")
        assert (second.status, second.partitions[0].parts, second.parts_removed) == ("committed", 1, 1)
    bench.audit()


# --- 12 ------------------------------------------------------------------------------------


def test_failure_12_rows_of_other_dates(bench):
    days = [DAY + dt.timedelta(days=number) for number in range(3)]
    with bench.open() as store:
        rows = [row for number, day in enumerate(days) for row in predictions(6, seed=number, day=day)]
        bench.stage(store, rows, batch="b", worker="w-1")
        bench.stage(store, predictions(6, seed=9, day=days[1]), batch="b", worker="w-2")
        held = []
        hook_store(store, at_step("merge", lambda: held.extend(state.scope for state in store.locks.locks())))
        result = store.consolidate("predictions", "b")
        assert [partition.partition for partition in result.partitions] == [day.isoformat() for day in days]
        assert {f"predictions/{day}" for day in days} <= set(held)  # every date is locked
        bench.write("insert into predictions select * from predictions where game_date = ? limit 1", days[2])
        bench.stage(store, predictions(6, seed=11, day=days[2]), batch="c")
        assert store.consolidate("predictions", "c").error_kind == "duplicates"  # and every date is verified


def test_failure_12_only_the_named_partition_is_merged_and_the_part_waits(bench):
    with bench.open() as store:
        rows = predictions(6, seed=1) + predictions(6, seed=2, day=NEXT_DAY)
        bench.stage(store, rows, batch="b")
        result = store.consolidate("predictions", "b", partitions=["2026-01-10"])
        assert (result.status, result.parts_removed) == ("committed", 0)
        bench.audit(all_merged=False)
        assert store.consolidate("predictions", "b").parts_removed == 1
    bench.audit()


# --- 13 ------------------------------------------------------------------------------------


def test_failure_13_crash_between_merge_and_clean_up(processes, bench):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=3)
        processes.consolidator(bench, "b", halt=("detached", "SIGKILL"), lease_s=0.6).wait()
        assert {state for _, state in bench.part_states().values()} == {"staged"}
        result = store.consolidate("predictions", "b")
        assert (result.status, result.exit_code, result.parts_removed) == ("already_merged", 0, 3)
        assert [entry.rows_staged for entry in store.history("predictions")] == [36]  # once
        # What touches no row is no riddle either: the ledger tells a replay from a loss.
        bench.stage(store, bench.rows[:12], batch="again")
        replay = store.consolidate("predictions", "again").partitions[0]
        assert (replay.status, replay.rows_inserted + replay.rows_updated) == ("committed", 0)
        assert replay.rows_unchanged + replay.rows_superseded == 12
    bench.audit()


# --- 14 ------------------------------------------------------------------------------------


def test_failure_14_existing_duplicates(bench):
    with bench.open() as store:
        bench.stage(store, [prediction(player_lookup="o'neal")], batch="first")
        consolidate_all(store, "predictions", ["first"])
        bench.write("insert into predictions select * from predictions")
        rows = predictions(5, seed=1) + predictions(5, seed=2, day=NEXT_DAY)
        bench.stage(store, rows, batch="b")

        result = store.consolidate("predictions", "b")

        first, second = result.partitions
        assert (first.status, first.error_kind, result.exit_code) == ("failed", "duplicates", 3)
        assert "o'neal" in first.error
        assert "current_points_line=24.50" in first.error
        assert "onerow dedupe --table predictions --partition 2026-01-10" in first.error
        assert (second.partition, second.status) == ("2026-01-11", "committed")
        assert result.parts_removed == 0  # it still waits for the first date
        (report,) = store.check("predictions", partition="2026-01-10")
        assert (report.result.duplicate_keys, report.result.extra_rows, report.exit_code) == (1, 1, 3)
        plan = store.plan_repair("predictions", "2026-01-10")
        assert [(one.partition, one.keys, one.extra_rows) for one in plan.partitions] == [("2026-01-10", 1, 1)]
        repaired = store.repair("predictions", plan=plan, reason="found by failure 14")
        assert (repaired.success, repaired.rows_removed) == (True, 1)
        assert store.consolidate("predictions", "b").status == "committed"
        assert store.check("predictions")[0].clean
    bench.audit()


# --- 15 ------------------------------------------------------------------------------------


def test_failure_15_a_part_with_other_columns(bench):
    narrow = {name: value for name, value in prediction(player_lookup="narrow").items() if name != "predicted_points"}
    turned = dict(reversed(prediction(player_lookup="turned").items()))
    with bench.open() as store:
        bench.stage(store, [narrow], batch="b", worker="w-1")
        bench.stage(store, [prediction(player_lookup="full")], batch="b", worker="w-2")
        bench.stage(store, [turned], batch="b", worker="w-3")
        with pytest.raises(onerow.PartRefusedError, match="'confidence' is not declared"):
            store.stage("predictions", [{**narrow, "confidence": 0.9}], batch="b", worker="w-4")
        with pytest.raises(onerow.PartRefusedError, match="'game_id' is missing"):
            store.stage("predictions", [{k: v for k, v in narrow.items() if k != "game_id"}], batch="b", worker="w-5")
        consolidate_all(store, "predictions", ["b"])
    assert rows_of(bench, "player_lookup", "predicted_points") == [("full", 26.5), ("narrow", None), ("turned", 26.5)]
    bench.audit()
