"""A store's whole life against a small model: stage, merge, stage again, purge, discard, force-release, crash."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

import onerow
from support.arena import QUICK, Arena
from support.bench import DAY, PREDICTIONS, predictions
from support.reference import newest_rows

BATCHES = st.sampled_from(["b", "b_x"])
DAYS = (DAY, DAY + timedelta(days=1))

_arenas = []


def setup_module():
    """Make the one file that all examples use."""
    folder = tempfile.TemporaryDirectory(prefix="onerow-life-")
    _arenas.append((folder, Arena(Path(folder.name), tables=PREDICTIONS, table="predictions")))


def teardown_module():
    """Close and remove it."""
    folder, arena = _arenas.pop()
    arena.close()
    folder.cleanup()


class LifeOfABatch(RuleBasedStateMachine):
    """The model: what was staged, which (part, date) is merged, and the state of each part's data."""

    handed_in = Bundle("handed_in")

    def __init__(self):
        super().__init__()
        _, arena = _arenas[0]
        self.arena = arena.use("predictions")
        self.store = self.arena.store
        self.content = {}
        self.merged = set()
        self.state = {}

    def batch_of(self, name):
        return [part for part, (batch, _) in self.content.items() if batch == name]

    def dates(self, part):
        return {row["game_date"].isoformat() for row in self.content[part][1]}

    def wholly_merged(self, part):
        return all((part, date) in self.merged for date in self.dates(part))

    def waiting(self, name):
        return [part for part in self.batch_of(name) if self.state[part] == "staged" and not self.wholly_merged(part)]

    # --- what workers and schedulers do --------------------------------------------------------

    @rule(target=handed_in, batch=BATCHES, seed=st.integers(0, 3), days=st.sampled_from([DAYS[:1], DAYS[1:], DAYS]))
    def stage(self, batch, seed, days):
        rows = [row for day in days for row in predictions(3, seed=f"{seed}", day=day, players=3)]
        return self.hand_in(batch, rows)

    @rule(handed=handed_in)
    def stage_the_same_again(self, handed):
        self.hand_in(*handed)

    def hand_in(self, batch, rows):
        part = self.store.stage("predictions", rows, batch=batch, worker="w")
        known = self.state.get(part.part_id)
        expected = {None: "staged", "discarded": "staged", "purged": "already_merged"}.get(known, "already_staged")
        assert part.status == expected
        if expected == "staged":
            self.content[part.part_id] = (batch, rows)
            self.state[part.part_id] = "staged"
        return batch, rows

    @rule(
        batch=BATCHES,
        only=st.sampled_from([None, None, DAYS[0], DAYS[1]]),
        use_lock=st.booleans(),
        keep_staging=st.booleans(),
    )
    def consolidate(self, batch, only, use_lock, keep_staging):
        partitions = None if only is None else [only.isoformat()]
        if not self.batch_of(batch):
            try:
                self.store.consolidate("predictions", batch)
            except onerow.BatchNotFoundError:
                return
            raise AssertionError("a batch that was never seen must not pass for merged")
        alive = [part for part in self.batch_of(batch) if self.state[part] != "discarded"]
        new = {
            (part, date)
            for part in alive
            for date in self.dates(part)
            if (part, date) not in self.merged and (only is None or date == only.isoformat())
        }
        result = self.store.consolidate(
            "predictions", batch, partitions=partitions, use_lock=use_lock, keep_staging=keep_staging
        )
        assert result.success, result.error
        told = {partition.partition: partition.parts for partition in result.partitions if partition.parts}
        assert told == {date: sum(1 for _, at in new if at == date) for _, date in new}
        self.merged |= new
        retired = [part for part in alive if self.state[part] == "staged" and self.wholly_merged(part)]
        if keep_staging:
            assert result.parts_removed == 0
        else:
            assert result.parts_removed == len(retired)
            self.state.update(dict.fromkeys(retired, "retired"))

    # --- what people do ------------------------------------------------------------------------

    @rule()
    def purge(self):
        parts = self.store.ports.parts
        purged = parts.purge(parts.retired("predictions", older_than_s=0.0))
        retired = [part for part, state in self.state.items() if state == "retired"]
        assert purged == len(retired)
        self.state.update(dict.fromkeys(retired, "purged"))

    @rule(batch=BATCHES)
    def discard(self, batch):
        waiting = self.waiting(batch)
        try:
            plan = self.store.batches.discard(self.arena.spec, batch, reason="a test", by="me")
        except (onerow.UsageError, onerow.BatchNotFoundError):
            assert not waiting
            return
        assert {part.part_id for part in plan.parts} == set(waiting)
        self.state.update(dict.fromkeys(waiting, "discarded"))

    @rule(day=st.sampled_from(DAYS))
    def force_release(self, day):
        with self.store.lock("predictions", day.isoformat()) as held:
            (token,) = held.tokens.values()
            done = self.store.locks.force_release(f"predictions/{day}", reason="a test", by="me", force=True)
        assert done.fence is not None
        assert done.fence >= done.token > token

    # --- what must always hold -----------------------------------------------------------------

    @invariant()
    def the_table_is_the_reference(self):
        rows = [
            row
            for part, (_, content) in self.content.items()
            for row in content
            if (part, row["game_date"].isoformat()) in self.merged
        ]
        expected = newest_rows(rows, self.arena.spec)
        with self.arena.reading():
            assert sorted(self.arena.table_rows(), key=repr) == sorted(expected.values(), key=repr)
            ledger = [(part, partition) for part, partition, _ in self.arena.ledger()]
            assert not self.arena.token_order_violations()
        assert sorted(ledger) == sorted(self.merged)

    @invariant()
    def the_parts_are_what_the_model_says(self):
        for batch in ("b", "b_x"):
            found = {part.part_id: part.state for part in self.store.ports.parts.parts("predictions", batch)}
            assert found == {part: self.state[part] for part in self.batch_of(batch)}

    def teardown(self):
        """In the end everything that was not discarded is merged."""
        for batch in ("b", "b_x"):
            if self.batch_of(batch):
                assert self.store.consolidate("predictions", batch).success
        merged = {(part, date) for part, date, _ in self.arena.ledger()}
        for part, state in self.state.items():
            if state != "discarded":
                assert all((part, date) in merged for date in self.dates(part))


LifeOfABatch.TestCase.settings = settings(QUICK, max_examples=10, stateful_step_count=12)
TestLifeOfABatch = LifeOfABatch.TestCase
