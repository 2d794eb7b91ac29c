"""The line to the catalog is cut in the middle of a commit; the catalog's server is restarted."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager

import duckdb
import pytest

from onerow.adapters.warehouse.ducklake import kept
from onerow.adapters.warehouse.ducklake import lake as lakes
from onerow.adapters.warehouse.ducklake.kept import KEPT_NAME
from onerow.core.partitions import Scope
from onerow.core.plans import Committed, Refused, Unknown
from onerow.errors import OnerowError
from onerow.testing.conformance.harness import DAY, SPEC, Watch, a_row, assert_table, at, counted
from onerow.testing.proxy import Proxy
from support import postgres as servers


@contextmanager
def through_a_proxy(harness):
    with (
        Proxy(servers.address(harness.catalog)) as proxy,
        closing(harness.another_warehouse(servers.through(harness.catalog, proxy.port))) as warehouse,
    ):
        yield proxy, warehouse


def is_commit(asked):
    return b"COMMIT" in asked


def apply(warehouse, plan, before_commit=None):
    with warehouse.prepare(plan) as prepared:
        return warehouse.apply(prepared, Watch(before_commit))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_without_an_answer_is_unknown_and_resolved(on_postgres, when):
    harness = on_postgres
    harness.stage("b0", "w1", [a_row()])
    assert isinstance(harness.merge("b0"), Committed)
    harness.stage("b1", "w1", [a_row(created_at=at(1)), a_row(player="lebron")])
    plan = harness.plan("b1")
    with through_a_proxy(harness) as (proxy, warehouse):
        warehouse.merged("props", "b1")
        cut = []
        outcome = apply(warehouse, plan, lambda: cut.append(proxy.cut_when(is_commit, when=when)))
        assert cut[0].is_set()
        assert isinstance(outcome, Unknown)
        resolved = warehouse.resolve(plan)
    if when == "after":
        assert counted(resolved) == (2, 1, 1, 0, 0)
        assert_table(harness, [a_row(created_at=at(1)), a_row(player="lebron")])
    else:
        assert isinstance(resolved, Refused)
        assert_table(harness, [a_row()])
        assert counted(harness.merge("b1", run="again")) == (2, 1, 1, 0, 0)
    harness.stage("b2", "w1", [a_row(player="curry")])
    assert isinstance(harness.merge("b2"), Committed), "every table can be read and written after it"
    assert not list((harness.folder / "lake" / KEPT_NAME).glob("*")), "second names are temporary"


def test_without_second_names_a_lost_answer_breaks_the_lake(on_postgres, monkeypatch):
    """The negative control; when the engine has learnt it, this fails and ``kept.py`` can go."""
    harness = on_postgres
    harness.stage("b1", "w1", [a_row()])
    monkeypatch.setattr(lakes.KeptFiles, "restore", lambda self: 0)
    with through_a_proxy(harness) as (proxy, warehouse):
        warehouse.merged("props", "b1")
        outcome = apply(warehouse, harness.plan("b1"), lambda: proxy.cut_when(is_commit, when="after"))
    assert isinstance(outcome, Unknown)
    with pytest.raises(duckdb.IOException, match="Cannot open file"):
        harness.table_rows(SPEC)


class Killed(BaseException):
    """The process ends where this is raised: no handler of ours runs."""


def test_what_a_process_that_died_after_the_lost_answer_has_left_is_brought_back(on_postgres, monkeypatch):
    harness = on_postgres
    harness.stage("b1", "w1", [a_row()])

    def die(self):
        raise Killed

    with monkeypatch.context() as dying, through_a_proxy(harness) as (proxy, warehouse):
        dying.setattr(lakes.KeptFiles, "restore", die)
        warehouse.merged("props", "b1")
        with pytest.raises(Killed):
            apply(warehouse, harness.plan("b1"), lambda: proxy.cut_when(is_commit, when="after"))
    (left,) = (harness.folder / "lake" / KEPT_NAME).iterdir()
    with harness.another() as other:
        assert isinstance(other.resolve(harness.plan("b1")), Committed)
        assert_table(harness, [a_row()])
        assert other.upkeep([SPEC], apply=True) == [], "the process may still run"
        assert left.exists()
        os.utime(left, (0, 0))
        ((_, well, said),) = [fact for fact in other.probe([SPEC]) if fact[0] == "interrupted commits"]
        assert not well
        assert "onerow gc --apply" in said
        (line,) = other.upkeep([SPEC], apply=False)
        assert line == "second names of the files of 1 interrupted commits to remove"
        assert left.exists()
        assert other.upkeep([SPEC], apply=True) == [line]
        assert not left.exists()
        assert not any(fact[0] == "interrupted commits" for fact in other.probe([SPEC]))
    assert_table(harness, [a_row()])


def test_files_of_a_refused_commit_are_not_brought_back(on_postgres, monkeypatch):
    """The process dies when the commit was not kept: what nobody names stays away, and so does its folder."""
    harness = on_postgres
    harness.stage("b1", "w1", [a_row()])

    def die(self):
        raise Killed

    with monkeypatch.context() as dying, through_a_proxy(harness) as (proxy, warehouse):
        dying.setattr(lakes.KeptFiles, "restore", die)
        warehouse.merged("props", "b1")
        with pytest.raises(Killed):
            apply(warehouse, harness.plan("b1"), lambda: proxy.cut_when(is_commit, when="before"))
    lake = harness.folder / "lake"
    (left,) = (lake / KEPT_NAME).iterdir()
    before = sorted(lake.rglob("*.parquet"))
    os.utime(left, (0, 0))
    with harness.another() as other:
        assert isinstance(other.resolve(harness.plan("b1")), Refused)
        other.upkeep([SPEC], apply=True)
        written = [path for path in sorted(lake.rglob("*.parquet")) if path not in before]
    assert not left.exists()
    assert all("guards" in str(path) for path in written), "only what resolving wrote"
    assert_table(harness, [])
    assert counted(harness.merge("b1", run="again")) == (1, 1, 0, 0, 0)


def test_files_that_cannot_be_restored_at_once_are_at_the_next_opening(on_postgres, monkeypatch, caplog):
    harness = on_postgres
    harness.stage("b1", "w1", [a_row()])

    def fail(self):
        raise OSError("no room")

    with through_a_proxy(harness) as (proxy, warehouse):
        warehouse.merged("props", "b1")
        with monkeypatch.context() as full:
            full.setattr(lakes.KeptFiles, "restore", fail)
            outcome = apply(warehouse, harness.plan("b1"), lambda: proxy.cut_when(is_commit, when="after"))
        assert isinstance(outcome, Unknown)
        assert "onerow.files_not_restored" in caplog.messages
        assert isinstance(warehouse.resolve(harness.plan("b1")), Committed)
    assert_table(harness, [a_row()])


def test_a_raised_fence_whose_answer_was_lost_can_be_raised_again(on_postgres):
    harness = on_postgres
    scope = Scope("props", DAY.isoformat())
    with through_a_proxy(harness) as (proxy, warehouse):
        warehouse.merged("props", "b1")
        cut = proxy.cut_when(is_commit, when="after")
        with pytest.raises(OnerowError):
            warehouse.raise_fence(SPEC, scope, token=9, by="me", reason="stuck")
        assert cut.is_set()
        assert warehouse.raise_fence(SPEC, scope, token=9, by="me", reason="stuck") == 9
    harness.stage("b1", "w1", [a_row()])
    assert isinstance(harness.merge("b1", token=8), Refused)


def test_a_line_that_was_cut_is_made_again(on_postgres):
    harness = on_postgres
    with through_a_proxy(harness) as (proxy, warehouse):
        for number in range(2):
            harness.stage(f"b{number}", "w1", [a_row(player=f"p{number}")])
            plan = harness.plan(f"b{number}")
            with warehouse.prepare(plan) as prepared:
                proxy.cut()
                assert isinstance(warehouse.apply(prepared, Watch()), Committed)
        proxy.refuse()
        assert isinstance(warehouse.resolve(plan), Unknown)
        proxy.refuse(False)
        assert isinstance(warehouse.resolve(plan), Committed)


def test_a_file_that_another_transaction_takes_back_meanwhile_is_none_of_ours(tmp_path, monkeypatch):
    """What is looked at is a folder that others write to; of their files those that are rolled back vanish."""
    folder = tmp_path / "lake" / "main" / "props"
    folder.mkdir(parents=True)
    ours, theirs = (folder / f"ducklake-{kind}.parquet" for kind in ("ours", "theirs"))
    ours.write_bytes(b"rows")
    monkeypatch.setattr(kept, "_written_since", lambda *_: iter([ours, theirs]))
    names = kept.KeptFiles(tmp_path / "lake", [folder], since_s=0.0)
    ours.unlink()
    assert names.restore() == 1
    assert ours.read_bytes() == b"rows"
    assert not theirs.exists()
    names.forget()
    assert not any((tmp_path / "lake" / kept.KEPT_NAME).iterdir())
