"""The scripts as they are sent, word for word, and what must be true of every one of them.

The emulator runs statements one after another and lists no statistics: that the scripts say what they should is seen
here. After a change look at the difference, then write the files anew with ``WRITE_EXPECTED=1``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from onerow.adapters.bigquery.names import Names, TableName, bigquery_type
from onerow.adapters.warehouse.bigquery.guarded import InterventionSteps, check_statement
from onerow.adapters.warehouse.bigquery.preparation import Cost, PreparedMerge
from onerow.adapters.warehouse.bigquery.script import MergeSteps, Turn
from onerow.adapters.warehouse.bigquery.statements import Statements, values_of
from onerow.adapters.warehouse.bigquery.versions import VersionsSteps
from onerow.core.plans import MergePlan, PartitionTask
from onerow.core.repairs import Intervention
from onerow.testing.conformance.harness import SPEC, VERSIONS

EXPECTED = Path(__file__).parent / "expected"
NAMES = Names("the-project", "nba", "onerow")
SCRATCH = TableName("the-project", "onerow", "scratch_0123_staged")
TURN = Turn("props run1.1 0123 #1", ("props run0.1 0123 #1",))
ODD_NAME = "o'neal \\ \"; COMMIT TRANSACTION; -- `x`"
ODD = f"{ODD_NAME}\nnext"


def types_of(spec, **changes):
    types = {column.name: bigquery_type(column.type) for column in spec.stored_columns}
    return tuple({**types, **changes}.items())


def prepared(spec, *tasks, types=None, lock_store="locks", batch="b1"):
    plan = MergePlan(
        spec=spec,
        batch=batch,
        consolidation="run1",
        attempt=1,
        holder="me",
        parts=(),
        tasks=tasks,
        lock_store=lock_store,
    )
    statements = Statements(spec, NAMES, types or types_of(spec), values_of(spec, plan.partitions), SCRATCH)
    return PreparedMerge(plan, statements, 1.5, Cost(4096, 70))


def task(partition, token=7):
    return PartitionTask(partition, ("part-1", "part-2"), 587, token)


def block_script():
    work = Intervention(SPEC, "2026-01-17", "g-1", 1, "me", "guarded", "backfill", 9, "locks")
    statements = Statements(SPEC, NAMES, types_of(SPEC), values_of(SPEC, ["2026-01-17"]))
    insert = check_statement("insert into nba.props (id, player) select 'x', 'y'").sql("bigquery")
    return InterventionSteps(statements, TURN, work).script([insert])


SCRIPTS = {
    "one_partition": lambda: MergeSteps(prepared(SPEC, task("2026-01-17")), TURN).script(),
    "two_partitions_without_a_lock": lambda: MergeSteps(
        prepared(SPEC, task("2026-01-17", None), task("2026-01-18", None), lock_store=None), TURN
    ).script(),
    "versions": lambda: VersionsSteps(prepared(VERSIONS, task("2026-01-17")), TURN).script(),
    "adopted_float_key": lambda: MergeSteps(
        prepared(SPEC, task("2026-01-17"), types=types_of(SPEC, line="FLOAT64")), TURN
    ).script(),
    "without_partitions": lambda: MergeSteps(
        prepared(replace(SPEC, partition=None), task(None)), TURN
    ).script(),
    "block": block_script,
    "odd_names": lambda: MergeSteps(
        prepared(replace(SPEC, name=ODD_NAME, partition="player"), task(ODD), batch=ODD), Turn(ODD)
    ).script(),
}


def statements_of(script):
    """Return the statements of a script as trees of the BigQuery dialect; none may be opaque."""
    trees = [tree for tree in sqlglot.parse(script, dialect="bigquery") if tree is not None]
    opaque = [tree for tree in trees if isinstance(tree, exp.Command)]
    assert not opaque, opaque
    return trees


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_word_for_word(name):
    path = EXPECTED / f"{name}.sql"
    script = SCRIPTS[name]()
    if os.environ.get("WRITE_EXPECTED"):
        path.write_text(script)
    assert script == path.read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_transaction_that_changes_the_guard_first(name):
    trees = statements_of(SCRIPTS[name]())
    begins = [place for place, tree in enumerate(trees) if isinstance(tree, exp.Transaction)]
    commits = [place for place, tree in enumerate(trees) if isinstance(tree, exp.Commit)]
    assert (len(begins), len(commits)) == (1, 1)
    before, inside, after = trees[: begins[0]], trees[begins[0] + 1 : commits[0]], trees[commits[0] + 1 :]
    assert isinstance(inside[0], exp.Update)
    assert inside[0].this.name.startswith("guards_")
    assert [type(tree) for tree in before if isinstance(tree, exp.DML)] == [exp.Update], "the claim alone"
    assert not [tree for tree in inside if isinstance(tree, exp.Create | exp.Drop | exp.Alter)]
    assert all(isinstance(tree, exp.Select) for tree in after)


@pytest.mark.parametrize("name", ["one_partition", "two_partitions_without_a_lock", "adopted_float_key", "versions"])
def test_every_read_and_change_of_the_target_names_its_partitions_by_constants(name):
    """A constant prunes partitions; a value of another table does not."""
    found = 0
    for tree in statements_of(SCRIPTS[name]()):
        for table in tree.find_all(exp.Table):
            if table.name != "props" or (isinstance(tree, exp.Insert) and table is tree.find(exp.Table)):
                continue
            found += 1
            scope = table.find_ancestor(exp.Select, exp.Merge)
            condition = scope.args.get("on") or scope.args.get("where")
            joins = [join.args.get("on") for join in scope.args.get("joins") or ()]
            text = " ".join(node.sql("bigquery") for node in (condition, *joins) if node is not None)
            assert "T.`game_date` = CAST('2026-01-17' AS DATE)" in text or "T.`game_date` IN (CAST('2026-01-17'" in text
    assert found >= 4


def test_a_key_that_stands_as_a_float_is_compared_as_a_number_with_digits():
    script = SCRIPTS["adopted_float_key"]()
    assert "CAST(T.`line` AS NUMERIC) IS NOT DISTINCT FROM S.`line`" in script
    assert "INT64)" not in script.split("MERGE `the-project`.`nba`.`props`")[1].split(";")[0]


def test_odd_names_stay_literals():
    """What people call their tables, batches and partitions is in the script as they call it, and nowhere else."""
    trees = statements_of(SCRIPTS["odd_names"]())
    literals = {literal.this for tree in trees for literal in tree.find_all(exp.Literal) if literal.is_string}
    assert {ODD, ODD_NAME} <= literals
    assert len(trees) == len(statements_of(SCRIPTS["one_partition"]()))


def test_a_run_without_a_lock_leaves_the_fence_alone():
    assert "fences_" not in SCRIPTS["two_partitions_without_a_lock"]()
    assert "fences_" in SCRIPTS["one_partition"]()


def test_a_part_manifest_is_not_in_the_script():
    """Thousands of parts make no longer script: they are named by the scratch table alone."""
    assert "part-1" not in SCRIPTS["one_partition"]()
