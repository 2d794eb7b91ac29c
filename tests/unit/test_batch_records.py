"""What becomes of a registered batch: every state, every way between them, decided without a store or a clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onerow.core import batchnotes as notes
from onerow.core import batchrecords as core
from onerow.core.batchrecords import Defaults, Expected, Round, Seen
from onerow.errors import BatchConflictError, LockStoreError, UsageError

SECOND = 1_000_000
T0 = 1_768_093_594_538_000
DEFAULTS = Defaults(deadline_us=3_600 * SECOND, on_deadline="consolidate")
FINE = Round("c1", "committed", success=True, holder="me", finished_us=0)
BAD = Round("c1", "failed", success=False, holder="me", finished_us=0, error="no", error_kind="warehouse")


def opened(now_us=T0, **expected):
    return core.opened(
        None, table="t", batch="b", expected=Expected(**expected), defaults=DEFAULTS, by="scheduler", now_us=now_us
    )


def seen(parts, waiting=None, workers=None):
    return Seen(parts, workers or parts, parts if waiting is None else waiting, 10 * parts)


def claimed(record, owner="o1", now_us=T0 + 10):
    assert core.claimable(record, now_us, unchanged_us=0)
    return core.claimed(record, owner=owner, holder=f"{owner}@host", duration_us=30 * SECOND, now_us=now_us)


def done(record, *, parts=2, now_us=T0 + 20):
    return core.finished(claimed(record), "o1", FINE, seen(parts, 0), now_us)


def test_a_batch_whose_parts_are_all_there_is_due_without_being_asked():
    record = opened(parts=2)
    one = core.reported(record, seen(1), T0 + 1)
    two = core.reported(one, seen(2), T0 + 2)
    assert (record.state, one.state, two.state, two.why) == ("open", "open", "due", "complete")
    assert (one.missing_parts, one.complete, two.complete) == (1, False, True)
    assert notes.news(None, record) == ["onerow.batch_opened"]
    assert notes.news(record, one) == []
    assert notes.news(one, two) == ["onerow.batch_complete"]


def test_workers_are_counted_once_however_many_parts_they_hand_in():
    record = core.observed(opened(workers=2), Seen(parts=5, workers=1, waiting=5, rows=50), T0)
    assert (record.state, record.missing_workers) == ("open", 1)
    assert core.observed(record, Seen(parts=6, workers=2, waiting=6, rows=60), T0).state == "due"


def test_of_two_expectations_both_are_to_be_met():
    record = opened(parts=3, workers=2)
    assert core.observed(record, seen(3, workers=1), T0).state == "open"
    assert core.observed(record, seen(2, workers=2), T0).state == "open"
    assert core.observed(record, seen(3, workers=2), T0).state == "due"


def test_opening_again_with_the_same_expectations_is_the_same_batch():
    record = core.observed(opened(parts=2, deadline_s=60.0), seen(1), T0)
    again = core.opened(
        record, table="t", batch="b", expected=Expected(parts=2, deadline_s=60.0), defaults=DEFAULTS, by="x", now_us=T0 + 9
    )
    assert again is record


def test_opening_again_with_others_is_refused_and_names_both():
    with pytest.raises(BatchConflictError) as refused:
        core.opened(
            opened(parts=2), table="t", batch="b", expected=Expected(workers=3), defaults=DEFAULTS, by="x", now_us=T0
        )
    assert "expects parts 2;" in refused.value.message
    assert "expects workers 3." in refused.value.message


@pytest.mark.parametrize("expected", [{"parts": 0}, {"workers": -1}, {"deadline_s": 0.0}])
def test_an_expectation_is_more_than_nothing(expected):
    with pytest.raises(UsageError, match="more than 0"):
        opened(**expected)


def test_a_part_that_comes_before_the_opening_waits_for_what_is_expected_then():
    record = core.reported(core.found(table="t", batch="b", defaults=DEFAULTS, by="w", now_us=T0), seen(1), T0)
    assert (record.state, record.registered, record.expects) == ("open", False, False)
    known = core.opened(
        record, table="t", batch="b", expected=Expected(parts=2), defaults=DEFAULTS, by="s", now_us=T0 + 5
    )
    assert (known.state, known.registered, known.missing_parts, known.opened_by) == ("open", True, 1, "s")
    assert notes.news(record, known) == ["onerow.batch_opened"]
    at_once = core.opened(
        record, table="t", batch="b", expected=Expected(parts=1), defaults=DEFAULTS, by="s", now_us=T0 + 5
    )
    assert (at_once.state, at_once.why) == ("due", "complete")


def test_a_batch_nobody_opened_is_consolidated_when_it_is_sealed_or_at_its_deadline():
    record = core.reported(core.found(table="t", batch="b", defaults=DEFAULTS, by="w", now_us=T0), seen(1), T0)
    assert core.sealed(record, seen(1), T0 + 1).why == "sealed"
    late = core.observed(record, seen(1), T0 + DEFAULTS.deadline_us)
    assert (late.state, late.why, late.incomplete_us) == ("due", "deadline", None)


def test_one_that_was_done_before_it_was_opened_waits_again():
    record = done(core.sealed(replace(opened(), registered=False), seen(2), T0))
    with_more = core.opened(
        replace(record, sealed=False), table="t", batch="b", expected=Expected(parts=3), defaults=DEFAULTS, by="s", now_us=T0
    )
    assert (record.state, with_more.state, with_more.missing_parts) == ("done", "open", 1)


@pytest.mark.parametrize(("on_deadline", "state"), [("consolidate", "due"), ("leave", "incomplete")])
def test_incomplete_at_its_deadline_it_is_reported_and_consolidated_or_left(on_deadline, state):
    record = core.observed(opened(parts=3, deadline_s=60.0, on_deadline=on_deadline), seen(2), T0 + 59 * SECOND)
    assert record.state == "open"
    after = core.observed(record, seen(2), T0 + 60 * SECOND)
    assert (after.state, after.incomplete_us) == (state, T0 + 60 * SECOND)
    assert notes.news(record, after) == ["onerow.batch_incomplete"]


def test_what_was_left_is_consolidated_when_it_is_complete_sealed_or_asked_for():
    left = core.observed(opened(parts=3, deadline_s=1.0, on_deadline="leave"), seen(1), T0 + 2 * SECOND)
    still = core.observed(left, seen(2), T0 + 3 * SECOND)
    assert (left.state, still.state) == ("incomplete", "incomplete")
    assert core.observed(still, seen(3), T0).why == "complete"
    assert core.sealed(still, seen(2), T0).why == "sealed"
    assert core.asked(still, seen(2), T0).why == "asked"


def test_nothing_at_all_at_the_deadline_is_incomplete_and_what_comes_later_is_merged():
    nothing = core.observed(opened(deadline_s=1.0), Seen(), T0 + 2 * SECOND)
    assert (nothing.state, nothing.incomplete_us) == ("incomplete", T0 + 2 * SECOND)
    assert core.observed(nothing, seen(1), T0 + 3 * SECOND).why == "late"
    assert core.sealed(opened(), Seen(), T0).state == "incomplete"


def test_a_sealed_batch_that_lacks_parts_is_told_and_consolidated():
    record = opened(parts=3, on_deadline="leave")
    after = core.sealed(record, seen(2), T0 + 1)
    assert (after.state, after.why) == ("due", "sealed")
    assert notes.news(record, after) == ["onerow.batch_sealed", "onerow.batch_incomplete"]
    assert core.sealed(after, seen(2), T0 + 2) is after


def test_a_late_part_starts_another_round():
    record = done(core.observed(opened(parts=2), seen(2), T0))
    late = core.reported(record, seen(3, 1), T0 + 30)
    assert (record.state, late.state, late.why, late.rounds) == ("done", "due", "late", 1)
    again = core.finished(claimed(late, "o2"), "o2", FINE, seen(3, 0), T0 + 40)
    assert (again.state, again.rounds) == ("done", 2)


def test_a_part_that_comes_while_the_others_are_merged_starts_another_round():
    record = claimed(core.observed(opened(parts=2), seen(2), T0))
    after = core.finished(record, "o1", FINE, seen(3, 1), T0 + 20)
    assert (after.state, after.why) == ("due", "late")


def test_asked_for_before_it_is_complete_it_goes_on_waiting_for_the_rest():
    record = core.asked(core.observed(opened(parts=3), seen(2), T0), seen(2), T0)
    after = core.finished(claimed(record), "o1", FINE, seen(2, 0), T0 + 20)
    assert (record.why, after.state) == ("asked", "open")
    assert core.observed(after, seen(3, 1), T0 + 30).why == "complete"


def test_asked_for_after_its_deadline_what_was_to_be_left_stays_incomplete():
    left = core.observed(opened(parts=3, deadline_s=1.0, on_deadline="leave"), seen(1), T0 + 2 * SECOND)
    after = core.finished(claimed(core.asked(left, seen(1), T0)), "o1", FINE, seen(1, 0), T0 + 3 * SECOND)
    assert after.state == "incomplete"
    assert notes.news(left, after) == ["onerow.batch_consolidated"]


def test_asking_twice_is_asking_once():
    due = core.asked(opened(), seen(1), T0)
    running = claimed(due)
    ended = core.finished(running, "o1", FINE, seen(1, 0), T0 + 3_700 * SECOND)
    assert core.asked(due, seen(1), T0 + 1) == due
    assert core.asked(running, running.seen, T0 + 1) == running
    assert core.asked(ended, ended.seen, T0 + 1) == ended


def test_a_failed_round_is_tried_again_later_and_later_and_keeps_its_reason():
    record = core.observed(opened(parts=1), seen(1), T0)
    waits = []
    now_us = T0
    for number in range(12):
        record = core.finished(claimed(record, f"o{number}", now_us), f"o{number}", BAD, seen(1), now_us)
        assert (record.state, record.last.error, record.last.error_kind) == ("failed", "no", "warehouse")
        assert not core.claimable(record, record.retry_us - 1, unchanged_us=0)
        waits.append((record.retry_us - now_us) / SECOND)
        now_us = record.retry_us
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert waits[-1] == max(waits) == 300
    assert core.asked(record, seen(1), now_us).retry_us == 0
    better = core.finished(claimed(record, "x", now_us), "x", FINE, seen(1, 0), now_us)
    assert (better.state, better.tries, better.rounds) == ("done", 0, 13)


def test_a_claim_keeps_others_away_until_it_expires_by_the_stores_clock():
    record = claimed(core.observed(opened(parts=1), seen(1), T0), now_us=T0)
    end_us = record.claim.expires_us
    assert not core.claimable(record, end_us - 1, unchanged_us=0)
    assert core.claimable(record, end_us, unchanged_us=0)
    renewed = core.renewed(record, "o1", end_us - 1)
    assert not core.claimable(renewed, end_us, unchanged_us=0)


def test_a_claim_that_nobody_renews_ends_even_if_the_stores_clock_was_set_back():
    record = claimed(core.observed(opened(parts=1), seen(1), T0), now_us=T0)
    assert not core.claimable(record, T0 - 3_600 * SECOND, unchanged_us=29 * SECOND)
    assert core.claimable(record, T0 - 3_600 * SECOND, unchanged_us=30 * SECOND)


def test_who_has_lost_the_claim_changes_nothing_any_more():
    record = claimed(core.observed(opened(parts=1), seen(1), T0), now_us=T0)
    taken = core.claimed(record, owner="o2", holder="b", duration_us=SECOND, now_us=record.claim.expires_us)
    assert core.renewed(taken, "o1", T0) is None
    assert core.finished(taken, "o1", BAD, seen(1), T0) is taken
    assert core.given_back(taken, "o1", T0) is taken


def test_work_that_is_given_back_is_due_at_once():
    record = core.given_back(claimed(core.observed(opened(parts=1), seen(1), T0)), "o1", T0 + 11)
    assert (record.state, record.tries, record.claim) == ("due", 0, None)


def test_a_cancelled_batch_is_left_alone():
    record = core.cancelled(core.observed(opened(parts=2), seen(1), T0), by="ann", reason=" wrong day ", now_us=T0 + 1)
    assert (record.state, record.cancelled.by, record.cancelled.reason) == ("cancelled", "ann", "wrong day")
    assert core.cancelled(record, by="bob", reason="also", now_us=T0 + 2) is record
    assert core.observed(record, seen(2), T0 + 9_999 * SECOND).state == "cancelled"
    assert not core.claimable(record, T0 + 9_999 * SECOND, unchanged_us=10**12)
    for change in (core.reported, core.sealed, core.asked):
        with pytest.raises(BatchConflictError, match="cancelled by ann: wrong day"):
            change(record, seen(2), T0)


def test_what_is_being_merged_or_is_done_cannot_be_cancelled_and_no_reason_is_none():
    running = claimed(core.observed(opened(parts=1), seen(1), T0), now_us=T0)
    with pytest.raises(BatchConflictError, match="consolidated right now by o1@host"):
        core.cancelled(running, by="ann", reason="r", now_us=T0 + 1)
    assert core.cancelled(running, by="ann", reason="r", now_us=running.claim.expires_us).state == "cancelled"
    with pytest.raises(BatchConflictError, match="is done"):
        core.cancelled(done(core.observed(opened(parts=2), seen(2), T0)), by="ann", reason="r", now_us=T0)
    with pytest.raises(UsageError, match="needs a reason"):
        core.cancelled(opened(), by="ann", reason="  ", now_us=T0)


def test_a_done_batch_is_looked_at_for_parts_that_nobody_reported_ever_more_rarely():
    record = done(core.observed(opened(parts=1), seen(1), T0), parts=1, now_us=T0)
    looks, now_us = 0, T0
    while now_us < T0 + 7 * 86_400 * SECOND:
        before, now_us = record, record.late_look_us
        assert core.observed(record, record.seen, now_us - 1) is record
        record = core.observed(record, record.seen, now_us)
        assert record != before
        looks += 1
    assert looks < 20
    assert core.observed(record, seen(2, 1), now_us).why == "late"


def test_keys_are_remembered_and_the_oldest_is_forgotten_first():
    record = opened()
    for number in range(notes.MAX_KEYS + 1):
        record = notes.remembering(record, f"k{number}", "p")
    assert len(record.keys) == notes.MAX_KEYS
    assert not notes.is_repeated(record, "k0", "p")
    assert notes.is_repeated(record, "k1", "p")
    assert notes.remembering(record, "k1", "p") is record
    assert not notes.is_repeated(None, "k1", "p")
    with pytest.raises(UsageError, match="another request"):
        notes.is_repeated(record, "k1", "q")


def test_a_record_that_cannot_be_read_is_told():
    data = claimed(core.observed(opened(parts=1), seen(1), T0)).to_json()
    for broken in ({**data, "format": 9}, {**data, "state": "odd"}, {**data, "claim": None}, {**data, "seen": {"x": 1}}, {}):
        with pytest.raises(LockStoreError):
            core.record_from_json(broken)


def test_an_error_that_is_long_is_cut_so_that_the_record_stays_small():
    record = claimed(core.observed(opened(parts=1), seen(1), T0))
    after = core.finished(record, "o1", replace(BAD, error="x" * 10_000), seen(1), T0)
    assert len(after.last.error) == core.MAX_ERROR_CHARS


# --- any order of anything ---------------------------------------------------------------------

MOVES = st.sampled_from(["part", "look", "seal", "ask", "cancel", "claim", "steal", "fine", "bad", "give back", "merge"])


@given(
    st.lists(st.tuples(MOVES, st.integers(0, 40)), max_size=40),
    st.sampled_from([{}, {"parts": 2}, {"workers": 1}, {"parts": 3, "on_deadline": "leave"}]),
)
def test_in_any_order_of_events_nothing_that_waits_is_forgotten(moves, expected):
    """The record is readable, claimed by one, and at rest only with nothing left to do."""
    record, now_us, parts, merged, owner = opened(**expected, deadline_s=100.0), T0, 0, 0, 0
    for move, pause_s in moves:
        now_us += pause_s * SECOND
        before = record
        match move:
            case "part":
                parts += 1
            case "merge":
                merged = parts  # somebody consolidates by hand
            case "claim" | "steal" if core.claimable(record, now_us, unchanged_us=0):
                owner += 1
                record = core.claimed(record, owner=f"o{owner}", holder="h", duration_us=30 * SECOND, now_us=now_us)
            case "fine" | "bad":
                good = move == "fine"
                merged = parts if good else merged
                record = core.finished(record, f"o{owner}", FINE if good else BAD, seen(parts, parts - merged), now_us)
            case "give back":
                record = core.given_back(record, f"o{owner}", now_us)
            case "seal" | "ask" | "cancel":
                try:
                    if move == "cancel":
                        record = core.cancelled(record, by="x", reason="y", now_us=now_us)
                    else:
                        change = core.sealed if move == "seal" else core.asked
                        record = change(record, seen(parts, parts - merged), now_us)
                except BatchConflictError:
                    assert record is before
        record = core.observed(record, seen(parts, parts - merged), now_us)
        assert core.record_from_json(record.to_json()) == record
        assert (record.claim is not None) == (record.state == "claimed")
        assert notes.news(before, before) == []
        if record.state == "done":
            assert parts == merged
            assert not record.expects or record.complete or record.incomplete_us is not None
        if record.state == "incomplete":
            assert not record.complete or parts == merged
        if record.state == "open":
            assert now_us < record.deadline_us
            assert not record.complete
        if before.state == "cancelled":
            assert record.state == "cancelled"
