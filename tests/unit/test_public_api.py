"""What ``import onerow`` offers: append-only, typed, and quick."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

import pytest

import onerow

PUBLIC = {
    "BatchConsolidator", "BatchNotFoundError", "BatchStagingWriter", "CheckReport", "Column", "ConfigurationError",
    "ConflictError", "ConsolidationLock", "ConsolidationResult", "DataError", "DuplicatesError", "FencedError",
    "ForceRelease", "HeldLeases", "LeaseLostError", "LockAcquisitionError", "LockState", "OnerowError",
    "OutcomeUnknownError", "PartRefusedError", "PartitionResult", "PlanOutdatedError", "RepairPlan", "RepairResult",
    "Settings", "StagedPart", "StaleLeaseError", "Store", "TableSpec", "UsageError", "load_settings", "open",
}  # fmt: skip
"""Never remove a name; a new one is added here on purpose."""


def test_the_public_names():
    assert set(onerow.__all__) == PUBLIC
    assert list(onerow.__all__) == sorted(onerow.__all__)
    assert set(onerow.__all__) <= set(dir(onerow))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_there_and_documented(name):
    found = getattr(onerow, name)
    assert found.__module__.startswith("onerow.")
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_public_methods_are_documented(name):
    found = getattr(onerow, name)
    if not inspect.isclass(found) or issubclass(found, Exception):
        return
    for label, member in vars(found).items():
        if not label.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{name}.{label} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        onerow.nothing  # noqa: B018


def test_import_onerow_loads_no_driver():
    """The command line answers at once; drivers are imported when a store is opened."""
    code = "import sys, onerow; print(sorted({'duckdb', 'pyarrow', 'sqlglot', 'pydantic', 'sqlite3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_typed_and_its_version_is_the_packages():
    assert files("onerow").joinpath("py.typed").is_file()
    try:
        assert onerow.__version__ == version("onerow")
    except PackageNotFoundError:  # run from a checkout that is not installed
        assert onerow.__version__


def test_the_signatures_that_scripts_rely_on():
    def parameters(function):
        return {name: parameter.kind.name for name, parameter in inspect.signature(function).parameters.items()}

    assert parameters(onerow.Store.stage) == {
        "self": "POSITIONAL_OR_KEYWORD", "table": "POSITIONAL_OR_KEYWORD", "rows": "POSITIONAL_OR_KEYWORD",
        "batch": "KEYWORD_ONLY", "worker": "KEYWORD_ONLY",
    }  # fmt: skip
    found = parameters(onerow.Store.consolidate)
    assert {"partitions", "max_wait_s", "use_lock", "keep_staging"} <= {
        name for name, kind in found.items() if kind == "KEYWORD_ONLY"
    }
    assert list(found)[:3] == ["self", "table", "batch"]


def test_what_the_consolidate_command_prints_is_a_contract():
    result = onerow.ConsolidationResult("c1", "t", "b", "committed", (onerow.PartitionResult("2026-01-10", "committed"),))
    data = result.to_json()
    assert {"consolidation", "table", "batch", "status", "partitions", "error"} <= data.keys()
    assert {
        "partition", "status", "token", "attempts", "parts", "rows_staged", "rows_inserted", "rows_updated",
        "rows_unchanged", "rows_superseded", "lock_wait_s", "merge_s", "verify_s", "error",
    } <= data["partitions"][0].keys()  # fmt: skip


def test_the_names_of_the_incidents_own_system(bench):
    from support.bench import prediction

    with bench.open() as store:
        writer = onerow.BatchStagingWriter(store, "predictions")
        part = writer.write_to_staging([prediction()], "batch-1", "worker-1")
        assert (part.status, part.rows) == ("staged", 1)
        lock = onerow.ConsolidationLock(store, "predictions")
        consolidator = onerow.BatchConsolidator(store, "predictions")
        with lock.acquire("2026-01-10", "batch-0") as held:
            assert len(held.tokens) == 1
            with (
                pytest.raises(onerow.LockAcquisitionError),
                lock.acquire("2026-01-10", "batch-1", max_wait_seconds=0.0),
            ):
                pass
        kept = consolidator.consolidate_batch("batch-1", "2026-01-10", cleanup=False, use_lock=False)
        assert (kept.success, kept.rows_affected, kept.error_message, kept.parts_removed) == (True, 1, None, 0)
        assert consolidator.consolidate_batch("batch-1").parts_removed == 1


def test_two_stores_of_one_process_are_independent(bench):
    from support.bench import prediction

    with bench.open() as first, bench.open() as second:
        first.stage("predictions", [prediction()], batch="b")
        assert second.consolidate("predictions", "b").status == "committed"
        assert first.consolidate("predictions", "b").status == "already_merged"
