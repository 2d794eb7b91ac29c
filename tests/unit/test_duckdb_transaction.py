"""What may go wrong around one transaction on a DuckDB file, and what is said then."""

from __future__ import annotations

import threading

import duckdb
import pytest

import onerow
from onerow.adapters.warehouse.duckdb import merge, sql, statements
from onerow.core import leases as core
from onerow.core.plans import Committed, Refused, Unknown
from onerow.errors import WarehouseBusyError, WarehouseError
from onerow.services.leases import LEASE_PREFIX
from support.bench import consolidate_all, prediction
from support.hooks import hook_store

SCOPE = "predictions/2026-01-10"


def reach_once(step, action):
    """Return a ``reach`` that runs ``action`` the first time ``step`` is reached."""
    done = []

    def reach(reached):
        if reached == step and not done:
            done.append(step)
            action()

    return reach


def connection_of(store):
    """Return the private instance that the store's transactions run on."""
    return store.ports.warehouse._database.instance()


# --- collisions of hashes -------------------------------------------------------------------


def forget_rendered_statements():
    """Empty every cache of the module that renders the merge."""
    for cached in vars(statements).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()


@pytest.fixture
def colliding(monkeypatch):
    """Make every key's hash the same, for the seeds in the list that is returned."""
    seeds = [0]
    plain = sql.hash_of

    def hash_of(names, *, seed=0, table=None):
        if seed in seeds:
            return sql.cast(sql.exp.Literal.number(7), "UBIGINT")
        return plain(names, seed=seed, table=table)

    monkeypatch.setattr(sql, "hash_of", hash_of)
    forget_rendered_statements()
    yield seeds
    forget_rendered_statements()


def test_keys_of_one_batch_that_share_a_hash(bench, colliding):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=3)
        assert store.consolidate("predictions", "b").status == "committed"
        assert store.check()[0].clean  # an equal hash is a suspicion, not a duplicate
    bench.audit()


def test_a_staged_key_that_shares_its_hash_with_one_of_the_table(bench, colliding):
    with bench.open() as store:
        for number in range(3):
            row = [prediction(player_lookup=f"player-{number}")]
            bench.stage(store, row, batch=f"b-{number}")
            assert store.consolidate("predictions", f"b-{number}").partitions[0].rows_inserted == 1
        bench.stage(store, [prediction(player_lookup="player-1", predicted_points=30.0)], batch="again")
        assert store.consolidate("predictions", "again").partitions[0].rows_updated == 1
    bench.audit()


def test_a_real_duplicate_is_still_one_when_all_hashes_collide(bench, colliding):
    with bench.open() as store:
        for name in ("x", "y"):
            bench.stage(store, [prediction(player_lookup=name)], batch=name)
        consolidate_all(store, "predictions", ["x", "y"])
        bench.write("insert into predictions select * from predictions where player_lookup = 'x'")
        bench.stage(store, [prediction(player_lookup="z")], batch="z")
        result = store.consolidate("predictions", "z")
        assert result.error_kind == "duplicates"
        assert "player_lookup='x'" in result.error
        assert "'y'" not in result.error


def test_every_seed_collides(bench, colliding):
    """Cannot happen by chance; if it does, it fails and says so, and merges nothing."""
    colliding[:] = range(merge.HASH_SEEDS)
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        result = store.consolidate("predictions", "b")
        assert (result.status, result.exit_code) == ("failed", 1)
        assert "hash" in result.error
    assert bench.query("select count(*) from predictions") == [(0,)]
    bench.audit(all_merged=False)


# --- the file ------------------------------------------------------------------------------


def test_another_connection_of_this_process_has_the_file(bench):
    with bench.open() as store, duckdb.connect(str(bench.database)):
        hook_store(store, lambda step: None, busy_timeout_s=0.05)
        with pytest.raises(WarehouseBusyError, match="another connection"):
            store.history()


def test_another_thread_of_this_process_has_the_file(bench):
    with bench.open() as store, bench.open() as other:
        inside, leave = threading.Event(), threading.Event()

        def keep_it():
            with other.ports.warehouse._database.open():
                inside.set()
                leave.wait(30)

        thread = threading.Thread(target=keep_it)
        thread.start()
        try:
            assert inside.wait(30)
            hook_store(store, lambda step: None, busy_timeout_s=0.05)
            with pytest.raises(WarehouseBusyError, match="Another thread"):
                store.history()
        finally:
            leave.set()
            thread.join(30)
        assert store.history() == []


def test_another_process_has_the_file(processes, bench):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=1)
        child = processes.consolidator(bench, "b", halt=("attached", "SIGSTOP")).wait_stopped()
        hook_store(store, lambda step: None, busy_timeout_s=0.05)
        with pytest.raises(WarehouseBusyError, match=f"held by process {child.pid} ") as caught:
            store.history()
        assert caught.value.exit_code == 6
        assert child.resume().answers()[0]["status"] == "committed"
        assert len(store.history()) == 1
    bench.audit()


def test_a_file_that_is_no_database(bench):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=1)
    bench.database.write_bytes(b"These are not the bytes of a database. " * 500)
    with bench.open() as store:
        with pytest.raises(WarehouseError, match="damaged or no DuckDB database"):
            store.consolidate("predictions", "b")
        with pytest.raises(WarehouseError, match="damaged or no DuckDB database"):
            store.init()
        ((_, well, told),) = store.ports.warehouse.probe([bench.spec])
        assert (well, "damaged" in told) == (False, True)
    assert {state for _, state in bench.part_states().values()} == {"staged"}


@pytest.mark.parametrize("keep_bytes", [0, 100, 4096, 12288])
def test_a_database_that_was_cut_off(bench, keep_bytes):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        consolidate_all(store, "predictions", ["b"])
        bench.stage_batch(store, "c", parts=2)
        whole = bench.database.read_bytes()
        bench.database.write_bytes(whole[:keep_bytes])
        with pytest.raises(onerow.OnerowError) as caught:
            store.consolidate("predictions", "c")
        assert caught.value.exit_code in {1, 2}
        bench.database.write_bytes(whole)
        consolidate_all(store, "predictions", ["c"])
    bench.audit()


def test_a_folder_where_the_file_should_be(bench):
    bench.database.unlink()
    bench.database.mkdir()
    with bench.open() as store, pytest.raises(onerow.OnerowError, match=r"warehouse\.duckdb"):
        store.init()


def test_a_warehouse_restored_to_an_earlier_moment_heals_from_staging(bench):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2, seed=1)
        consolidate_all(store, "predictions", ["b"])
        backup = bench.database.read_bytes()
        bench.stage_batch(store, "c", parts=2, seed=2)
        consolidate_all(store, "predictions", ["c"])
        bench.database.write_bytes(backup)
        assert store.consolidate("predictions", "c").status == "committed"
        bench.audit()
        parts = store.ports.parts
        parts.purge(parts.retired("predictions", older_than_s=0.0))
        bench.database.write_bytes(backup)
        result = store.consolidate("predictions", "c")
        assert (result.status, result.error_kind) == ("failed", "part_gone")


FEW_BYTES = 120_000
"""Enough for the lock file, not for the database and its log."""


@pytest.mark.parametrize("step", ["begun", "merge", "before_commit", "committed"])
def test_a_full_disk(processes, bench, step):
    """From this step on no file may grow beyond a bound, as on a full disk; afterwards there is room again."""
    with bench.open() as store:
        bench.stage_batch(store, "before", parts=1)
        consolidate_all(store, "predictions", ["before"])
        for number in range(2):
            rows = [prediction(player_lookup=f"player-{number}-{row}") for row in range(4000)]
            bench.stage(store, rows, batch="b", worker=f"w-{number}")
    child = processes.consolidator(bench, "b", full_disk=[step, FEW_BYTES], lease_s=2.0)
    (answer,) = child.answers()
    bench.audit(all_merged=False)
    batches = {batch for (batch,) in bench.query("select distinct batch from onerow.history")}
    if step == "committed":
        assert "b" in batches  # only the checkpoint could not be written; the log keeps what was committed
        assert answer["status"] in {"committed", "unknown"}
    else:
        assert "b" not in batches
        assert answer["status"] in {"failed", "unknown"}
        assert answer["exit_code"] in {1, 7}
        assert "disk is full or cannot be written" in answer["error"]
    with bench.open() as store:
        assert store.consolidate("predictions", "b").success
    bench.audit()


# --- the lease -----------------------------------------------------------------------------


def force_out(store):
    """Take the lease away in the lock store alone, as an on-call person does while the warehouse is busy."""
    entry = store.ports.locks.read(f"{LEASE_PREFIX}{SCOPE}")
    freed = core.force_released(core.record_from_json(entry.value), entry.now_us, by="on-call", reason="test")
    assert store.ports.locks.swap(entry.key, expected=entry.version, value=freed.to_json()) is not None


def test_a_lost_lease_interrupts_a_running_statement(bench):
    with bench.open() as store, bench.open() as other:
        bench.stage_batch(store, "b", parts=1)

        def never_come_to_an_end():
            force_out(other)
            connection_of(store).execute("select count(*) from range(1000000000000) t(i) where i % 7 = 3")

        hook_store(store, reach_once("todo", never_come_to_an_end), lease_s=1.5)
        result = store.consolidate("predictions", "b")
        assert (result.status, result.error_kind, result.exit_code) == ("fenced", "lease_lost", 5)
        assert "force-released" in result.error
        assert store.history() == []
        assert store.consolidate("predictions", "b").status == "committed"
    bench.audit()


def test_a_force_release_that_cannot_reach_the_fence_says_so(bench):
    with bench.open() as store, bench.open() as other:
        bench.stage_batch(store, "b", parts=1)
        done = []
        hook_store(other, lambda step: None, busy_timeout_s=0.05)
        release = reach_once(
            "todo",
            lambda: done.append(other.locks.force_release(SCOPE, reason="stuck", by="on-call", force=True)),
        )
        hook_store(store, release)
        assert store.consolidate("predictions", "b").status in {"committed", "fenced"}
        assert done[0].fence is None
        assert "warehouse.duckdb" in done[0].fence_error
        state = store.locks.lock(SCOPE)
        assert (state.forced_by, state.forced_reason) == ("on-call", "stuck")


def test_a_force_release_fences_the_old_holder_out(bench):
    with bench.open() as store, bench.open() as other:
        bench.stage_batch(store, "b", parts=1)
        release = reach_once(
            "prepared", lambda: other.locks.force_release(SCOPE, reason="stuck", by="on-call", force=True)
        )
        hook_store(store, release)
        result = store.consolidate("predictions", "b")
        assert (result.status, result.error_kind, result.exit_code) == ("fenced", "stale_lease", 5)
        assert [entry.action for entry in store.history()] == ["force_release"]
        assert store.history()[0].reason == "stuck"
        assert store.consolidate("predictions", "b").status == "committed"
    bench.audit()


def test_a_live_holder_behind_the_fence_is_granted_a_higher_token(bench):
    """A lock store that was restored from an old copy, or whose clock fell back, hands out low tokens for a while."""
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=1)
        ahead = store.ports.locks.read("x").now_us + 10**12
        bench.write("insert into onerow.fences values ('predictions', '2026-01-10', ?)", ahead)
        result = store.consolidate("predictions", "b")
        assert (result.status, result.partitions[0].attempts) == ("committed", 2)
        assert result.partitions[0].token > ahead
    bench.audit()


# --- the commit ----------------------------------------------------------------------------


def test_the_commit_of_an_aborted_transaction_keeps_nothing_and_is_tried_again(bench):
    """DuckDB accepts that COMMIT without an error; only the ledger tells."""
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)

        def abort_it():
            with pytest.raises(duckdb.Error):
                connection_of(store).execute("select error('aborts the transaction')")

        hook_store(store, reach_once("before_commit", abort_it))
        result = store.consolidate("predictions", "b")
        assert (result.status, result.partitions[0].attempts) == ("committed", 2)
    bench.audit()


def test_control_that_commit_is_accepted_by_the_engine():
    """Control: the trap is there; were it gone, the test above would show nothing."""
    with duckdb.connect() as connection:
        connection.execute("create table t (a int)")
        connection.execute("begin")
        connection.execute("insert into t values (1)")
        with pytest.raises(duckdb.Error):
            connection.execute("select error('aborts the transaction')")
        connection.execute("commit")
        assert connection.execute("select count(*) from t").fetchone() == (0,)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_read_back_that_fails_is_resolved_under_the_guard(bench, failures):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        hook_store(store, lambda step: None)
        warehouse = store.ports.warehouse
        left, read = [failures], warehouse._read_committed

        def lose_the_reply(connection, plan):
            if left[0]:
                left[0] -= 1
                raise duckdb.IOException("the reply was lost")
            return read(connection, plan)

        warehouse._read_committed = lose_the_reply
        result = store.consolidate("predictions", "b")
        assert (result.status, result.partitions[0].rows_staged) == ("committed", 24)
        assert bench.query("select attempt from onerow.guards") == [(2,)]  # the merge, and the resolving read
    bench.audit()


def test_an_outcome_that_stays_unknown_is_called_unknown(bench):
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        hook_store(store, lambda step: None)
        store.ports.warehouse._read_committed = lose_every_reply
        result = store.consolidate("predictions", "b")
        assert (result.status, result.exit_code, result.parts_removed) == ("unknown", 7, 0)
        assert "Consolidate again" in result.error
    assert {state for _, state in bench.part_states().values()} == {"staged"}
    with bench.open() as store:
        assert store.consolidate("predictions", "b").status == "already_merged"
    bench.audit()


def lose_every_reply(connection, plan):
    """Stands where the ledger would be read."""
    raise duckdb.IOException("the reply was lost")


def test_resolve_tells_what_has_committed_what_never_will_and_what_nobody_knows(bench):
    plans = []
    with bench.open() as store:
        bench.stage_batch(store, "b", parts=2)
        hook_store(store, lambda step: None)
        warehouse = store.ports.warehouse
        prepare = warehouse.prepare
        warehouse.prepare = lambda plan: plans.append(plan) or prepare(plan)

        def ask_before():
            assert isinstance(resolve_elsewhere(bench, plans[0]), Refused)

        hook_store(store, reach_once("prepared", ask_before))
        consolidate_all(store, "predictions", ["b"])
        found = warehouse.resolve(plans[0])
        assert isinstance(found, Committed)
        assert found.read_back
        assert sum(counts.staged for counts in found.counts.values()) == 24
        bench.write("drop table onerow.history")
        assert isinstance(warehouse.resolve(plans[0]), Unknown)


def resolve_elsewhere(bench, plan):
    """Ask another store what has become of a plan."""
    with bench.open() as other:
        return other.ports.warehouse.resolve(plan)
