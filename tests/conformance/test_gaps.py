"""The list of gaps is itself kept true."""

from __future__ import annotations

from conformance.backends import GAPS, LOCK_STORES, OF_THE_CATALOG, PART_STORES, WAREHOUSES, runs
from onerow.testing.conformance import lockstore, partstore, warehouse


def test_every_gap_names_a_backend_a_check_and_a_reason():
    backends = {*LOCK_STORES, *PART_STORES, *WAREHOUSES}
    checks = {check.__name__ for suite in (lockstore, partstore, warehouse) for check in suite.CHECKS}
    for (backend, check), reason in GAPS.items():
        assert backend in backends
        assert check in checks
        assert len(reason) > 20


def test_every_check_that_is_the_catalogs_is_there_and_all_others_run_everywhere():
    checks = {(check.__module__.rpartition(".")[2], check.__name__): check for check in warehouse.CHECKS}
    for module, names in OF_THE_CATALOG.items():
        for name in names or {name for found, name in checks if found == module}:
            assert runs("ducklake-postgresql", checks[module, name])
    assert {module for module, names in OF_THE_CATALOG.items() if names is None} <= {module for module, _ in checks}
    assert all(runs(backend, check) for backend in {*WAREHOUSES} - {"ducklake-postgresql"} for check in checks.values())


def test_no_two_checks_of_a_suite_have_one_name():
    for suite in (lockstore, partstore, warehouse):
        names = [check.__name__ for check in suite.CHECKS]
        assert len(set(names)) == len(names)
