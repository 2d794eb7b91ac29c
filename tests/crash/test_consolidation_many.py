"""Ten and more processes at once on one file: no duplicates, no losses, tokens in order, with the lock and without."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest

from support.bench import DAY, Bench, predictions

TOGETHER = ("opened", "SIGSTOP")


@pytest.mark.parametrize("use_lock", [True, False], ids=["lock on", "lock off"])
def test_ten_consolidations_of_overlapping_batches_of_one_date(processes, bench, use_lock):
    """The incident: 15 parts a batch, the same date and keys, everything at the same moment."""
    batches = [f"batch-{number}" for number in range(5)]
    with bench.open() as store:
        for number, batch in enumerate(batches):
            bench.stage_batch(store, batch, parts=15, rows=20, seed=number)

    answers = processes.together(
        [
            processes.consolidator(
                bench, batches[number % 5], batches[(number + 1) % 5], halt=TOGETHER, options={"use_lock": use_lock}
            )
            for number in range(10)
        ]
    )

    assert Counter(answer["exit_code"] for answer in answers) == {0: 20}, [answer["error"] for answer in answers]
    assert Counter(answer["status"] for answer in answers)["committed"] == 5  # each batch by one of its four
    tokens = [partition["token"] for answer in answers for partition in answer["partitions"] if partition["parts"]]
    assert all((token is not None) == use_lock for token in tokens)
    assert bench.query("select distinct unlocked from onerow.history") == [(not use_lock,)]
    bench.audit()


def test_twelve_processes_with_and_without_the_lock_over_several_dates(processes, bench):
    days = [DAY + dt.timedelta(days=number) for number in range(4)]
    with bench.open() as store:
        for number, day in enumerate(days):
            for batch in ("b", "b_x"):
                bench.stage_batch(store, batch, parts=3, rows=15, seed=number, day=day)
        across = [row for number, day in enumerate(days) for row in predictions(10, seed=90 + number, day=day)]
        bench.stage(store, across, batch="b", worker="all-dates")
    one_date = {"partitions": [days[1].isoformat()]}

    answers = processes.together(
        [processes.consolidator(bench, "b", "b_x", halt=TOGETHER) for _ in range(4)]
        + [processes.consolidator(bench, "b_x", "b", halt=TOGETHER, options={"use_lock": False}) for _ in range(4)]
        + [processes.consolidator(bench, "b", halt=TOGETHER, options=one_date) for _ in range(4)]
    )

    assert {answer["exit_code"] for answer in answers} == {0}, [answer["error"] for answer in answers]
    bench.audit()


def test_consolidations_at_once_with_one_that_keeps_dying(processes, bench):
    batches = ["b-0", "b-1", "b-2"]
    with bench.open() as store:
        for number, batch in enumerate(batches):
            bench.stage_batch(store, batch, parts=5, rows=15, seed=number)
    dying = [
        processes.consolidator(bench, batch, halt=(step, "SIGKILL"), lease_s=0.6)
        for batch, step in zip(batches, ("merge", "committed", "retiring"), strict=True)
    ]
    answers = processes.together(
        [processes.consolidator(bench, *batches, halt=TOGETHER) for _ in range(4)]
    )
    for child in dying:
        child.wait()
    assert {answer["exit_code"] for answer in answers} == {0}, [answer["error"] for answer in answers]
    bench.audit()


def test_control_two_consolidations_without_guard_and_ledger_would_double(tmp_path):
    """Control: the plain insert-insert race of the incident, on this engine, does leave two rows of a key."""
    import duckdb

    bench = Bench(tmp_path / "control")
    merge = """
        merge into predictions as t using (select 'g' as game_id) as s on t.game_id = s.game_id
        when not matched then insert (game_id, game_date, player_lookup) values (s.game_id, date '2026-01-10', 'p')
    """
    with duckdb.connect(str(bench.database)) as first, first.cursor() as second:
        first.execute("begin")
        second.execute("begin")
        first.execute(merge)
        second.execute(merge)
        first.execute("commit")
        second.execute("commit")
    assert bench.query("select count(*) from predictions") == [(2,)]
