"""The error tree. Kinds and exit codes are append-only: other people's scripts compare them."""

from __future__ import annotations

import itertools

import pytest

import onerow.adapters.locks.sqlite
import onerow.adapters.staging.files
import onerow.adapters.warehouse.duckdb.warehouse
import onerow.faces.http.refusals  # noqa: F401 -- their own errors belong to the tree
from onerow import errors

KINDS = {
    "error": 1,
    "usage": 2,
    "configuration": 2,
    "not_installed": 2,
    "lock_store_mismatch": 2,
    "plan_outdated": 2,
    "holder_alive": 2,
    "data": 3,
    "input_file": 3,
    "part_refused": 3,
    "row_refused": 3,
    "part_misfit": 3,
    "duplicates": 3,
    "lock_timeout": 4,
    "warehouse_busy": 6,
    "conflict": 6,
    "retries_exhausted": 6,
    "fenced": 5,
    "lease_lost": 5,
    "stale_lease": 5,
    "outcome_unknown": 7,
    "verification": 1,
    "warehouse": 1,
    "hash_collision": 1,
    "lock_store": 1,
    "staging": 1,
    "part_gone": 1,
    "part_corrupt": 1,
    "batch_not_found": 1,
    "notifier": 1,
    "batch_conflict": 2,
    "part_not_staged": 2,
    "abandoned": 5,
    "request": 2,
    "not_found": 2,
    "unauthorized": 2,
    "forbidden": 2,
    "too_large": 2,
    "unsupported_media_type": 2,
    "slow_body": 2,
    "incomplete_body": 2,
    "too_many_requests": 2,
    "busy": 1,
}
"""Never change or remove a line. A new error adds one."""


def tree(root=errors.OnerowError):
    """Return every error of the product, the root first."""
    return [root, *itertools.chain.from_iterable(tree(child) for child in root.__subclasses__())]


def of_the_product():
    return [error for error in tree() if error.__module__.startswith("onerow.") and ".testing" not in error.__module__]


def test_the_list_of_kinds_is_complete_and_unchanged():
    found = {error.kind: error.exit_code for error in of_the_product()}
    lost = KINDS.keys() - found.keys()
    assert not lost, f"these kinds are gone, and scripts compare them: {lost}"
    new = {kind: code for kind, code in found.items() if kind not in KINDS}
    assert not new, f"append these kinds to the list: {new}"
    assert found == KINDS


def test_no_two_errors_share_a_kind():
    kinds = [error.kind for error in of_the_product()]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize("error", of_the_product(), ids=lambda error: error.__name__)
def test_an_error_is_named_for_what_it_is_and_says_what_to_do(error):
    assert error.__name__.endswith("Error")
    assert error.__doc__
    made = error("What happened.", hint="What to do.")
    assert made.message == "What happened."
    assert str(made) in {"What happened. What to do.", "What happened.\nWhat to do."}
    assert str(error("What happened.")) == "What happened."


def test_errors_are_grouped_by_what_their_handler_does():
    groups = {
        errors.UsageError: {errors.PlanOutdatedError},
        errors.ConfigurationError: {errors.NotInstalledError, errors.LockStoreMismatchError},
        errors.DataError: {errors.InputFileError, errors.PartRefusedError, errors.DuplicatesError},
        errors.FencedError: {errors.LeaseLostError, errors.StaleLeaseError},
        errors.StagingError: {errors.PartGoneError, errors.PartCorruptError},
    }
    for group, members in groups.items():
        assert members <= set(group.__subclasses__())
        for error in group.__subclasses__():
            assert error.exit_code == group.exit_code


def test_of_several_exit_codes_the_gravest_counts():
    assert errors.gravest([]) == 0
    assert errors.gravest([0, 4, 5]) == 5
    assert errors.gravest([0, 1, 3, 7]) == 7
    assert errors.gravest([0, 1, 3]) == 3
    codes = {error.exit_code for error in of_the_product()} | {0}
    assert codes == set(errors.GRAVITY)


def test_what_an_error_carries_for_programs():
    refused = errors.PartRefusedError("m", problems=["row 1"], problem_count=3)
    assert (refused.problems, refused.problem_count) == (("row 1",), 3)
    assert str(refused) == "m\n  row 1"
    double = errors.DuplicatesError("m", keys=["k=1"], partitions=[None])
    assert (double.keys, double.partitions) == (("k=1",), (None,))
    assert errors.StaleLeaseError("m", fence=7).fence == 7
    assert errors.BatchNotFoundError("m", near=["b1"]).near == ("b1",)
